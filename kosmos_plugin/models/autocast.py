"""bfloat16 where it is asked for: products of matrices and attention, over weights that stay as they are."""

from contextlib import AbstractContextManager, nullcontext

import torch


def bfloat16_autocast(enabled: bool, device: torch.device) -> AbstractContextManager:
    """Autocast to bfloat16 on `device`, or nothing: what was chosen further out stays."""
    return torch.autocast(device.type, torch.bfloat16) if enabled else nullcontext()
