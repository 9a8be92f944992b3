"""Which attention a training gets, and that its batches come with their plan."""

import itertools
import types

import pytest
import torch

from kosmos_plugin.errors import UserError
from kosmos_plugin.fairseq_modules import planner
from kosmos_plugin.fairseq_modules.criterion import read_at_once
from tests import tiny


def options(**changed):
    """The task's options as fairseq resolves them."""
    return types.SimpleNamespace(**{"cpu": False, "fp16": False, "bf16": False, "amp": False, **changed})


@pytest.fixture
def gpu(monkeypatch):
    """A machine with an Ampere GPU, as far as the choice can see."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A GPU")


@pytest.mark.parametrize(
    ("attention", "changed", "expected"),
    [
        ("auto", {"bf16": True}, "varlen"),
        ("auto", {"fp16": True}, "varlen"),
        ("auto", {"amp": True}, "varlen"),
        ("varlen", {"bf16": True}, "varlen"),
        ("documents", {"bf16": True}, "documents"),
        ("masked", {"bf16": True}, "masked"),
        ("auto", {"bf16": True, "cpu": True}, "documents"),
    ],
)
def test_on_a_gpu(task, gpu, caplog, attention, changed, expected):
    chosen = planner.planner_for(tiny.model(task, attention=attention), 1, options(**changed))
    assert (chosen.attention, chosen.pad, chosen.image_tokens) == (expected, 1, tiny.IMAGE_TOKENS)
    assert not [record for record in caplog.records if record.name == planner.__name__]


def test_autocast_counts_as_half_precision(task, gpu):
    assert planner.planner_for(tiny.model(task, bf16_autocast=True), 1, options()).attention == "varlen"


def test_a_model_of_text_gets_no_blank_images(task, gpu):
    model = tiny.model(task, vision_encoder="none")
    assert planner.planner_for(model, 1, options(bf16=True)).padded_images(0) == 0


def test_a_gpu_that_cannot_says_so_once(task, gpu, caplog):
    chosen = planner.planner_for(tiny.model(task), 1, options())
    assert chosen.attention == "documents"
    [message] = [record.getMessage() for record in caplog.records if record.name == planner.__name__]
    assert "--bf16" in message


def test_a_cpu_says_nothing(task, caplog):
    assert planner.planner_for(tiny.model(task), 1, options(bf16=True)).attention == "documents"
    assert not [record for record in caplog.records if record.name == planner.__name__]


@pytest.mark.parametrize("cpu", [False, True])
def test_asking_for_what_cannot_be_computed(task, cpu):
    with pytest.raises(UserError, match="--attention varlen cannot be computed here: it runs on GPUs only"):
        planner.planner_for(tiny.model(task, attention="varlen"), 1, options(bf16=True, cpu=cpu))


def test_a_training_s_batches_come_with_their_plan(data, tmp_path, monkeypatch):
    """Through the literal fairseq-train, with worker processes."""
    found = []
    forward = planner.Kosmos.forward

    def watched(self, *arguments, plan=None, **options):
        found.append(plan)
        return forward(self, *arguments, plan=plan, **options)

    monkeypatch.setattr(planner.Kosmos, "forward", watched)
    tiny.train(data, tmp_path, "--cpu", "--num-workers", "1", "--max-update", "2")
    assert len(found) >= 3 and all(plan["num_targets"] > 0 for plan in found)


def test_all_logged_numbers_are_read_at_once(monkeypatch):
    reads = []
    for name in ("tolist", "item", "__float__", "__int__", "__bool__"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda self, name=name, original=original: reads.append(name) or original(self)
        )
    numbers = itertools.count()
    logs = [{"loss": torch.tensor(float(next(numbers))), "count": next(numbers)} for _ in range(4)]
    assert read_at_once(logs) == [{"loss": 2.0 * i, "count": 2 * i + 1} for i in range(4)]
    assert reads == ["tolist"]
    assert read_at_once([{"count": 1}]) == [{"count": 1}]
    assert reads == ["tolist"]
