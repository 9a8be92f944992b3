"""Rows → tensors: keys, shapes and types, document borders, and samples whose image is broken."""

import io
import random

import numpy as np
import PIL.Image
import pytest
import torch

from kosmos_plugin.data.batch import Collator
from kosmos_plugin.data.documents import Document, Image, Text
from kosmos_plugin.data.packing import PackedRow
from kosmos_plugin.data.samples import SampleBuilder
from kosmos_plugin.data.skips import SkipCounter
from kosmos_plugin.images import DECODINGS, FITS, decode_image
from tests import tiny

WIDTH, SIZE, SLOTS = 40, 32, 3


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    return tiny.write_vocabulary(tmp_path_factory.mktemp("batch") / "vocabulary")


@pytest.fixture
def skips():
    return SkipCounter(1.0)


@pytest.fixture
def collate(vocabulary, skips):
    return Collator(vocabulary, WIDTH, SIZE, skips)


def image(seed):
    data = tiny.png(random.Random(seed), 20 + seed)
    return Image(lambda: data)


@pytest.fixture
def make(vocabulary):
    def make(name, *segments):
        return SampleBuilder(vocabulary, SLOTS, WIDTH).sample(Document(name, segments))

    return make


@pytest.fixture
def rows(make):
    """Two captions; text; a page of two images and a caption."""
    return [
        PackedRow(1, False, (make("a", image(1), Text("a dog")), make("b", image(2), Text("the cat")))),
        PackedRow(0, True, (make("c", Text("the red dog sleeps")), make("d", Text("a boat")))),
        PackedRow(2, False, (make("e", Text("see"), image(3), Text("and"), image(4)), make("f", image(5), Text("a")))),
    ]


def test_keys_shapes_and_types(collate, rows):
    batch = collate(rows)
    expected = {
        "tokens": (torch.int64, (3, WIDTH)),
        "targets": (torch.int64, (3, WIDTH)),
        "document_ids": (torch.int64, (3, WIDTH)),
        "image_slots": (torch.bool, (3, WIDTH)),
        "images": (torch.uint8, (5, 3, SIZE, SIZE)),
        "streams": (torch.int64, (3,)),
    }
    assert {key: (value.dtype, tuple(value.shape)) for key, value in batch.items()} == expected
    assert batch["streams"].tolist() == [1, 0, 2]


def test_samples_follow_each_other(collate, rows, vocabulary):
    batch = collate(rows)
    for b, row in enumerate(rows):
        used = row.num_tokens
        assert batch["tokens"][b, :used].tolist() == np.concatenate([s.tokens for s in row.samples]).tolist()
        assert batch["targets"][b, :used].tolist() == np.concatenate([s.targets for s in row.samples]).tolist()
        assert batch["image_slots"][b, :used].tolist() == np.concatenate([s.image_slots for s in row.samples]).tolist()
        assert (batch["tokens"][b, used:] == vocabulary.pad).all()
        assert (batch["targets"][b, used:] == vocabulary.pad).all()
        assert not batch["image_slots"][b, used:].any()
        assert (batch["document_ids"][b, used:] == 0).all()
        assert (batch["document_ids"][b, :used] > 0).all()


def test_images_in_the_order_of_their_slots(collate, rows):
    batch = collate(rows)
    assert batch["image_slots"].sum() == SLOTS * len(batch["images"])
    for number, seed in enumerate((1, 2, 3, 4, 5)):
        assert torch.equal(batch["images"][number], decode_image(image(seed).read(), SIZE))


def test_document_ids(collate, rows):
    batch = collate(rows)
    for b, row in enumerate(rows):
        ids = batch["document_ids"][b]
        spans = np.split(ids[: row.num_tokens].numpy(), np.cumsum([len(sample) for sample in row.samples])[:-1])
        kinds = [set(span.tolist()) for span in spans]
        assert all(len(kind) == 1 for kind in kinds)
        # all documents attend to each other, or each only to itself
        assert len(set.union(*kinds)) == (1 if row.cross_document_attention else len(row.samples))


