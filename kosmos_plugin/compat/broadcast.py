"""Resuming on several ranks fails under torch 2.6 and newer.

fairseq's rank 0 reads the checkpoint and sends it to the other ranks with `broadcast_object`. There,
`_broadcast_object_slow` unpickles with `torch.load`, whose default is now `weights_only=True`, and which then refuses
fairseq's `_TensorPlaceholder`. This patch uses torch's own object broadcast. It unpickles without that restriction,
but only what rank 0 of the same process group has sent.
"""

import inspect
from typing import Any

import torch
import torch.distributed as dist
from fairseq.distributed import utils as distributed_utils


def is_needed() -> bool:
    """Whether fairseq unpickles broadcasts with the default of `torch.load`."""
    return "weights_only" not in inspect.getsource(distributed_utils._broadcast_object_slow)


def apply() -> None:
    """Replace `distributed_utils._broadcast_object_slow`."""
    distributed_utils._broadcast_object_slow = _broadcast_object_slow


def _broadcast_object_slow(obj: Any, src_rank: int, group: dist.ProcessGroup, dist_device: torch.device) -> Any:
    objects = [obj]
    dist.broadcast_object_list(objects, src=src_rank, group=group, device=dist_device)
    return objects[0]
