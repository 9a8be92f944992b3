"""Long lines leave gaps in full-sentence rows: training says so, names the share and what to do."""

import pytest
import yaml

from tests import tiny


def warnings(data, tmp_path, caplog, line, **stream):
    """What training says about two texts of 100 documents, each of `line` tokens."""
    for name in ("a", "b"):
        tiny.write_text(tmp_path / name, [[5] * (line - 1)] * 100, eos=2)
    corpora = [{"name": "words", "train": [str(tmp_path / "a"), str(tmp_path / "b")]}]
    streams = {"prose": {"kind": "text", "sequences_per_update": 2, "corpora": corpora, **stream}}
    path = tmp_path / "data.yaml"
    path.write_text(yaml.safe_dump({"vocabulary": str(data.parent / "vocabulary"), "streams": streams}))
    caplog.clear()
    tiny.task(path).load_dataset("train")
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_the_share_is_named(data, tmp_path, caplog):
    # one line of 50 tokens and `<s>` in a row of 64
    (said,) = warnings(data, tmp_path, caplog, line=50)
    assert said.startswith(f"Rows of the corpus words are {51 / 64:.1%} full, as its lines are long")
    for advice in ("kosmos-prepare text", "encoding.json", "packing: continuous for the stream prose"):
        assert advice in said


@pytest.mark.parametrize(
    "line, stream",
    [(3, {}), (20, {}), (50, {"packing": "continuous"}), (5000, {})],
    ids=["3", "20", "continuous", "5000"],
)
def test_no_warning(data, tmp_path, caplog, line, stream):
    """Of rows that are full: with short lines, three of 20, continuous ones, and lines longer than many rows."""
    assert warnings(data, tmp_path, caplog, line, **stream) == []
