"""Two folders of results: differences with their intervals, and the paper's pairs."""

import random
import re

import numpy as np
import pytest
import scipy.stats

from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmark import Answer, Item
from kosmos_plugin.evaluation.benchmarks import BENCHMARKS
from kosmos_plugin.evaluation.metrics.accuracy import percent
from kosmos_plugin.evaluation.predictions import Predictions
from kosmos_plugin.evaluation.reporting.compare import compare
from kosmos_plugin.evaluation.reporting.compare import folders as folders_of
from kosmos_plugin.evaluation.reporting.comparison_report import all_metrics, as_text, write_comparison
from kosmos_plugin.evaluation.reporting.task_table import sections
from kosmos_plugin.evaluation.results import Result, read_results, write_results


class Unregistered:
    """What a benchmark of a user says of itself."""

    title, section, splits = "Riddles", "", ("test",)


def add(out, benchmark, scores, shots=0, headline="accuracy", others=None, prefix="item", **options):
    """Add a result with predictions whose items have these `scores`."""
    kind = BENCHMARKS.get(benchmark, Unregistered)
    split = options.get("split", kind.splits[0])
    folder = f"{benchmark}/{split}-{shots}-shot"
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
            "split": split,
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
        ("", "4", "accuracy", ""),
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


# ---- the table in the paper's form


def by_task(comparison) -> dict[str, dict[str, dict]]:
    """Section → task → number of demonstrations → (first, second, difference), as shown."""
    return {
        section.title: {row.name: {shots: cell.texts for shots, cell in row.cells.items()} for row in section.rows}
        for section in sections(comparison.pairs)
    }


def test_the_form_of_table_13(folders):
    """A row for each task, columns for each number of demonstrations, and the section's average."""
    before, after = folders
    for name, zero, one in (("boolq", 0.5, 0.25), ("copa", 0.75, 0.5), ("cb", 0.25, 0.75)):
        for shots, share in ((0, zero), (4, one)):
            add(before, name, [1.0] * int(share * 100) + [0.0] * int(100 - share * 100), shots)
            add(after, name, [1.0] * int(share * 100 + 10) + [0.0] * int(90 - share * 100), shots)
    add(before, "boolq", [1.0] * 50, 1)
    add(after, "boolq", [1.0] * 50, 1)
    found = by_task(compare(before, after))
    assert list(found) == ["§4.8"] and list(found["§4.8"]) == ["BoolQ", "CB", "COPA", "Average"]
    assert found["§4.8"]["BoolQ"][1] == ("100.0", "100.0", "+0.0 (+0.0, +0.0)")
    assert set(found["§4.8"]["Average"]) == {0, 4}, "only BoolQ has one-shot: no average"
    assert [cells[:2] for cells in found["§4.8"]["Average"].values()] == [("50.0", "60.0")] * 2
    text = as_text(compare(before, after))
    groups = text.splitlines()[2]
    assert groups.split() == ["zero-shot", "one-shot"], "few-shot does not fit beside them"
    assert "few-shot (4)" in text and max(map(len, text.split("\nFirst:")[0].splitlines())) <= 100
    [row] = [line for line in text.splitlines() if line.startswith("  BoolQ ") and "100.0" in line]
    assert re.sub(" +", " ", row).startswith(" BoolQ 50.0 60.0 +10.0 (+5.0,")


def test_the_interval_of_an_average(folders):
    """The items of different tasks are independent: the variance of the mean difference adds up."""
    before, after = folders
    rng = np.random.default_rng(0)
    variance = 0.0
    for name, items in (("boolq", 900), ("copa", 100), ("cb", 300)):
        scores, others = (rng.random(items) < 0.5).astype(float), (rng.random(items) < 0.6).astype(float)
        add(before, name, scores.tolist())
        add(after, name, others.tolist())
        variance += np.var(others - scores) / items / 9
    [section] = sections(compare(before, after).pairs)
    cell = section.rows[-1].cells[0]
    low, high = cell.interval
    assert high - low == pytest.approx(2 * 1.96 * 100 * np.sqrt(variance), rel=0.1)
    assert (low + high) / 2 == pytest.approx(cell.second - cell.first, abs=0.5)


def test_only_equal_metrics_of_one_benchmark_are_averaged(folders):
    before, after = folders
    for folder in folders:
        for name, metric in (("coco", "CIDEr"), ("flickr30k", "CIDEr"), ("vqav2", "accuracy")):
            add(folder, name, [0.5, 1.0], headline=metric)
        for name in ("riddles", "sums"):
            add(folder, name, [0.0, 1.0])
        add(folder, "hateful_memes", [None, None], headline="ROC AUC")
    add(before, "websrc_text", [0.0, 1.0], headline="EM")
    add(after, "websrc", [0.0, 1.0], headline="EM")
    found = by_task(compare(before, after))
    assert list(found["§4.1"]) == ["COCO captions, CIDEr", "Flickr30k, CIDEr", "VQAv2", "Average, CIDEr"]
    assert found["§4.3"] == {"HatefulMemes, ROC AUC": {0: ("61.0", "61.0", "+0.0")}}
    assert list(found["§4.4"]) == ["WebSRC, extracted text only / WebSRC, EM"]
    assert list(found["Other benchmarks"]) == ["Riddles"], "these two have one title"


