"""`--fully-shard` trains the same weights with a part of them on each rank, and its checkpoints are whole."""

import json
import math
import os
import signal

import pytest
import torch

from kosmos_plugin.errors import UserError
from tests import tiny
from tests.fairseq_modules.test_sharded_optimizer import CountedTraining
from tests.training_run import UPDATES, Training, assert_same

# fairseq-train that notes, after each update, how many elements a rank has of weights, gradients and moments.
COUNTED = """
import json
from pathlib import Path
from fairseq.trainer import Trainer
from fairseq_cli import train
from kosmos_plugin.divided_tensors import own_part


class CountedTrainer(Trainer):
    def train_step(self, samples, raise_oom=False):
        output = super().train_step(samples, raise_oom)
        trained = [weight for group in self.optimizer.optimizer.param_groups for weight in group["params"]]
        counted = {
            "weights": trained,
            "gradients": [weight.grad for weight in trained],
            "moments": [state["exp_avg"] for state in self.optimizer.optimizer.state.values()],
        }
        counts = {name: sum(own_part(tensor).numel() for tensor in tensors) for name, tensors in counted.items()}
        with open(Path(self.cfg.checkpoint.save_dir) / f"counts{self.data_parallel_rank}.txt", "a") as file:
            file.write(json.dumps(counts) + "\\n")
        return output


train.Trainer = CountedTrainer
train.cli_main()
"""
SHARDED = {"fully-shard": True, "optimizer": "fused_adamw"}
UNDIVIDED = {"optimizer": "fused_adamw"}


def assert_close(one: Training, other: Training, tolerance: float = 1e-5) -> None:
    """Equal up to the order in which sums over ranks are added."""
    assert one.update_reached() == other.update_reached() == UPDATES
    weights, others = one.last(), other.last()
    torch.testing.assert_close(weights["model"], others["model"], atol=tolerance, rtol=0)
    moments, other_moments = (each["last_optimizer_state"]["state"] for each in (weights, others))
    torch.testing.assert_close(moments, other_moments, atol=tolerance, rtol=1e-2)


def test_each_rank_has_a_part_and_the_checkpoint_all(data, tmp_path):
    program = tmp_path / "counted.py"
    program.write_text(COUNTED)
    sharded = CountedTraining(data, tmp_path / "sharded", program, **SHARDED, **{"update-freq": 2})
    assert_close(sharded.finish(), Training(data, tmp_path / "whole", 2, **UNDIVIDED, **{"update-freq": 2}).finish())
    moments = sharded.last()["last_optimizer_state"]["state"]
    trained = sum(state["exp_avg"].numel() for state in moments.values())
    for rank in range(2):
        lines = (sharded.folder / f"counts{rank}.txt").read_text().splitlines()
        assert len(lines) == UPDATES
        for line in lines:
            for count in json.loads(line).values():
                assert count == pytest.approx(trained / 2, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bf16": True, "async-save": True},
        {"bf16-autocast": True, "checkpoint-activations": "selective", "frozen-vision-dtype": "bfloat16"},
        {"compile": True, "checkpoint-activations": "full"},
        {"trainable-vision-layers": 2, "untied-embeddings": True},
    ],
    ids=lambda options: " ".join(options) or "float32",
)
def test_a_resumed_run_is_an_uninterrupted_one(data, tmp_path, options):
    once = Training(data, tmp_path / "once", 2, **SHARDED, **options).finish()
    Training(data, tmp_path / "twice", 2, **SHARDED, **options, **{"max-update": 5}).finish()
    assert_same(Training(data, tmp_path / "twice", 2, **SHARDED, **options).finish(), once)


@pytest.mark.slow
def test_from_and_to_a_training_that_is_not_divided(data, tmp_path):
    """On three ranks, so that parts have different sizes."""
    whole = Training(data, tmp_path / "whole", 3, **UNDIVIDED).finish()
    for first, then in ((SHARDED, UNDIVIDED), (UNDIVIDED, SHARDED)):
        folder = tmp_path / ("from" if first is SHARDED else "to")
        Training(data, folder, 3, **first, **{"max-update": 6}).finish()
        assert_close(Training(data, folder, 3, **then).finish(), whole)


