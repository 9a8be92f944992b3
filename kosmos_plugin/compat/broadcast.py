"""Resuming on several ranks fails under torch 2.6 and newer.

fairseq's rank 0 reads the checkpoint and sends it to the others with ``broadcast_object``, where
``_broadcast_object_slow`` unpickles with ``torch.load`` and gets its new default ``weights_only=True``: fairseq's own
``_TensorPlaceholder``, which stands for each tensor, is refused. The bytes come from rank 0 of the own process group,
so torch's own object broadcast, which unpickles what that group sends, takes its place.
"""

import inspect

import torch
import torch.distributed as dist
from fairseq.distributed import utils as distributed_utils


def is_needed() -> bool:
    return "weights_only" not in inspect.getsource(distributed_utils._broadcast_object_slow)


def apply() -> None:
    distributed_utils._broadcast_object_slow = _broadcast_object_slow


def _broadcast_object_slow(obj, src_rank: int, group: dist.ProcessGroup, dist_device: torch.device):
    objects = [obj]
    dist.broadcast_object_list(objects, src=src_rank, group=group, device=dist_device)
    return objects[0]