def test_splits_are_told_apart(folders):
    for folder in folders:
        add(folder, "rendered_sst2", [0.0, 1.0])
        add(folder, "rendered_sst2", [0.0, 1.0, 1.0], split="valid")
    assert list(by_task(compare(*folders))["§4.3"]) == ["Rendered SST-2 (test)", "Rendered SST-2 (valid)", "Average"]


def test_the_files_of_the_report(folders, tmp_path):
    before, after = folders
    for folder, share in zip(folders, (0.2, 0.8), strict=True):
        for name in ("boolq", "copa"):
            for shots in (0, 1, 4):
                add(folder, name, [1.0] * int(100 * share) + [0.0] * int(100 - 100 * share), shots)
    page = write_comparison(compare(before, after), tmp_path / "new/out")
    html = page.read_text("utf-8")
    assert html.count('class="average"') == 1 and html.count('class="clear"') == 9
    for name in ("zero-shot", "one-shot", "few-shot (4)"):
        assert f">{name}</th>" in html
    lines = [line for line in (tmp_path / "new/out/comparison.md").read_text("utf-8").splitlines() if line[:1] == "|"]
    assert lines[0].startswith(
        "| section | task | zero-shot, first | zero-shot, second | zero-shot, difference (95%) |"
    )
    assert lines[2].startswith("| §4.8 | BoolQ | 20.0 | 80.0 | +60.0 (+")
    assert lines[4].startswith("|  | Average | 20.0 | 80.0 | +60.0 (+")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be created"):
        write_comparison(compare(before, after), tmp_path / "file/out")


# ---- several seeds


def seeds(tmp_path, name, *shares, items=400, benchmarks=("boolq",)):
    """A folder of results for each seed, whose items all have the score of the seed: they differ in nothing else."""
    made = []
    for number, share in enumerate(shares):
        made.append(tmp_path / f"{name}{number}")
        made[-1].mkdir()
        for benchmark in benchmarks:
            add(made[-1], benchmark, [share] * items)
    return made


def test_the_interval_of_seeds_is_that_of_the_t_test(tmp_path):
    """If items differ in nothing, only the seeds count: the interval is that of the t-test."""
    one, other = (0.50, 0.53, 0.55, 0.52, 0.49), (0.58, 0.61, 0.57, 0.60, 0.62)
    [pair] = compare(seeds(tmp_path, "a", *one), seeds(tmp_path, "b", *other)).pairs
    assert pair.values("accuracy") == pytest.approx((100 * np.mean(one), 100 * np.mean(other)))
    expected = scipy.stats.ttest_ind(other, one).confidence_interval()
    assert pair.interval == pytest.approx((100 * expected.low, 100 * expected.high), abs=0.6)
    of_few = compare(seeds(tmp_path, "c", *one[:2]), seeds(tmp_path, "d", *other[:2])).pairs[0].interval
    assert of_few[1] - of_few[0] > 2 * (pair.interval[1] - pair.interval[0]), "two seeds tell far less"


def test_the_interval_of_equal_seeds_is_that_of_the_items(tmp_path):
    rng = np.random.default_rng(1)
    scores, better = (rng.random(500) < 0.5).astype(float).tolist(), (rng.random(500) < 0.6).astype(float).tolist()
    sides = [seeds(tmp_path, name, 0.5, 0.5, benchmarks=()) for name in "ab"]
    for side, values in zip(sides, (scores, better), strict=True):
        for folder in side:
            add(folder, "boolq", values)
    [pair], [single] = compare(*sides).pairs, compare(sides[0][0], sides[1][0]).pairs
    assert pair.interval == pytest.approx(single.interval, abs=1)


def test_a_seed_is_the_same_for_all_tasks(tmp_path):
    """Seeds that are good at both tasks are resampled together: the average is no surer than one task."""
    both = ("boolq", "copa")
    pairs = compare(
        seeds(tmp_path, "a", 0.4, 0.5, 0.6, benchmarks=both), seeds(tmp_path, "b", 0.5, 0.6, 0.7, benchmarks=both)
    ).pairs
    [section] = sections(pairs)
    task, average = section.rows[0].cells[0].interval, section.rows[-1].cells[0].interval
    assert average == pytest.approx(task, abs=1.5)


def test_folders_of_seeds(tmp_path):
    first, second = seeds(tmp_path, "a", 0.4, 0.5), seeds(tmp_path, "b", 0.6)
    add(first[0], "copa", [1.0])
    text = re.sub(r"\s+", " ", as_text(compare(first, second)))
    assert f"First: {first[0]}, {first[1]} (a0.pt, a1.pt) Only in the first: COPA (val, 0 shots)" in text
    assert "hierarchical bootstrap over the seeds (2 of the first, 1 of the second), then the items" in text
    assert "knows nothing of how the side with one seed would differ" in text
    assert folders_of(f"{first[0]}, {first[1]}") == first
    comma = tmp_path / "with,comma"
    comma.mkdir()
    assert folders_of(str(comma)) == [comma]
    with pytest.raises(UserError, match="a0 is given twice"):
        compare([first[0], first[0]], second)
    add(second[0], "cb", [1.0])
    add(first[1], "cb", [1.0])
    assert [pair.first[0].benchmark for pair in compare(first, second).pairs] == ["boolq"], "not all have the others"
