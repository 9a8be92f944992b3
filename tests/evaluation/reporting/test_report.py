"""The report has the measured and the paper's value of each result, as text, Markdown, a page and a plot."""

import base64
import io
import re
import sys
from html.parser import HTMLParser

import pytest
from PIL import Image

from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmarks import BENCHMARKS, benchmark_class
from kosmos_plugin.evaluation.reporting import tables
from kosmos_plugin.evaluation.reporting.plot import CHANCE, MEASURED, REPORTED, draw
from kosmos_plugin.evaluation.reporting.report import as_text, write_report
from kosmos_plugin.evaluation.results import Result, write_results


def result(benchmark: str, metrics: dict, shots: int = 0, **options) -> Result:
    kind = benchmark_class(benchmark)
    split = options.pop("split", kind.splits[0])
    first = next(iter(metrics.values()), 0.0)
    return Result(
        **{
            "benchmark": benchmark,
            "title": kind.title,
            "section": kind.section,
            "split": split,
            "shots": shots,
            "items": 1821,
            "problems": 0,
            "metrics": metrics,
            "interval": (first - 2, first + 2) if metrics else None,
            "folder": f"{benchmark}/{split}-{shots}-shot",
            "checkpoint": "checkpoints/checkpoint_last.pt",
            "seed": 1,
            **options,
        }
    )


COPA = {"accuracy": 64.0, "acc": 64.0, "acc_norm": 60.5}
RESULTS = [
    result("copa", COPA, 4),
    result("copa", COPA, 0),
    result("rendered_sst2", {"accuracy": 66.5, "acc": 66.5, "acc_norm": 61.0}, split="valid", items=6921),
    result("websrc_text", {"EM": 7.0, "F1": 18.25}, problems=1234, items=52826),
    result("raven_iq", {"accuracy": 24.0}, items=50),
    result("vqav2", {}, 8, items=107394, submission="to_submit.json"),
]


def lines_below(text: str, title: str, count: int) -> list[str]:
    lines = text.splitlines()
    begin = lines.index(title) + 1
    return [re.sub(" +", " ", line).strip() for line in lines[begin : begin + count]]


def test_the_table_in_the_papers_order():
    text = as_text(RESULTS)
    titles = [line for line in text.splitlines() if line.startswith("§")]
    assert titles == [
        "§4.1  VQAv2",
        "§4.2  Raven IQ test",
        "§4.3  Rendered SST-2",
        "§4.4  WebSRC, extracted text only",
        "§4.8  COPA",
    ]
    assert lines_below(text, "§4.1  VQAv2", 1) == ["test-dev 8 no public answers 51.4 Table 5 107,394"]
    assert lines_below(text, "§4.2  Raven IQ test", 1) == [
        "test 0 accuracy 24.0 (22.0–26.0) 26.0 Table 6 50 chance (reported) 17.0"
    ]
    assert lines_below(text, "§4.3  Rendered SST-2", 1) == [
        "valid 0 accuracy 66.5 (64.5–68.5) 67.1* §4.3.2 6,921 acc 66.5, acc_norm 61.0"
    ]
    assert lines_below(text, "§4.4  WebSRC, extracted text only", 2) == [
        "dev 0 EM 7.0 (5.0–9.0) 7.6 Table 8 52,826 reported for the LLM",
        "F1 18.2 17.9 Table 8 1,234 did not fit",
    ]
    assert lines_below(text, "§4.8  COPA", 2) == [
        "val 0 accuracy 64.0 (62.0–66.0) 63.0 Table 13 1,821 acc 64.0, acc_norm 60.5",
        "val 4 accuracy 64.0 (62.0–66.0) 1,821 acc 64.0, acc_norm 60.5",
    ]


def test_notes_below_the_table():
    notes = as_text(RESULTS).split("\n\n")[-1].replace("\n", " ")
    assert "Checkpoint: checkpoints/checkpoint_last.pt" in notes and "arXiv 2302.14045" in notes
    assert "* The paper measured another split: Rendered SST-2 on test." in notes
    assert "did not fit in the model's context count as wrong" in notes
    assert "Files to submit to test servers: vqav2/test-dev-8-shot/to_submit.json" in notes
    plain = as_text([RESULTS[0]])
    assert "another split" not in plain and "fit" not in plain and "submitted" not in plain


def test_a_limit_is_noted():
    assert "first 3 items only" in as_text([result("copa", COPA, items=3, limit=3)])
    assert "items only" not in as_text([result("copa", COPA)])


def test_cider_of_few_images_is_explained():
    """Its weights are those of the images that were measured."""

    def notes(*items: int) -> str:
        results = [result("coco", {"CIDEr": 84.0}, shots, items=count) for shots, count in enumerate(items)]
        return as_text(results).split("\n\n")[-1].replace("\n", " ")

    assert "in the references of the one measured image: all weights are 0, and so is CIDEr." in notes(1)
    assert notes(20, 20).count("of the 20 measured images: it is not comparable with CIDEr over a whole test set.") == 1
    assert "weighs" not in notes(1000, 5000)
    assert "CIDEr weighs" not in as_text([result("copa", COPA, items=3)])


