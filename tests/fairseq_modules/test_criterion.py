"""The loss equals a plain computation on unpacked documents, and ids outside the loss do not change it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kosmos_plugin.fairseq_modules.criterion import MultimodalCrossEntropyCriterion
from tests import tiny

PAD = 1


@pytest.fixture(scope="module")
def setup(data):
    task = tiny.task(data)
    task.load_dataset("train")
    iterator = task.get_batch_iterator(task.dataset("train"), max_sentences=100)
    model = tiny.model(task)
    rows = iterator.micro_batches.rows(0)
    return task, model, rows, iterator.micro_batches[0], MultimodalCrossEntropyCriterion(task)


def plain_loss(task, model, rows):
    """Sum of nll and number of targets, one document at a time, without packing, from the logits of all positions."""
    total, count = torch.zeros(()), 0
    for row in rows:
        for sample in row.samples:
            images = [tiny.decode(image) for image in sample.images]
            logits, _ = model(
                torch.from_numpy(sample.tokens)[None],
                torch.ones(1, len(sample), dtype=torch.int64),
                torch.from_numpy(sample.image_slots)[None],
                torch.stack(images) if images else None,
            )
            targets = torch.from_numpy(sample.targets)
            total = total + F.cross_entropy(logits[0], targets, ignore_index=PAD, reduction="sum")
            count += int((targets != PAD).sum())
    return total, count


def gradients(model):
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def test_loss_and_gradients_equal_one_document_at_a_time(setup):
    task, model, rows, batch, criterion = setup
    loss, sample_size, _ = criterion(model, batch)
    (loss / sample_size).backward()
    packed = gradients(model)
    expected, count = plain_loss(task, model, rows)
    (expected / count).backward()
    plain = gradients(model)
    assert sample_size == count
    assert abs(loss / sample_size - expected / count) <= 1e-6
    assert packed.keys() == plain.keys()
    for name in packed:
        torch.testing.assert_close(packed[name], plain[name], atol=1e-6, rtol=1e-5, msg=name)


def test_streams_are_logged_over_their_own_targets(setup):
    task, model, rows, batch, criterion = setup
    _, sample_size, log = criterion(model, batch)
    for number, name in enumerate(task.stream_names):
        expected, count = plain_loss(task, model, [row for row in rows if row.stream == number])
        assert log[f"targets_{name}"] == count > 0
        torch.testing.assert_close(log[f"loss_{name}"], expected.detach(), rtol=1e-5, atol=1e-5)
    assert sum(int(log[f"targets_{name}"]) for name in task.stream_names) == sample_size
    assert log["images"] == sum(row.num_images for row in rows)


@pytest.mark.parametrize("where", ["slots", "padding"])
def test_ids_outside_the_loss_change_nothing(setup, where):
    task, model, _, batch, criterion = setup
    positions = batch["image_slots"] if where == "slots" else batch["document_ids"] == 0
    assert positions.any()
    changed = dict(batch, tokens=batch["tokens"].clone())
    changed["tokens"][positions] = torch.randint(4, len(task.vocabulary), (int(positions.sum()),))
    assert criterion(model, changed)[0] == criterion(model, batch)[0]


def test_a_document_changes_no_logit_of_another(setup):
    """If one token of a document is changed, the logits of every other document stay equal bit for bit."""
    _, model, rows, batch, _ = setup
    rng = np.random.default_rng(0)
    isolated = [b for b, row in enumerate(rows) if not row.cross_document_attention and len(row.samples) > 1]
    assert isolated
    inputs = {name: batch[name] for name in ("tokens", "document_ids", "image_slots", "images")}
    with torch.no_grad():
        before, _ = model(**inputs)
        for b in isolated:
            ids = batch["document_ids"][b]
            document = int(rng.choice(ids[ids > 0].unique()))
            own = ids == document
            position = int(rng.choice((own & ~batch["image_slots"][b]).nonzero()[:, 0]))
            tokens = batch["tokens"].clone()
            tokens[b, position] = (tokens[b, position] + 7) % 60 + 4
            after, _ = model(**{**inputs, "tokens": tokens})
            assert torch.equal(after[b][~own], before[b][~own])
            assert not torch.equal(after[b][own], before[b][own])


def test_full_sentence_rows_attend_across_documents(setup):
    task, model, rows, batch, _ = setup
    b = next(b for b, row in enumerate(rows) if row.cross_document_attention)
    ends = (batch["tokens"][b, : rows[b].num_tokens - 1] == task.vocabulary.eos).nonzero()[:, 0]
    assert len(ends), "the row has only one document"
    last = int(ends[-1]) + 1
    inputs = {name: batch[name] for name in ("tokens", "document_ids", "image_slots", "images")}
    with torch.no_grad():
        before, _ = model(**inputs)
        tokens = batch["tokens"].clone()
        tokens[b, 1] = (tokens[b, 1] + 7) % 60 + 4
        after, _ = model(**{**inputs, "tokens": tokens})
    own = slice(last, rows[b].num_tokens)
    assert not torch.equal(after[b, own], before[b, own])


def test_every_trainable_parameter_has_a_gradient_without_images(setup):
    _, model, _, batch, criterion = setup
    text = (batch["streams"] == 0).nonzero()[:, 0]
    without_images = {name: value[text] for name, value in batch.items() if name != "images"}
    model.train()
    loss, _, _ = criterion(model, {**without_images, "images": batch["images"][:0]})
    loss.backward()
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    found = gradients(model)
    model.eval()
    assert found.keys() == trainable
    assert not any(found[name].any() for name in found if name.startswith(("vision.", "resampler.")))
    assert all(found[name].isfinite().all() for name in found)


def test_a_row_of_padding_has_no_loss(setup):
    task, model, _, _, criterion = setup
    collate = task.get_batch_iterator(task.dataset("train"), max_sentences=100).micro_batches.collate
    model.train()
    loss, sample_size, log = criterion(model, collate([]))
    loss.backward()
    model.eval()
    assert (loss.item(), sample_size, log["images"]) == (0.0, 0, 0)
    found = gradients(model)
    assert found.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    assert not any(gradient.any() for gradient in found.values())


def test_the_gradients_of_an_infinite_loss_are_nan(setup):
    """So that the ranks' sum of gradients tells each of them about the loss."""
    _, _, _, batch, criterion = setup
    weight = torch.ones(3, requires_grad=True)
    for added, expected in ((0.0, torch.full((3,), 2.0)), (torch.inf, torch.full((3,), torch.nan))):

        def model(plan, added=added, **inputs):
            return 2 * weight.sum() + added, torch.zeros(plan["target_streams"].shape)

        loss, _, logging_output = criterion(model, batch)
        (gradient,) = torch.autograd.grad(loss, weight)
        torch.testing.assert_close(gradient, expected, rtol=0, atol=0, equal_nan=True)
        assert logging_output["loss"] == 6 + added
