"""A copy of a training's state in host memory, to be written while the training goes on."""

from typing import Any

import torch
from fairseq import utils


def snapshot(state: dict[str, Any]) -> dict[str, Any]:
    """Copy a state: dicts, lists and tensors, those on the CPU too, since the training changes them in place.

    Tensors in 16 bits become float32, as in fairseq's `move_to_cpu`, so a checkpoint does not depend on how it was
    written. What the state holds under several names, such as tied embeddings, is copied once.
    """
    copies: dict[tuple[Any, ...], torch.Tensor] = {}

    def copied(tensor: torch.Tensor) -> torch.Tensor:
        key = tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()
        if key not in copies:
            dtype = torch.float32 if tensor.dtype in (torch.bfloat16, torch.float16) else tensor.dtype
            copies[key] = tensor.detach().to("cpu", dtype, copy=True)
        return copies[key]

    return utils.apply_to_sample(copied, state)