def test_any_results_fit_in_100_columns():
    """All benchmarks with their longest split names and all shots, and the widest values and counts."""
    metrics = {
        "accuracy": {"accuracy": 100.0, "acc": 100.0, "acc_norm": 100.0},
        "CIDEr": {"CIDEr": 100.0, "SPICE": 100.0},
        "EM": {"EM": 100.0, "F1": 100.0},
        "ROC AUC": {"ROC AUC": 100.0, "accuracy": 100.0},
        "VQA": {"accuracy": 100.0, **{f"accuracy, {kind}": 100.0 for kind in ("number", "unanswerable", "yes/no")}},
    }
    headlines = {"coco": "CIDEr", "flickr30k": "CIDEr", "hateful_memes": "ROC AUC", "vqav2": "VQA", "vizwiz": "VQA"}
    headlines |= dict.fromkeys(("websrc", "websrc_text", "websrc_image"), "EM")
    wide = [
        result(
            name,
            metrics[headlines.get(name, "accuracy")],
            shots,
            split=max(benchmark_class(name).splits, key=len),
            interval=(99.0, 100.0),
            items=50000,
            problems=49999,
        )
        for name in BENCHMARKS
        for shots in benchmark_class(name).shots
    ]
    text = as_text(wide)
    assert max(map(len, text.splitlines())) <= 100
    assert all(text.count(f"  {benchmark_class(name).title}\n") == 1 for name in BENCHMARKS), "titles are whole"
    assert "unanswerable 100.0" in text and "accuracy, unanswerable" not in text


def test_no_results():
    assert as_text([]) == "There are no results yet."


class Page(HTMLParser):
    """Parses a page: the cells of its table by rows, its links and its images."""

    def __init__(self, page: str):
        super().__init__()
        self.rows, self.links, self.pictures, self.tags, self.in_cell = [], [], [], set(), False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True
        if tag == "a":
            self.links.append(attributes["href"])
        if tag == "img":
            self.pictures.append(attributes["src"])

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data):
        if self.in_cell:
            self.rows[-1][-1] += data.strip()


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    write_results(folder, RESULTS)
    write_report(folder)
    return folder


def test_the_page_has_the_table_the_plot_and_links_to_the_answers(out):
    page = Page((out / "report.html").read_text("utf-8"))
    assert "script" not in page.tags
    ordered = tables.in_order(RESULTS)
    assert page.links == [f"{one.folder}/page.html" for one in ordered]
    titles = [row[0] for row in page.rows if len(row) == 1]
    assert titles == list(dict.fromkeys(f"§{one.section}{one.title}" for one in ordered))
    assert ["", "", "F1", "18.2", "17.9 Table 8", "", "1,234 did not fit"] in page.rows
    [plot] = page.pictures
    assert base64.b64decode(plot.removeprefix("data:image/png;base64,")) == (out / "report.png").read_bytes()
    Image.open(io.BytesIO((out / "report.png").read_bytes())).verify()


def test_the_markdown_says_what_the_page_says(out):
    page = Page((out / "report.html").read_text("utf-8"))
    lines = [line for line in (out / "report.md").read_text("utf-8").splitlines() if line.startswith("|")]
    markdown = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "---" not in line]
    assert [cells[2:] for cells in markdown] == [row for row in page.rows if len(row) > 1]
    assert [cells[:2] for cells in markdown if cells[1]][1:] == [
        ["§4.1", "VQAv2"],
        ["§4.2", "Raven IQ test"],
        ["§4.3", "Rendered SST-2"],
        ["§4.4", "WebSRC, extracted text only"],
        ["§4.8", "COPA"],
    ]
    assert len({line.count("|") for line in lines}) == 1


def drawn(axes, color, marker) -> list[tuple[list, list]]:
    """The (x, y) of the points drawn with these properties, without the legend's."""
    found = [line for line in axes.lines if (line.get_color(), line.get_marker()) == (color, marker)]
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in found if len(line.get_xdata())]


def test_dots_of_what_was_measured_and_what_was_reported():
    figure = draw(tables.in_order(RESULTS))
    axes, *panels = figure.axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [
        "Raven IQ test (test) · accuracy",
        "Rendered SST-2 (valid) · accuracy",
        "WebSRC, extracted text only (dev) · EM",
    ]
    assert drawn(axes, MEASURED, "o") == [([24.0], [0]), ([66.5], [1]), ([7.0], [2])]
    assert drawn(axes, REPORTED, "D") == [([26.0], [0]), ([67.1], [1])], "the LLM's is not KOSMOS-1's"
    assert drawn(axes, CHANCE, "|") == [([17.0], [0])]
    copa = panels[0]
    assert copa.get_title() == "COPA (val) · accuracy"
    assert drawn(copa, MEASURED, "o") == [([0, 4], [64.0, 64.0])]
    assert drawn(copa, REPORTED, "D") == [([0], [63.0])]


def test_whiskers_are_the_interval():
    axes = draw([result("boolq", {"accuracy": 50.0}, interval=(47.0, 52.5))]).axes[0]
    [segments] = axes.containers[0].lines[2][0].get_segments()
    assert segments.tolist() == [[47.0, 0.0], [52.5, 0.0]]


def test_plots_of_no_results_and_of_only_lines():
    for some in ([], [RESULTS[0], RESULTS[1]], [RESULTS[5]]):
        draw(tables.in_order(some)).canvas.draw()


def test_without_matplotlib_the_error_says_what_to_install(out, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r'pip install "kosmos-plugin\[evaluation\]"'):
        write_report(out)
