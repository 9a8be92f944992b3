"""`--compile`: the same loss and gradients as without it, and no recompilation as batches vary."""

import pytest
import torch
from torch._dynamo.utils import counters

from kosmos_plugin.checkpoints.fairseq_checkpoint import new_checkpoint, write_fairseq
from kosmos_plugin.errors import UserError
from kosmos_plugin.fairseq_modules.criterion import MultimodalCrossEntropyCriterion
from kosmos_plugin.generation.generator import load
from tests import tiny


@pytest.fixture(scope="module")
def batches(data):
    """Batches with different numbers of rows, documents and images; one has only text."""
    task = tiny.task(data)
    task.load_dataset("train")
    iterator = task.get_batch_iterator(task.dataset("train"), max_sentences=100).micro_batches
    rows = [row for item in range(3) for row in iterator.rows(item)]
    text = [row for row in rows if row.num_images == 0]
    images = [row for row in rows if row.num_images > 0]
    chosen = [images[:2], images[2:5] + text[:1], images[1:2], text[:2], images, text[:1]]
    return task, [iterator.collate(rows) for rows in chosen]


def run(model, criterion, batch):
    model.zero_grad()
    loss, _, _ = criterion(model, batch)
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint_activations", ["none", "full"])
def test_same_results_and_no_recompilation(batches, checkpoint_activations):
    task, batches = batches
    criterion = MultimodalCrossEntropyCriterion(task)
    options = {"dropout": 0.0, "attention_dropout": 0.0, "checkpoint_activations": checkpoint_activations}
    plain = tiny.model(task, **options).train()
    compiled = tiny.model(task, **options, compile=True).train()
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    torch._dynamo.reset()
    for number, batch in enumerate(batches):
        # The first batch compiles everything; compiling a layer for the first time is not a recompilation.
        with torch._dynamo.config.patch(error_on_recompile=number > 0):
            found = run(compiled, criterion, batch)
        for one, other in zip(found, run(plain, criterion, batch), strict=True):
            torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-4)


def test_compiling_and_selective_checkpointing_exclude_each_other(batches):
    task, _ = batches
    with pytest.raises(UserError, match="none or full"):
        tiny.model(task, compile=True, checkpoint_activations="selective")


def test_a_model_trained_with_the_compiler_generates_without_it(batches, data, tmp_path):
    task, _ = batches
    config = tiny.model_config(data, compile=True)
    weights = tiny.model(task).state_dict()
    write_fairseq(
        new_checkpoint("kosmos_tiny", config, weights, str(data.parent / "vocabulary")), tmp_path / "model.pt"
    )
    kosmos = load(tmp_path / "model.pt")
    counters.clear()
    assert isinstance(kosmos.generate("the cat", max_new_tokens=3), str)
    assert not counters["stats"]
