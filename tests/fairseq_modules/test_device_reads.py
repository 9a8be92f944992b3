"""How often an update reads the device: twice, whatever the number of micro-batches.

A read waits until the GPU has done all that it was given. Forward and backward passes have none
(tests/models/test_batch_plan.py); here the rest of fairseq's update is watched, on the CPU.
"""

import weakref

import pytest
import torch
from fairseq import options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.trainer import Trainer
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from kosmos_plugin.fairseq_modules.criterion import MultimodalCrossEntropyCriterion
from tests import tiny

VALUES = {"item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__", "__format__"}


class DeviceReads(TorchFunctionMode):
    """Lists the methods that read a tensor, but not those of tensors that `cpu` returned, or that follow from them."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []
        self.on_host = weakref.WeakKeyDictionary()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = getattr(function, "__name__", "")
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        on_host = bool(given) and all(tensor in self.on_host for tensor in given)
        if not on_host and (name == "cpu" or name in VALUES):
            self.found.append(name)
        if on_host or name == "cpu":
            for tensor in tree_leaves(result):
                if isinstance(tensor, torch.Tensor):
                    self.on_host[tensor] = True
        return result


@pytest.mark.parametrize("precision", ["", "--bf16", "--bf16-autocast"])
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_an_update_reads_the_device_twice(data, tmp_path, precision, micro_batches):
    arguments = [
        str(data), *tiny.TRAIN_OPTIONS.split(), "--vision-model", str(data.parent / "clip.json"), *precision.split(),
        "--optimizer", "fused_adamw", "--clip-norm", "1.0", "--update-freq", str(micro_batches), "--num-workers", "0",
        "--save-dir", str(tmp_path),
    ]  # fmt: skip
    config = convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), arguments))
    task = tasks.setup_task(config.task)
    task.load_dataset("train")
    trainer = Trainer(config, task, task.build_model(config.model), MultimodalCrossEntropyCriterion(task))
    batches = trainer.get_train_iterator(1).next_epoch_itr()
    trainer.begin_epoch(1)
    for _ in range(2):  # in its first update the optimizer makes its state
        update = [next(batches) for _ in range(micro_batches)]
        with DeviceReads() as reads:
            assert trainer.train_step(update)["loss"] > 0
    assert reads.found == ["cpu", "tolist"], "the norm of the gradients, then all that is logged"
