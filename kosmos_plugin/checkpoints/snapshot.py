"""A copy of a training's state in host memory, to be written while the training goes on."""

import mmap
from typing import Any

import torch
from fairseq import utils

from kosmos_plugin.divided_tensors import own_part, whole

LARGE = 1 << 20  # bytes from which a tensor gets memory of its own


def snapshot(state: dict[str, Any], keep: bool = True) -> dict[str, Any]:
    """Copy a state: dicts, lists and tensors, those on the CPU too, since the training changes them in place.

    Tensors in 16 bits become float32, as in fairseq's `move_to_cpu`, so that a checkpoint does not depend on how it is
    written. What the state holds under several names, such as tied embeddings, is copied once.

    Args:
        state: The state. If it has tensors that are divided among ranks, all ranks must call this.
        keep: Whether this rank wants the copy; others only give their parts of divided tensors.
    """
    copies: dict[tuple[Any, ...], torch.Tensor] = {}

    def copied(tensor: torch.Tensor) -> torch.Tensor:
        key = _memory_of(tensor), tensor.dtype, tensor.shape
        if key not in copies:
            found = whole(tensor.detach())
            dtype = torch.float32 if tensor.dtype in (torch.bfloat16, torch.float16) else tensor.dtype
            copies[key] = _empty(tensor.shape, dtype).copy_(found) if keep else torch.empty(0)
        return copies[key]

    try:
        return utils.apply_to_sample(copied, state)
    finally:
        copies.clear()  # fairseq's function leaves a reference cycle with `copied`, which would keep the copies


def _memory_of(tensor: torch.Tensor) -> tuple[Any, ...]:
    """The same for tensors that share their elements, and on every rank for the same ones, also for empty parts."""
    part = own_part(tensor)
    return part.untyped_storage()._cdata, part.storage_offset(), part.stride()


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
