"""Mixed precision over weights that keep their dtype."""

from contextlib import AbstractContextManager, nullcontext

import torch


def bfloat16_autocast(enabled: bool, device: torch.device) -> AbstractContextManager:
    """Autocast to bfloat16 on `device` if `enabled`, else a no-op that leaves an outer autocast in force."""
    return torch.autocast(device.type, torch.bfloat16) if enabled else nullcontext()
