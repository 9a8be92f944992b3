"""A copy of a training's state in host memory, to be written while the training goes on."""

import mmap
from typing import Any

import torch
from fairseq import utils

LARGE = 1 << 20  # bytes from which a tensor gets memory of its own


def snapshot(state: dict[str, Any]) -> dict[str, Any]:
    """Copy a state: dicts, lists and tensors, those on the CPU too, since the training changes them in place.

    Tensors in 16 bits become float32, as in fairseq's `move_to_cpu`, so that a checkpoint does not depend on how it is
    written. What the state holds under several names, such as tied embeddings, is copied once.
    """
    copies: dict[tuple[Any, ...], torch.Tensor] = {}

    def copied(tensor: torch.Tensor) -> torch.Tensor:
        key = tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()
        if key not in copies:
            dtype = torch.float32 if tensor.dtype in (torch.bfloat16, torch.float16) else tensor.dtype
            copies[key] = _empty(tensor.shape, dtype).copy_(tensor.detach())
        return copies[key]

    try:
        return utils.apply_to_sample(copied, state)
    finally:
        copies.clear()  # fairseq's function leaves a reference cycle with `copied`, which would keep the copies


def _empty(shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    """Memory for a tensor, which is freed with it.

    Loader workers are forked while a snapshot exists. They would hold its memory for as long as they live, an epoch,
    after it has been written; so a large tensor's is not inherited.
    """
    size = shape.numel() * dtype.itemsize
    if size < LARGE or not hasattr(mmap, "MADV_DONTFORK"):
        return torch.empty(shape, dtype=dtype)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_DONTFORK)
    return torch.frombuffer(memory, dtype=dtype).view(shape)