@pytest.mark.slow
def test_an_adapter_of_a_divided_model(data, tmp_path):
    base = Training(data, tmp_path / "base", 1, **UNDIVIDED, **{"max-update": 2}).finish()
    lora = {"lora-rank": 4, "lora-base": base.folder / "checkpoint_last.pt"}
    whole = Training(data, tmp_path / "whole", 2, **UNDIVIDED, **lora).finish()
    Training(data, tmp_path / "sharded", 2, **SHARDED, **lora, **{"max-update": 5}).finish()
    assert_close(Training(data, tmp_path / "sharded", 2, **SHARDED, **lora).finish(), whole)


@pytest.mark.slow
def test_stopped_by_a_signal_with_validation_and_a_save_of_nothing(data, tmp_path):
    """At the end of an epoch nothing is written, which the ranks without files must not wait for."""
    options = {"valid-subset": "valid", "validate-interval-updates": 4, "no-epoch-checkpoints": True}
    once = Training(data, tmp_path / "once", 2, **SHARDED, **options).finish()
    nothing = {"no-last-checkpoints": True, "save-interval-updates": 0, "disable-validation": True}
    Training(data, tmp_path / "nothing", 2, **SHARDED, **{**options, **nothing}).finish()
    assert not list((tmp_path / "nothing").glob("*.pt"))
    stopped = Training(data, tmp_path / "stopped", 2, **SHARDED, **options)
    process = stopped.start()
    stopped.wait_for(lambda: stopped.reached(5), process)
    os.kill(stopped.ranks()[1], signal.SIGUSR1)
    assert process.wait(timeout=120) == 0
    assert stopped.update_reached() < UPDATES
    assert_same(stopped.finish(), once)


@pytest.mark.slow
def test_an_update_with_bad_numbers_is_skipped_on_all_ranks(data, tmp_path):
    options = {**SHARDED, "untied-embeddings": True, "max-skipped-updates": 20}
    training = Training(data, tmp_path, 2, **options, **{"max-update": 3}).finish()
    state = training.last()
    state["model"]["decoder.layers.1.ffn.fc1.weight"][0] = math.nan
    torch.save(state, tmp_path / "checkpoint_last.pt")
    Training(data, tmp_path, 2, **options, **{"max-update": 5}).finish()
    assert "Update 5 is skipped: its loss is nan (2 of" in training.output()
    assert "weights were NaN or infinite before this update: decoder.layers.1.ffn.fc1.weight." in training.output()

    state["model"]["decoder.layers.1.ffn.fc1.weight"][0] = 1e30  # finite, and its products are not
    torch.save(state, tmp_path / "checkpoint_last.pt")
    Training(data, tmp_path, 2, **options, **{"max-update": 4}).finish()
    message = (
        "with --fully-shard the documents are not looked for; kosmos-inspect shows the micro-batches with --update 3"
    )
    assert f"{message} --ranks 2 --update-freq 1" in training.output()


@pytest.mark.parametrize(
    "options, reason",
    [
        (("--optimizer", "fused_adamw"), "there is only one"),
        (("--optimizer", "adam"), "needs --optimizer fused_adamw, not adam"),
        (("--optimizer", "fused_adamw", "--amp"), "--amp does not go with --fully-shard: give --bf16-autocast"),
        (("--optimizer", "fused_adamw", "--store-ema"), "an EMA needs the whole weights"),
        (("--optimizer", "fused_adamw", "--zero-sharding", "os"), "the optimizer's state is divided, too"),
    ],
)
def test_what_does_not_go_with_it_is_refused(data, tmp_path, options, reason):
    with pytest.raises(UserError, match=reason):
        tiny.train(data, tmp_path, "--cpu", "--num-workers", "0", "--max-update", "1", "--fully-shard", *options)
