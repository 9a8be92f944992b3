"""Tensors that torch's FSDP2 divides among the ranks (DTensor). Other tensors pass through all of these as they are."""

from typing import Any

import torch


def is_divided(tensor: torch.Tensor) -> bool:
    """Whether this rank has a part of the tensor only."""
    return hasattr(tensor, "full_tensor")  # no isinstance: DTensor takes a second to import


def whole(tensor: Any) -> torch.Tensor:
    """The whole tensor. If it is divided, all ranks must ask for it."""
    return tensor.full_tensor() if is_divided(tensor) else tensor


def own_part(tensor: Any) -> torch.Tensor:
    """This rank's part, which shares the tensor's memory."""
    return tensor.to_local() if is_divided(tensor) else tensor


def divided_as(tensor: torch.Tensor, other: Any) -> torch.Tensor:
    """A tensor that every rank has whole, divided as `other` of the same shape is. Nothing is sent."""
    if not is_divided(other):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, other.device_mesh, other.placements, src_data_rank=None)
