"""The number of machines, from what each launcher says."""

import pytest
from fairseq.dataclass.configs import FairseqConfig
from omegaconf import OmegaConf

from kosmos_plugin.fairseq_modules.nodes import number_of_nodes

NAMES = ("LOCAL_WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_NNODES")


@pytest.mark.parametrize(
    "environment, ranks, nodes",
    [
        ({}, 1, 1),
        ({}, 8, 1),
        ({"LOCAL_WORLD_SIZE": "8"}, 8, 1),
        ({"LOCAL_WORLD_SIZE": "8"}, 64, 8),
        ({"LOCAL_WORLD_SIZE": "1"}, 3, 3),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "16", "SLURM_NNODES": "4"}, 16, 4),
        # one task a node, which starts torchrun
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_NNODES": "4", "LOCAL_WORLD_SIZE": "8"}, 32, 4),
        # a job of more tasks than this training has ranks
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_NNODES": "4"}, 1, 1),
    ],
)
def test_number_of_nodes(monkeypatch, environment, ranks, nodes):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert number_of_nodes(None, ranks) == nodes


def test_fairseq_starts_the_ranks(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    config = OmegaConf.structured(FairseqConfig)
    OmegaConf.set_struct(config, False)
    config.task = {"data": "data.yaml"}
    config.distributed_training.distributed_num_procs = 8
    assert number_of_nodes(config.task, 32) == 4
    assert number_of_nodes(config.task, 8) == 1
    config.distributed_training.distributed_num_procs = 0  # on CPUs
    assert number_of_nodes(config.task, 8) == 1
