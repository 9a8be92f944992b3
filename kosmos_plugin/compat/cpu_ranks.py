"""``torchrun`` with fairseq trains on GPUs only.

fairseq takes its number of ranks to be the number of local GPUs. ``infer_init_method`` returns early when that is
one, so the processes of torchrun silently become as many separate trainings (without GPUs, and on nodes with one
each); given ``--distributed-world-size`` on a machine without GPUs it divides by their number. Behind that,
``--ddp-backend pytorch_ddp`` places the model on a GPU by number, and ``all_gather_list`` gathers in CUDA memory.

Under torchrun the number of ranks is the one torchrun gives. Without GPUs the ranks talk over gloo; with GPUs
fairseq's own code does the rest.
"""

import atexit
import os

import torch
import torch.distributed as dist
from fairseq import utils
from fairseq.distributed import utils as distributed_utils
from fairseq.models import distributed_fairseq_model
from torch.nn.parallel import DistributedDataParallel

_infer_init_method = distributed_utils.infer_init_method
_all_gather_list = distributed_utils.all_gather_list


def is_needed() -> bool:
    # Whether there are GPUs is asked when a training starts: asking takes time that `import fairseq` should not.
    return True


def apply() -> None:
    distributed_utils.infer_init_method = infer_init_method
    distributed_utils.all_gather_list = all_gather_list
    distributed_fairseq_model.DistributedDataParallel = _DistributedDataParallel


def infer_init_method(cfg, force_distributed: bool = False) -> None:
    """fairseq's function of this name, for `cfg` of its `DistributedTrainingConfig`."""
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
    # fairseq never does. gloo's threads, if they still run, now and then abort the process at its end ("terminate
    # called without an active exception"), and torchrun reports that a finished training failed.
    if dist.is_initialized():
        dist.destroy_process_group()


def all_gather_list(data, group=None, max_size: int = 16384) -> list:
    """The `data` of every rank, in order of rank; what it needs in memory is limited to `max_size` on GPUs only."""
    if torch.cuda.is_available():
        return _all_gather_list(data, group=group, max_size=max_size)
    group = group or distributed_utils.get_global_group()
    gathered = [None] * distributed_utils.get_world_size(group)
    dist.all_gather_object(gathered, utils.move_to_cpu(data), group=group)
    return gathered


class _DistributedDataParallel(DistributedDataParallel):
    """Leaves out the GPU's number where the module is not on a GPU, as torch demands."""

    def __init__(self, module, device_ids=None, output_device=None, **options):
        if not any(parameter.is_cuda for parameter in module.parameters()):
            device_ids = output_device = None
        super().__init__(module, device_ids=device_ids, output_device=output_device, **options)
