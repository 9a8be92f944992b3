"""The paper in miniature, shorter: in-context learning of new words, and classes told apart by descriptions."""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "examples" / "paper"), str(ROOT / "examples" / "quickstart")]

import prepare  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(importlib.util.find_spec(module) is None for module in (*prepare.PACKAGES, "matplotlib")),
        reason="needs the quickstart extra: pip install kosmos-plugin[quickstart]",
    ),
]
if importlib.util.find_spec("matplotlib"):
    import data
    import measuring
    import run
    import trainings

UPDATES = {"language": 700, "base": 400}
BENCHMARKS = ("words_0", "words_8", "words_8_shuffled", "not_described", "described", "described_shuffled")


def test_new_words_and_descriptions(tmp_path, monkeypatch):
    """Chance is 50%. Seen: 91.5% with 8 demonstrations, 90.0% with descriptions."""
    for name, value in run.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    data.write_data(tmp_path / "data")
    for name, updates in UPDATES.items():
        shorter = dataclasses.replace(trainings.TRAININGS[name], updates=updates)
        monkeypatch.setitem(trainings.TRAININGS, name, shorter)
        trainings.train(tmp_path, name, seed=1)
    measuring.evaluate(tmp_path, "base", 1, BENCHMARKS)
    results = json.loads((tmp_path / "base_1" / "evaluation" / "results.json").read_text())
    percent = {result["benchmark"]: result["metrics"]["accuracy"] for result in results}
    assert percent["words_8"] > 80
    assert percent["described"] > 75
    for control in ("words_0", "words_8_shuffled", "not_described", "described_shuffled"):
        assert 35 < percent[control] < 65, control
