"""`--zero-sharding os` trains the same weights, bit for bit, with each moment on one rank only; resumed or not."""

import pytest
import torch

from tests.fairseq_modules.test_resume import Training, assert_same

# fairseq-train that prints, after the last update, how many elements of moments each rank has.
COUNTED = """
from fairseq.trainer import Trainer
from fairseq_cli import train


class CountedTrainer(Trainer):
    def train_step(self, samples, raise_oom=False):
        output = super().train_step(samples, raise_oom)
        held = getattr(self.optimizer.optimizer, "optim", self.optimizer.optimizer)
        moments = [state["exp_avg"].numel() for state in held.state.values()]
        print(f"rank {self.data_parallel_rank} has {sum(moments)} elements", flush=True)
        return output


train.Trainer = CountedTrainer
train.cli_main()
"""


class CountedTraining(Training):
    def __init__(self, data, folder, program, **options):
        super().__init__(data, folder, 2, **options)
        where = self.command.index("fairseq_cli.train")
        self.command[where - 1 : where + 1] = [str(program)]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", "fused_adamw"])
def test_a_sharded_optimizer_trains_the_same_weights(data, tmp_path, optimizer):
    program = tmp_path / "counted.py"
    program.write_text(COUNTED)
    options = {"optimizer": optimizer, "num-workers": 0}
    sharded = {**options, "zero-sharding": "os"}
    whole = Training(data, tmp_path / "whole", 2, **options).finish()
    once = CountedTraining(data, tmp_path / "once", program, **sharded).finish()
    assert_same(once, whole)
    # resumed without it, and then with it
    Training(data, tmp_path / "resumed", 2, **sharded, **{"max-update": 4}).finish()
    Training(data, tmp_path / "resumed", 2, **options, **{"max-update": 8}).finish()
    assert_same(Training(data, tmp_path / "resumed", 2, **sharded).finish(), whole)

    lines = set((tmp_path / "once" / "output.txt").read_text().splitlines())
    held = [next(line for line in lines if line.startswith(f"rank {rank} has")).split()[3] for rank in (0, 1)]
    moments = torch.load(tmp_path / "once" / "checkpoint_last.pt", weights_only=True)["last_optimizer_state"]["state"]
    everything = sum(state["exp_avg"].numel() for state in moments.values())
    assert sum(map(int, held)) == everything and max(map(int, held)) < 0.75 * everything
