"""Overflows of --fp16: fairseq's loss scaler lowers its scale, and the update counts.

fairseq-train refuses --fp16 without a GPU, but its trainer and its optimizers compute in float16 on the CPU, too.
"""

import math

import pytest
import torch
from fairseq import options, tasks, utils
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.trainer import Trainer
from omegaconf import open_dict

from kosmos_plugin.errors import UserError
from kosmos_plugin.fairseq_modules.criterion import MultimodalCrossEntropyCriterion
from tests import tiny


class Training:
    """A training in this process by fairseq's trainer; options of fairseq-train, without --fp16."""

    def __init__(self, data, *given: object, memory_efficient: bool = False):
        arguments = [
            data, *tiny.TRAIN_OPTIONS.split(), "--vision-model", data.parent / "clip.json", "--num-workers", 0, "--cpu",
            "--fp16-no-flatten-grads", "--clip-norm", 1, "--lr", 1e-4, *given,
        ]  # fmt: skip
        config = options.parse_args_and_arch(options.get_training_parser(), list(map(str, arguments)))
        self.config = convert_namespace_to_omegaconf(config)
        self.task = tasks.setup_task(self.config.task)
        with open_dict(self.config):
            self.config.common.fp16 = True
            self.config.common.memory_efficient_fp16 = memory_efficient
        self.task.load_dataset("train")
        utils.set_torch_seed(1)
        model = self.task.build_model(self.config.model)
        self.trainer = Trainer(self.config, self.task, model, MultimodalCrossEntropyCriterion(self.task))
        self.epoch = self.trainer.get_train_iterator(1)
        self.batches = self.epoch.next_epoch_itr()
        self.trainer.begin_epoch(1)

    def update(self) -> bool:
        """Train on the next batch; return whether the weights have changed."""
        before = [parameter.clone() for parameter in self.trainer.get_model().parameters()]
        self.trainer.train_step([next(self.batches)])
        return any(
            not torch.equal(one.nan_to_num(), other.nan_to_num())
            for one, other in zip(before, self.trainer.get_model().parameters(), strict=True)
        )

    @property
    def scale(self) -> float:
        return self.trainer.optimizer.scaler.loss_scale


@pytest.mark.parametrize("optimizer", ["adam", "fused_adamw"])
@pytest.mark.parametrize("memory_efficient", [False, True])
def test_overflows_count_as_updates(data, optimizer, memory_efficient):
    if memory_efficient and optimizer == "fused_adamw":
        pytest.skip("fused_adamw has no memory-efficient mode")
    options = ("--fp16-init-scale", 2**14, "--optimizer", optimizer)
    training = Training(data, *options, memory_efficient=memory_efficient)
    changed = []
    for update in range(1, 11):
        scale = training.scale
        changed.append(training.update())
        assert training.trainer.get_num_updates() == training.epoch.updates_done == update
        assert training.scale == (scale if changed[-1] else scale / 2)
    assert not changed[0] and changed[-1], "the scale falls until nothing overflows"
    assert training.task.update_checks.skipped == 0


def test_a_scale_that_cannot_fall_further(data):
    training = Training(data, "--fp16-init-scale", 2**24, "--min-loss-scale", 2**22)
    with pytest.raises(UserError) as stopped:
        for _ in range(5):
            training.update()
    message = str(stopped.value)
    assert message.startswith("Update 2: gradients are NaN or infinite even with the lowest loss scale")
    assert "Without a scale they are finite: give a lower --min-loss-scale." in message


def test_what_is_bad_without_a_scale_is_named(data):
    """It is not for the loss scaler to answer."""
    training = Training(data, "--fp16-init-scale", 8, "--max-skipped-updates", 1)
    assert training.update()
    with torch.no_grad():
        training.trainer.get_model().decoder.layer_norm.weight[0] = math.nan
    assert not training.update()
    with pytest.raises(UserError) as stopped:
        training.update()
    message = str(stopped.value)
    assert message.startswith("Update 3: its loss is nan, and --max-skipped-updates 1 allows no more")
    assert "weights were NaN or infinite before this update: decoder.layer_norm.weight." in message
    assert "stream text: words/" in message
