"""The number of machines that a training runs on, as its launcher says."""

import os
from typing import Any

from kosmos_plugin.fairseq_modules.training_options import fairseq_config


def number_of_nodes(task: Any, ranks: int) -> int:
    """The number of machines.

    Args:
        task: The task's options, in fairseq's configuration if there is one.
        ranks: The number of ranks.
    """
    per_node: int | None = None
    if "LOCAL_WORLD_SIZE" in os.environ:  # torchrun's
        per_node = int(os.environ["LOCAL_WORLD_SIZE"])
    elif "SLURM_PROCID" in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) == ranks:  # srun's, one a rank
        per_node = -(-ranks // int(os.environ.get("SLURM_NNODES", "1")))
    elif (config := fairseq_config(task)) is not None:  # fairseq's own launcher starts so many on each machine
        per_node = config.distributed_training.distributed_num_procs
    return max(ranks // (per_node or ranks), 1)
