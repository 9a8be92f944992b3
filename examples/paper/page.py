"""The results as OUT/paper.html: a card for each claim, with bars, intervals and an example of what was asked."""

import re
from dataclasses import dataclass
from pathlib import Path

import claims
import matplotlib.pyplot as plt
import numpy as np
from claims import Claim
from markupsafe import Markup, escape
from plots import to_svg

from kosmos_plugin.atomic import write_text
from kosmos_plugin.evaluation.files import read_json_lines
from kosmos_plugin.reporting.html import data_uri, render

INTERVALS = """\
Of two prompts to the same models, or of models and chance, the 95% intervals are over the items, for the mean of the
seeds. Of two trainings they are over seeds (Student's t) and items; they are paired by seed, since both start from the
same weights. With one seed all are over the items."""
TEMPLATE = Path(__file__).parent / "paper.html"
# Claim → the benchmark whose first item is shown; two of the package's kind have none in JSON lines.
EXAMPLES = {
    "few-shot": "words_4",
    "demonstrations": "styles_2",
    "instructions": "instructions_upper_case",
    "language-model": "color_pictured",
    "descriptions": "described",
    "chain-of-thought": "sentiment",
    "reading": "reading",
    "web-pages": "page_without_text",
    "last-vision-layer": "captions",
}


@dataclass(frozen=True)
class Bar:
    """A measured share, in percent."""

    label: str
    percent: float
    low: float
    high: float
    is_control: bool


@dataclass(frozen=True)
class Card:
    """A claim and its results, as the template shows them."""

    claim: Claim
    result: dict
    bars: list[Bar]
    comparisons: list[str]
    example: list[tuple[str, str]]  # ("image", URI) or ("text", text)
    answer: str
    plot: str  # SVG, or nothing


def write_page(path: Path, results: dict, benchmarks: Path) -> None:
    """Write the page.

    Args:
        path: Where to.
        results: As in results.json.
        benchmarks: The folder of the questions, for the examples.
    """
    found = {result["name"]: result for result in results["claims"]}
    cards = [_card(claim, found[claim.name], benchmarks) for claim in claims.CLAIMS if claim.name in found]
    functions = {"verdict": verdict, "seeds_text": seeds_text, "with_code": with_code}
    write_text(path, render(TEMPLATE, cards=cards, facts=results["facts"], intervals=INTERVALS, **functions))


def verdict(result: dict) -> str:
    return "holds" if result["holds"] else "does not hold here"


def with_code(text: str) -> Markup:
    """As HTML, with what is in backticks as code."""
    return Markup(re.sub("`(.+?)`", r"<code>\1</code>", escape(text)))


def seeds_text(result: dict) -> str:
    return f"{result['seeds']} {'seed' if result['seeds'] == 1 else 'seeds'}"


def comparison_text(each: dict) -> str:
    """A comparison as a sentence part: `with descriptions − without: +50.0 (+43.0 to +57.0)`."""
    low, high = each["interval"]
    chance = "" if each["chance"] is None else f" ({each['chance']:.1f})"
    expected = {"above": "", "no worse": f", no worse by {claims.MARGIN:.0f}", "not above": ", a control"}[each["kind"]]
    mark = "✓" if each["holds"] else "✗"
    return (
        f"{mark} {each['second']} − {each['first']}{chance}: "
        f"{_signed(each['difference'])} ({_signed(low)} to {_signed(high)}){expected}"
    )


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def _card(claim: Claim, result: dict, benchmarks: Path) -> Card:
    bars = [
        Bar(label, value["percent"], *value["interval"], "shuffled" in label)
        for label, value in result["measured"].items()
    ]
    example, answer = _example(benchmarks, EXAMPLES.get(claim.name))
    plot = _curve(claim, result) if claim.curve else ""
    return Card(claim, result, bars, list(map(comparison_text, result["comparisons"])), example, answer, plot)


def _example(folder: Path, name: str | None) -> tuple[list[tuple[str, str]], str]:
    if name is None:
        return _matrix_example(folder / "raven_iq" / "exp-1"), "Yes"
    line = read_json_lines(folder / f"{name}.jsonl")[0]
    images = iter(line["images"])
    parts = [part.strip() for part in re.split("(<image>)", line["prompt"]) if part.strip()]
    shown = [_image(folder / next(images)) if part == "<image>" else ("text", part) for part in parts]
    return shown, line["answer"]


def _matrix_example(folder: Path) -> list[tuple[str, str]]:
    queries = sorted(folder.glob("query-*.png"))
    answer = [("text", "The following image is:"), _image(folder / "answer-a.png"), ("text", "Is it correct?")]
    return [*map(_image, queries), *answer]


def _image(path: Path) -> tuple[str, str]:
    return "image", data_uri(path.read_bytes(), "image/png")


def _curve(claim: Claim, result: dict) -> str:
    """Accuracy by number of demonstrations, as SVG."""
    values = [result["measured"][side.label] for side in claim.curve]
    figure, axes = plt.subplots(figsize=(5, 2.6), layout="constrained")
    means = [value["percent"] for value in values]
    lows, highs = zip(*(value["interval"] for value in values), strict=True)
    errors = np.maximum([np.subtract(means, lows), np.subtract(highs, means)], 0)
    axes.errorbar(claims.SHOTS, means, errors, marker="o", color="#0072b2")
    axes.set(xlabel="demonstrations", ylabel="right (%)", xticks=claims.SHOTS, ylim=(0, 105))
    axes.spines[["top", "right"]].set_visible(False)
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    plt.close(figure)
    return to_svg(figure)