@pytest.mark.parametrize("cross", [True, False])
def test_document_ids_of_a_row_that_begins_within_a_document(collate, make, vocabulary, cross):
    whole = make("", Text("the red dog sleeps under a tree"))
    tail = type(whole)("", whole.tokens[3:], whole.targets[3:], whole.image_slots[3:])
    ids = collate([PackedRow(0, cross, (tail, whole))])["document_ids"][0].tolist()
    first, second, rest = set(ids[: len(tail)]), set(ids[len(tail) : len(tail) + len(whole)]), set(ids[-5:])
    assert len(first) == len(second) == 1 and rest == {0} and 0 not in first | second
    assert (first == second) is cross


@pytest.mark.parametrize("decoding", DECODINGS)
@pytest.mark.parametrize("fit", FITS)
def test_options_of_decoding(make, vocabulary, skips, fit, decoding):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (150, 200, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(buffer, "JPEG")
    rows = [PackedRow(1, False, (make("a", Image(buffer.getvalue), Text("a dog")),))]
    batch = Collator(vocabulary, WIDTH, SIZE, skips, fit, decoding)(rows)
    assert torch.equal(batch["images"][0], decode_image(buffer.getvalue(), SIZE, fit, decoding))
    others = [decode_image(buffer.getvalue(), SIZE, f, d) for f in FITS for d in DECODINGS if (f, d) != (fit, decoding)]
    assert not any(torch.equal(batch["images"][0], other) for other in others)


@pytest.mark.parametrize("data", [b"garbage", b"", "cut"])
@pytest.mark.parametrize("position", [0, 1, 2])
def test_broken_image(collate, make, skips, vocabulary, caplog, data, position):
    """The whole sample of a broken image is left out; the others are the same as without it."""
    broken = Image(lambda: image(9).read()[:200] if data == "cut" else data)
    samples = [
        make("a", image(1), Text("a dog")),
        make("b", image(2), Text("see"), broken, Text("the cat"), image(3)),
        make("c", image(4), Text("a")),
    ]
    others = [samples[0], samples[2]]
    samples = [*others[:position], samples[1], *others[position:]]
    without = Collator(vocabulary, WIDTH * 2, SIZE, SkipCounter(1.0))([PackedRow(1, False, tuple(others))])
    batch = Collator(vocabulary, WIDTH * 2, SIZE, skips)([PackedRow(1, False, tuple(samples))])
    for key in batch:
        assert torch.equal(batch[key], without[key])
    assert skips.skipped == 1
    assert "skipped b: " in caplog.text and "(1 of " in caplog.text


def test_only_broken_images_leave_padding(collate, make, skips, vocabulary):
    batch = collate([PackedRow(1, False, (make("a", Image(lambda: b"no"), Text("a dog")),))])
    assert (batch["tokens"] == vocabulary.pad).all() and (batch["targets"] == vocabulary.pad).all()
    assert not batch["document_ids"].any() and not batch["image_slots"].any()
    assert batch["images"].shape == (0, 3, SIZE, SIZE) and batch["streams"].tolist() == [1]
    assert skips.skipped == 1


def test_no_rows_give_a_row_of_padding(collate, vocabulary, rows):
    batch = collate([])
    assert {key: value.dtype for key, value in batch.items()} == {k: v.dtype for k, v in collate(rows).items()}
    assert batch["tokens"].tolist() == batch["targets"].tolist() == [[vocabulary.pad] * WIDTH]
    assert batch["document_ids"].tolist() == [[0] * WIDTH]
    assert not batch["image_slots"].any() and batch["image_slots"].shape == (1, WIDTH)
    assert batch["images"].shape == (0, 3, SIZE, SIZE) and batch["images"].dtype == torch.uint8
    assert batch["streams"].tolist() == [0]
