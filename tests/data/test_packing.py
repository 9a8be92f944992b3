"""Packing: everything once, nothing too long, hardly a gap; dealing: nearly equal work."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kosmos_plugin.data.documents import Image
from kosmos_plugin.data.packing import PackedRow, deal, pack
from kosmos_plugin.data.samples import Sample

NO_BYTES = Image(lambda: b"")


def row(tokens, images, name=""):
    zeros = np.zeros(tokens, dtype=np.int64)
    return PackedRow(0, False, (Sample(name, zeros, zeros, zeros.astype(bool), (NO_BYTES,) * images),))


@settings(deadline=None, max_examples=150)
@given(lengths=st.lists(st.integers(1, 50), max_size=60))
def test_everything_once_and_no_row_too_long(lengths):
    rows = pack(lengths, 50)
    assert sorted(i for indices in rows for i in indices) == list(range(len(lengths)))
    assert all(indices and sum(lengths[i] for i in indices) <= 50 for indices in rows)
    assert all(indices == sorted(indices) for indices in rows)
    # no two rows would have fitted into one
    two_emptiest = sorted(sum(lengths[i] for i in indices) for indices in rows)[:2]
    assert len(rows) < 2 or sum(two_emptiest) > 50
    assert pack(list(lengths), 50) == rows


def test_captions_fill_their_rows():
    """The paper's 6,144 captions of 64 + 2 image tokens and about twenty of text, in rows of 2,048."""
    lengths = np.clip(np.random.default_rng(0).normal(87, 20, 6144).round(), 70, 400).astype(int).tolist()
    rows = pack(lengths, 2048)
    assert sum(lengths) / (len(rows) * 2048) >= 0.98
    full = [sum(lengths[i] for i in indices) for indices in rows]
    assert max(full) <= 2048


def test_exact_fits_are_found():
    assert sorted(pack([6, 4, 7, 3, 5, 5], 10)) == [[0, 1], [2, 3], [4, 5]]
    assert pack([10], 10) == [[0]]
    assert pack([], 10) == []


@settings(deadline=None, max_examples=100)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 30), st.integers(0, 4)), max_size=40),
    parts=st.integers(1, 9),
)
def test_every_row_is_dealt_once(sizes, parts):
    rows = [row(tokens, images, str(i)) for i, (tokens, images) in enumerate(sizes)]
    dealt = deal(rows, parts)
    assert len(dealt) == parts
    names = [packed.samples[0].id for part in dealt for packed in part]
    assert sorted(names, key=int) == [str(i) for i in range(len(rows))]
    counts = [len(part) for part in dealt]
    assert max(counts) - min(counts) <= 1
    again = deal(list(rows), parts)
    assert [[packed.samples[0].id for packed in part] for part in again] == [
        [packed.samples[0].id for packed in part] for part in dealt
    ]
    # Back and forth: a part is ahead of another by no more than the largest row.
    images = [sum(packed.num_images for packed in part) for part in dealt]
    assert max(images) - min(images) <= max((images for _, images in sizes), default=0)


@pytest.mark.parametrize("parts", [2, 4, 8, 16])
def test_images_and_tokens_are_nearly_equal(parts):
    """An update as the paper's: 256 rows of text, 264 of captions with 21 to 26 images, 128 of pages with 1 to 5."""
    draw = np.random.default_rng(1)
    rows = [row(2048, 0) for _ in range(256)]
    rows += [row(int(draw.integers(1950, 2049)), int(draw.integers(21, 27))) for _ in range(264)]
    rows += [row(int(draw.integers(500, 2049)), int(draw.integers(1, 6))) for _ in range(128)]
    order = draw.permutation(len(rows))
    dealt = deal([rows[i] for i in order], parts)
    for work in ("num_images", "num_tokens"):
        totals = [sum(getattr(packed, work) for packed in part) for part in dealt]
        assert max(totals) - min(totals) < 0.05 * np.mean(totals)


def test_row_counts_its_samples():
    packed = PackedRow(0, False, row(5, 2).samples + row(7, 1).samples)
    assert (packed.num_tokens, packed.num_images) == (12, 3)
