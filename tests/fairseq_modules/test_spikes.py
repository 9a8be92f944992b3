"""A spike is a value far above the last ones, by their mean and standard deviation."""

import statistics

import numpy as np
import pytest

from kosmos_plugin.fairseq_modules.spikes import SpikeDetector


def test_spikes_are_those_of_the_formula():
    values = np.random.default_rng(0).lognormal(sigma=1.0, size=400).tolist()
    detector = SpikeDetector(window=20, deviations=3.0)
    found = [bool(detector.check(value)) for value in values]
    for i, value in enumerate(values):
        last = values[max(i - 20, 0) : i]
        assert found[i] == (len(last) >= 10 and value - statistics.mean(last) > 3 * statistics.stdev(last))
    assert 3 < sum(found) < 40


def test_the_message():
    detector = SpikeDetector(window=4, deviations=6.0)
    assert not any(detector.check(value) for value in (1.0, 3.0, 1.0, 3.0, 2.0))
    assert detector.check(12.0) == "12 is 10.2 standard deviations above the mean 2.25 of the last 4 updates"


@pytest.mark.parametrize("level", [100.0, 0.01])
def test_a_new_level_is_soon_no_spike(level):
    """A fall never is."""
    detector = SpikeDetector(window=8, deviations=3.0)
    values = [1.0, 1.1, 0.9, 1.0] * 3 + [level, level * 1.01] * 8
    found = [bool(detector.check(value)) for value in values]
    assert found[12] == (level > 1) and not any(found[:12]) and not any(found[14:])


def test_equal_values_are_no_measure():
    detector = SpikeDetector(window=4, deviations=6.0)
    assert not any(detector.check(value) for value in (0.0, 0.0, 0.0, 0.0, 1e-9))
