"""`--compile`: the same loss and gradients as without it, and no recompilation as batches vary."""

import functools

import pytest
import torch
from torch._dynamo.utils import counters

from kosmos_plugin.checkpoints.fairseq_checkpoint import new_checkpoint, write_fairseq
from kosmos_plugin.errors import UserError
from kosmos_plugin.fairseq_modules.criterion import MultimodalCrossEntropyCriterion
from kosmos_plugin.generation.generator import load
from kosmos_plugin.models.batch_plan import BatchPlanner
from tests import tiny


@pytest.fixture(scope="module", params=["documents", "varlen"])
def batches(data, request):
    """Batches with different numbers of rows, documents and images; one has only text. Planned for CPUs or GPUs."""
    task = tiny.task(data)
    task.planner = BatchPlanner(request.param, task.vocabulary.pad, tiny.IMAGE_TOKENS)
    task.load_dataset("train")
    iterator = task.get_batch_iterator(task.dataset("train"), max_sentences=100).micro_batches
    rows = [row for item in range(3) for row in iterator.rows(item)]
    text = [row for row in rows if row.num_images == 0]
    images = [row for row in rows if row.num_images > 0]
    chosen = [images[:2], images[2:5] + text[:1], images[1:2], images, images[:1] + text[:2]]
    if request.param == "documents":
        chosen += [text[:2], text[:1]]
    return task, [iterator.collate(rows) for rows in chosen]


def run(model, criterion, batch):
    model.zero_grad()
    loss, _, _ = criterion(model, batch)
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint_activations", ["none", "full"])
def test_same_results_and_no_recompilation(batches, flash, checkpoint_activations):
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


@pytest.fixture
def graphs(monkeypatch):
    """What torch.compile does, without its slow last step; dynamo's counters."""
    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", functools.partialmethod(compile_module, backend="aot_eager"))
    torch._dynamo.reset()
    counters.clear()
    return counters


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint_activations", ["none", "full"])
def test_200_updates_compile_each_kind_of_layer_once(tmp_path, flash, graphs, caplog, checkpoint_activations):
    """A layer of the decoder, a frozen and a trained block of CLIP: three graphs, and nothing breaks one.

    Numbers of rows, documents, images and targets vary over several buckets each, and so does the longest document.
    """
    data = tiny.write_data(tmp_path / "data", sequences=(2, 9, 5))
    task = tiny.task(data, update_freq=2, tokens_per_sample=150)
    task.planner = BatchPlanner("varlen", task.vocabulary.pad, tiny.IMAGE_TOKENS)
    task.load_dataset("train")
    micro_batches = task.get_batch_iterator(task.dataset("train"), max_sentences=100).micro_batches
    options = {"dropout": 0.1, "attention_dropout": 0.1, "checkpoint_activations": checkpoint_activations}
    model = tiny.model(task, compile=True, **options).train()
    criterion = MultimodalCrossEntropyCriterion(task)
    caplog.set_level("INFO")
    buckets = [set() for _ in range(4)]
    for item in range(400):
        batch = micro_batches[item]
        plan = batch["plan"]
        sizes = (len(batch["tokens"]), len(batch["images"]), len(plan["targets"]), plan["attention"]["max_length"])
        for met, size in zip(buckets, sizes, strict=True):
            met.add(size)
        with torch._dynamo.config.patch(error_on_recompile=item > 1):
            criterion(model, batch)[0].backward()
    assert all(len(met) > 1 for met in buckets), buckets
    assert graphs["stats"]["unique_graphs"] == 3
    assert not graphs["graph_break"]
    assert caplog.text.count("The first update compiles the layers") == 1


def test_rows_of_text_alone_compile_once_and_again_for_a_single_row(data, flash, graphs):
    """Plain causal attention over whole rows. torch.compile treats a dimension of size 1 by itself."""
    task = tiny.task(data)
    vocabulary = task.vocabulary
    model = tiny.model(task, compile=True, attention_dropout=0.0, vision_encoder="none").train()
    planner = BatchPlanner("varlen", vocabulary.pad, 0)
    criterion = MultimodalCrossEntropyCriterion(task)
    for number, rows in enumerate((2, 1, 3, 1, 5, 2)):
        tokens = torch.randint(4, len(vocabulary), (rows, 64))
        batch = {
            "tokens": tokens,
            "targets": tokens.roll(-1, 1),
            "document_ids": torch.ones_like(tokens),
            "image_slots": torch.zeros(rows, 64, dtype=torch.bool),
            "images": torch.empty(0, 3, 32, 32, dtype=torch.uint8),
            "streams": torch.zeros(rows, dtype=torch.int64),
        }
        given = {name: batch[name] for name in ("document_ids", "image_slots", "targets", "streams")}
        batch["plan"] = planner(num_images=0, **given)
        with torch._dynamo.config.patch(error_on_recompile=number > 1):
            criterion(model, batch)[0].backward()
    assert not flash and not graphs["graph_break"]
    assert graphs["stats"]["unique_graphs"] == 2


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
