"""`torchrun` with fairseq trains only on GPUs.

fairseq sets the number of ranks to the number of local GPUs. If that is at most one, `infer_init_method` returns early,
and the processes of torchrun silently become separate trainings; with `--distributed-world-size` on a machine without
GPUs it divides by zero. Further on, `--ddp-backend pytorch_ddp` moves the model to a GPU by number, and
`all_gather_list` gathers in CUDA memory.

With this patch the number of ranks is torchrun's. Without GPUs the ranks communicate over gloo; with GPUs fairseq's own
code does the rest.
"""

import atexit
import os
from typing import Any

import torch
import torch.distributed as dist
from fairseq import utils
from fairseq.distributed import utils as distributed_utils
from fairseq.models import distributed_fairseq_model
from torch.nn.parallel import DistributedDataParallel

_infer_init_method = distributed_utils.infer_init_method
_all_gather_list = distributed_utils.all_gather_list


def is_needed() -> bool:
    """Return True: fairseq always counts GPUs as ranks."""
    # Whether there are GPUs is checked only when a training starts: it would slow down `import fairseq`.
    return True


def apply() -> None:
    """Replace `infer_init_method`, `all_gather_list` and the DistributedDataParallel of fairseq."""
    distributed_utils.infer_init_method = infer_init_method
    distributed_utils.all_gather_list = all_gather_list
    distributed_fairseq_model.DistributedDataParallel = _DistributedDataParallel


def infer_init_method(cfg: Any, force_distributed: bool = False) -> None:
    """fairseq's function of this name; `cfg` is its `DistributedTrainingConfig`."""
    if cfg.distributed_init_method is None and not cfg.tpu and _under_torchrun():
        cfg.distributed_world_size = int(os.environ["WORLD_SIZE"])
        if not torch.cuda.is_available():
            cfg.distributed_init_method = "env://"
            cfg.distributed_rank = int(os.environ["RANK"])
            if cfg.distributed_backend == "nccl":
                cfg.distributed_backend = "gloo"
            cfg.distributed_no_spawn = True
            cfg.device_id = 0
            atexit.register(_leave_process_group)
            return
    _infer_init_method(cfg, force_distributed)


def _under_torchrun() -> bool:
    given = all(name in os.environ for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK"))
    return given and int(os.environ["WORLD_SIZE"]) > 1


def _leave_process_group() -> None:
    # fairseq never does. gloo's threads that still run can abort the process at its end ("terminate called without an
    # active exception"), and torchrun then reports that a completed training failed.
    if dist.is_initialized():
        dist.destroy_process_group()


def all_gather_list(data: Any, group: dist.ProcessGroup | None = None, max_size: int = 16384) -> list[Any]:
    """Gather the `data` of every rank, in order of rank; `max_size` (bytes) limits it only on GPUs."""
    if torch.cuda.is_available():
        return _all_gather_list(data, group=group, max_size=max_size)
    group = group or distributed_utils.get_global_group()
    gathered = [None] * distributed_utils.get_world_size(group)
    dist.all_gather_object(gathered, utils.move_to_cpu(data), group=group)
    return gathered


class _DistributedDataParallel(DistributedDataParallel):
    """Ignores the GPU's number for a module that is not on a GPU, as torch requires."""

    def __init__(
        self,
        module: torch.nn.Module,
        device_ids: list[int] | None = None,
        output_device: int | None = None,
        **options: Any,
    ):
        if not any(parameter.is_cuda for parameter in module.parameters()):
            device_ids = output_device = None
        super().__init__(module, device_ids=device_ids, output_device=output_device, **options)
