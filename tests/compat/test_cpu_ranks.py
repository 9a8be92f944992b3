"""torchrun trains one model on CPUs: fairseq-train with one of fairseq's own models on two gloo ranks."""

import json
from pathlib import Path

import pytest
import torch

# fairseq-train that saves the weights of every rank; fairseq itself saves only rank 0's.
TRAIN_AND_KEEP_EVERY_RANK = """
import atexit
import os

import torch
from fairseq.trainer import Trainer
from fairseq_cli import train


class KeepingTrainer(Trainer):
    def train_step(self, samples, raise_oom=False):
        output = super().train_step(samples, raise_oom)
        rank = self.data_parallel_rank
        torch.save(self.model.state_dict(), os.path.join(self.cfg.checkpoint.save_dir, f"of_rank_{rank}.pt"))
        return output


train.Trainer = KeepingTrainer
# registered before the plugin's own handler, so it runs after it; one write, as two ranks share the output
atexit.register(lambda: os.write(1, f"group left: {not torch.distributed.is_initialized()}\\n".encode()))
train.cli_main()
"""


def words_per_batch(output: str) -> float:
    logged = [json.loads(line[line.index("{") :]) for line in output.splitlines() if '"train_wpb"' in line]
    return float(logged[-1]["train_wpb"])


def parameters_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["model"]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["legacy_ddp", "pytorch_ddp"])
def test_two_ranks_are_one_training(backend, train, trained_on_one_rank, tmp_path):
    program = tmp_path / "train_and_keep.py"
    program.write_text(TRAIN_AND_KEEP_EVERY_RANK)
    folder = tmp_path / "checkpoints"
    output = train(folder, "--max-update", "4", "--ddp-backend", backend, ranks=2, program=(str(program),))

    assert output.count("group left: True") == 2
    # two ranks with one batch each make the same update as one process with two batches
    one_rank, output_of_one_rank = trained_on_one_rank
    assert words_per_batch(output) == words_per_batch(output_of_one_rank)
    together = parameters_of(folder / "checkpoint_last.pt")
    torch.testing.assert_close(together, parameters_of(one_rank / "checkpoint_last.pt"), rtol=0, atol=1e-5)
    for rank in (0, 1):
        torch.testing.assert_close(torch.load(folder / f"of_rank_{rank}.pt"), together, rtol=0, atol=0)


def test_gathers_what_the_ranks_log(run_python, tmp_path):
    """The trainer gathers the logs of a criterion that cannot be summed; fairseq does so in CUDA memory."""
    program = tmp_path / "gather.py"
    program.write_text(
        "import torch, torch.distributed as dist\n"
        "import kosmos_plugin\n"
        "from fairseq.distributed import utils\n"
        "dist.init_process_group('gloo')\n"
        "mine = {'rank': dist.get_rank(), 'loss': torch.full((9000,), float(dist.get_rank()))}\n"
        "first, second = utils.all_gather_list(mine)\n"
        "assert (first['rank'], second['rank']) == (0, 1)\n"
        "assert torch.equal(second['loss'], torch.ones(9000))\n"
        "dist.destroy_process_group()\n"
    )
    run_python(str(program), ranks=2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_leaves_gpus_to_fairseq(monkeypatch):
    from fairseq.dataclass.configs import DistributedTrainingConfig
    from fairseq.distributed import utils

    import kosmos_plugin  # noqa: F401

    launched = {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500", "WORLD_SIZE": "2", "RANK": "0"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    cfg = DistributedTrainingConfig(distributed_world_size=2)
    utils.infer_init_method(cfg)
    assert cfg.distributed_backend == "nccl"
    assert cfg.distributed_init_method == "env://"
