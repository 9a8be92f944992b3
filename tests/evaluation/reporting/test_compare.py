"""Two folders of results: differences with their intervals, and the paper's pairs."""

import random
import re

import numpy as np
import pytest
import scipy.stats

from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmark import Answer, Item
from kosmos_plugin.evaluation.benchmarks import benchmark_class
from kosmos_plugin.evaluation.metrics.accuracy import percent
from kosmos_plugin.evaluation.predictions import Predictions
from kosmos_plugin.evaluation.reporting.compare import compare
from kosmos_plugin.evaluation.reporting.comparison_report import all_metrics, as_text
from kosmos_plugin.evaluation.results import Result, read_results, write_results


def add(out, benchmark, scores, shots=0, headline="accuracy", others=None, prefix="item", **options):
    """Add a result with predictions whose items have these `scores`."""
    kind = benchmark_class(benchmark)
    folder = f"{benchmark}/{kind.splits[0]}-{shots}-shot"
    items = [Item(f"{prefix} {number}", "yes") for number in range(len(scores))]
    predictions = Predictions(out / folder, {})
    predictions.begin()
    predictions.finish(items, [Answer("yes", ())] * len(items), scores)
    known = [score for score in scores if score is not None]
    result = Result(
        **{
            "benchmark": benchmark,
            "title": kind.title,
            "section": kind.section,
            "split": kind.splits[0],
            "shots": shots,
            "items": len(items),
            "problems": 0,
            "metrics": {headline: percent(known) if known else 61.0, **(others or {})},
            "interval": None,
            "folder": folder,
            "checkpoint": f"{out.name}.pt",
            "seed": 1,
            **options,
        }
    )
    write_results(out, [*read_results(out), result])


@pytest.fixture
def folders(tmp_path):
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
    return tmp_path / "before", tmp_path / "after"


def rows(comparison) -> list[list[str]]:
    """The cells of the table of all metrics."""
    return [list(line) for line in all_metrics(comparison.pairs).lines]


def test_a_difference_and_its_interval(folders):
    """If nearly all items are answered alike, the interval is far narrower than either value's own."""
    before, after = folders
    rng = random.Random(0)
    scores = [float(rng.random() < 0.5) for _ in range(2000)]
    better = [1.0 if number % 20 == 0 else score for number, score in enumerate(scores)]
    add(before, "vqav2", scores)
    add(after, "vqav2", better)
    [pair] = compare(before, after).pairs
    mean = percent(better) - percent(scores)
    expected = scipy.stats.bootstrap(
        (scores, better),
        lambda one, other, axis: np.mean(other - one, axis=axis),
        paired=True,
        method="percentile",
        n_resamples=2000,
    ).confidence_interval
    assert pair.interval == pytest.approx([100 * bound for bound in expected], abs=0.1)
    assert pair.interval[1] - pair.interval[0] < 2, "each value alone: 4.4"
    [row] = rows(compare(before, after))
    assert row[:5] == ["§4.1", "VQAv2", "test-dev", "0", "accuracy"]
    assert row[5:7] == [f"{percent(scores):.1f}", f"{percent(better):.1f}"]
    low, high = pair.interval
    assert row[7:] == [f"{mean:+.1f} ({low:+.1f}, {high:+.1f})", "46.7 → 51.0"]


def test_items_are_paired_by_their_ids(folders):
    before, after = folders
    add(before, "boolq", [1.0, 0.0] * 50)
    add(after, "boolq", [1.0, 0.0] * 50)
    path = after / "boolq/val-0-shot/predictions.jsonl"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    [pair] = compare(before, after).pairs
    assert pair.interval == (0, 0)


def test_no_difference_at_all_is_plus_zero(folders):
    for folder in folders:
        add(folder, "copa", [1.0, 0.0])
    assert rows(compare(*folders))[0][5:8] == ["50.0", "50.0", "+0.0 (+0.0, +0.0)"]


