"""Choices by hashes: uniform, independent of each other, and the same on every machine."""

import numpy as np

from kosmos_plugin.curation.sampling.hashing import is_in_share, uniform_hash

TEXTS = [f"document {number}" for number in range(4000)]


def test_the_hash_is_fixed():
    """The next release must choose the same shards and samples."""
    assert uniform_hash("a text", "sample") == 15204793513625827669


def test_the_hash_is_uniform():
    shares = np.array([uniform_hash(text, "sample") for text in TEXTS], dtype=np.float64) / 2**64
    counts, _ = np.histogram(shares, bins=10, range=(0, 1))
    assert counts.sum() == len(TEXTS)
    assert abs(counts - 400).max() < 100  # five standard deviations


def test_purposes_are_independent():
    both = sum(is_in_share(text, 0.5, "sample") and is_in_share(text, 0.5, "one image") for text in TEXTS)
    assert abs(both - 1000) < 150


def test_a_share_of_zero_or_one():
    assert not any(is_in_share(text, 0.0, "sample") for text in TEXTS)
    assert all(is_in_share(text, 1.0, "sample") for text in TEXTS)