def test_the_papers_pairs(folders):
    """Without and with instruction tuning; the baseline and KOSMOS-1; none for other numbers of shots."""
    before, after = folders
    for folder in folders:
        add(folder, "raven_iq", [0.0, 1.0])
        add(folder, "flickr30k", [0.6, 0.7], headline="CIDEr", others={"SPICE": 14.0})
        add(folder, "piqa", [0.0, 1.0], shots=0)
        add(folder, "piqa", [0.0, 1.0], shots=4)
        add(folder, "rendered_sst2", [0.0, 1.0])
    reported = [(row[1], row[3], row[4], row[8]) for row in rows(compare(before, after))]
    assert reported == [
        ("Flickr30k", "0", "CIDEr", "65.2 → 67.1"),
        ("", "", "SPICE", ""),
        ("Raven IQ test", "0", "accuracy", "22.0 → 26.0"),
        ("Rendered SST-2", "0", "accuracy", ""),
        ("PIQA", "0", "accuracy", "73.2 → 72.9"),
        ("PIQA", "4", "accuracy", ""),
    ]


def test_the_baseline_on_the_pages_text_is_compared_with_kosmos_on_the_screenshot_too(folders):
    before, after = folders
    add(before, "websrc_text", [0.0, 0.0, 1.0], headline="EM", others={"F1": 40.0})
    add(after, "websrc_text", [0.0, 0.0, 1.0], headline="EM", others={"F1": 41.0})
    add(after, "websrc", [0.0, 1.0, 1.0], headline="EM", others={"F1": 70.0})
    found = rows(compare(before, after))
    assert [row[1] for row in found if row[1]] == [
        "WebSRC, extracted text only",
        "WebSRC, extracted text only / WebSRC",
    ]
    assert [row[8] for row in found] == ["", "", "7.6 → 15.8", "17.9 → 31.3"]
    assert found[3][4:8] == ["F1", "40.0", "70.0", "+30.0"]


def test_without_scores_of_items_there_is_no_interval(folders):
    for folder, auc in zip(folders, (61.0, 58.5), strict=True):
        add(folder, "hateful_memes", [None, None], headline="ROC AUC", metrics={"ROC AUC": auc})
    assert rows(compare(*folders))[0][5:] == ["61.0", "58.5", "-2.5", ""]


def test_the_text_fits_in_100_columns_and_says_what_is_compared(folders):
    before, after = folders
    for folder in folders:
        add(folder, "rendered_sst2_cot", [0.0, 1.0, 1.0], items=50000)
        add(folder, "imagenet_constrained", [0.0, 1.0, 1.0])
    add(before, "copa", [1.0])
    add(after, "websrc", [1.0], headline="EM")
    text = as_text(compare(before, after))
    assert max(len(line) for line in text.splitlines() if str(before) not in line and str(after) not in line) <= 100
    assert "\n§4.5  Rendered SST-2, multimodal chain of thought\n" in text
    unfolded = re.sub(r"\s+", " ", text)
    assert f"First: {before} (before.pt) Only in the first: COPA (val, 0 shots)" in unfolded
    assert f"Second: {after} (after.pt) Only in the second: WebSRC (dev, 0 shots)" in unfolded


def test_different_items_are_refused(folders):
    before, after = folders
    add(before, "boolq", [1.0, 0.0, 1.0])
    add(after, "boolq", [1.0, 0.0])
    with pytest.raises(UserError, match=r"different items: 3 and 2, of which 2 are the same.*--limit"):
        compare(before, after)
    other = after.parent / "other"
    other.mkdir()
    add(other, "boolq", [1.0, 0.0, 1.0], prefix="another")
    with pytest.raises(UserError, match="different items: 3 and 3, of which 0 are the same"):
        compare(before, other)


def test_folders_that_cannot_be_compared(folders):
    before, after = folders
    add(before, "boolq", [1.0])
    with pytest.raises(UserError, match=rf"{after} has no results.json"):
        compare(before, after)
    add(after, "vqav2", [1.0], metrics={})
    with pytest.raises(UserError, match=rf"{after} has no results.json with metrics"):
        compare(before, after)
    add(after, "boolq", [1.0], shots=4)
    with pytest.raises(UserError, match="no benchmark in common"):
        compare(before, after)
    add(after, "boolq", [1.0])
    (after / "boolq/val-0-shot/predictions.jsonl").unlink()
    with pytest.raises(UserError, match=r"predictions.jsonl cannot be read"):
        compare(before, after)
