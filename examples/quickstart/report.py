"""The quickstart's results as a table in the terminal, as `report.html`, and as two pictures for a README.

    python report.py RESULTS_DIR

reads     RESULTS_DIR/train.log        fairseq's lines with `--log-format json`
          RESULTS_DIR/results.json     what evaluate.py measured
writes    RESULTS_DIR/report.html      one self-contained page, without scripts
          RESULTS_DIR/loss.png         the loss curves
          RESULTS_DIR/examples.png     held-out pictures and the model's answers
"""

import argparse
import io
import json
import mimetypes
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from kosmos_plugin.atomic import write_text
from kosmos_plugin.reporting.html import data_uri, render
from kosmos_plugin.reporting.tables import Table

TEMPLATE = Path(__file__).parent / "report_page.html"
# Stream → color and label; the colors are distinct for the color-blind (Okabe and Ito).
STREAMS = {
    "text": ("#6b7280", "text"),
    "captions": ("#d55e00", "captions (OpenMoji, easy-VQA)"),
    "interleaved": ("#0072b2", "interleaved (easy-VQA)"),
}
RIGHT, WRONG, SOFT = "#15803d", "#b91c1c", "#6b7280"
HEADER = ("", "correct image", "wrong image", "baseline")
GALLERY_TITLES = {
    "easy_vqa": "easy-VQA: questions about unseen pictures",
    "openmoji": "OpenMoji: unseen pictures named",
}


# ---- Reading ----


def read_losses(log: Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """{"train" | "valid": {stream: [(update, bits per token), …]}} from fairseq's JSON lines.

    A resumed run logs some updates again; the last values are taken.
    """
    losses: dict[str, dict[str, dict[int, float]]] = {"train": {}, "valid": {}}
    for kind, values in re.findall(r"\| INFO \| (train_inner|valid) \| (\{.*\})", log.read_text("utf-8")):
        split, prefix = ("valid", "valid_") if kind == "valid" else ("train", "")
        row = json.loads(values)
        for stream in STREAMS:
            if f"{prefix}loss_{stream}" in row:
                by_update = losses[split].setdefault(stream, {})
                by_update[int(row[f"{prefix}num_updates"])] = float(row[f"{prefix}loss_{stream}"])
    if not losses["train"]:
        raise SystemExit(f"{log} has no losses. Train with: fairseq-train … --log-format json --log-file {log}")
    return {
        split: {stream: sorted(by_update.items()) for stream, by_update in streams.items()}
        for split, streams in losses.items()
    }


def read_results(folder: Path) -> tuple[dict, dict]:
    """(losses, results) of a folder. Raises SystemExit that names every missing file."""
    missing = [name for name in ("train.log", "results.json") if not (folder / name).is_file()]
    if missing:
        raise SystemExit(
            f"{folder} has no {' and no '.join(missing)}. train.log is fairseq-train's --log-file, "
            "results.json is written by evaluate.py."
        )
    results = json.loads((folder / "results.json").read_text("utf-8"))
    return read_losses(folder / "train.log"), results


def is_right(example: dict) -> bool:
    """Whether the answer is the truth, apart from case and a full stop."""
    return example["output"].strip(" .").lower() == example["truth"].strip(" .").lower()


# ---- Figures as text ----


def percent(value: float, bounds: Sequence[float] | None = None) -> str:
    """`95.3%`, or with its interval `95.3% (94.9-95.7)`."""
    return f"{100 * value:.1f}%" + (f" ({100 * bounds[0]:.1f}-{100 * bounds[1]:.1f})" if bounds else "")


def decimal(value: float, bounds: Sequence[float] | None = None) -> str:
    return f"{value:.1f}" + (f" ({bounds[0]:.1f}-{bounds[1]:.1f})" if bounds else "")


def duration(seconds: float) -> str:
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"


def millions(count: float) -> str:
    return f"{count / 1e6:.2f} M"


def figures(results: dict) -> list[tuple[str, str, str, str]]:
    """The rows of the summary, under HEADER; a name that begins with two spaces is part of the row above."""
    vqa, emoji = results["easy_vqa"], results["openmoji"]
    candidates = emoji["candidates"]
    return [
        (
            f"easy-VQA, {vqa['n']:,} test answers right",
            percent(vqa["accuracy"], vqa["accuracy_interval"]),
            percent(vqa["shuffled"], vqa["shuffled_interval"]),
            f"no pictures {percent(vqa['question_only_reported'])}",
        ),
        *(
            (f"  {kind}, {part['n']:,}", percent(part["accuracy"]), percent(part["shuffled"]), "")
            for kind, part in vqa["by_kind"].items()
        ),
        (
            f"OpenMoji, {emoji['n']:,} names: mean rank of {candidates}",
            decimal(emoji["mean_rank"], emoji["mean_rank_interval"]),
            decimal(emoji["shuffled_mean_rank"], emoji["shuffled_mean_rank_interval"]),
            f"by chance {decimal((candidates + 1) / 2)}",
        ),
        ("  name ranked first", percent(emoji["top1"]), "", f"by chance {percent(1 / candidates)}"),
        ("  name among the first ten", percent(emoji["top10"]), "", f"by chance {percent(10 / candidates)}"),
        *(
            (
                f"{shapes['title']}, {shapes['n']:,}: {shapes['metric']}",
                decimal(shapes["own"][0], shapes["own"][1:]),
                decimal(shapes["shuffled"][0], shapes["shuffled"][1:]),
                f"untrained {decimal(shapes['untrained'][0], shapes['untrained'][1:])}",
            )
            for shapes in results["shapes"].values()
        ),
    ]


def facts(results: dict) -> list[tuple[str, str]]:
    """What was trained, and on which machine."""
    train, machine = results["train"], results["machine"]
    return [
        ("Updates", f"{train['updates']:,}"),
        ("Training time", duration(train["seconds"])),
        ("Parameters", millions(train["parameters"])),
        ("of these trained", millions(train["trainable_parameters"])),
        ("Processor", f"{machine['cpu']}, {machine['cores']} cores"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in machine["versions"].items())),
    ]


def print_summary(results: dict) -> None:
    """Print the figures as a table, with 95% intervals in brackets."""
    rows = [HEADER, *figures(results)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "-" * max(map(len, lines)))
    print("\n".join(lines))
    print()
    for name, value in facts(results):
        print(f"{name:<17} {value}")


# ---- Pictures ----


def loss_figure(losses: dict) -> plt.Figure:
    """Loss curves of the streams: lines for training, dots for validation."""
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    for stream, points in losses["train"].items():
        color, title = STREAMS[stream]
        updates, values = zip(*points, strict=True)
        axes.plot(updates, values, color=color, linewidth=1.6, label=title)
        if stream in losses["valid"]:
            updates, values = zip(*losses["valid"][stream], strict=True)
            axes.plot(updates, values, "o", color=color, markersize=5, markeredgecolor="white")
    axes.plot([], [], "o", color="black", markersize=5, label="held out")
    axes.set_xlabel("updates")
    axes.set_ylabel("loss (bits per token)")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.grid(axis="y", color="#e5e7eb")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def examples_figure(examples: list[dict], folder: Path, columns: int = 6) -> plt.Figure:
    """A row for each kind of example, at most `columns` wide: picture, question, the model's answer, the truth."""
    rows = [[example for example in examples if example["kind"] == kind][:columns] for kind in GALLERY_TITLES]
    rows = [row for row in rows if row]
    figure, grid = plt.subplots(len(rows), columns, figsize=(2 * columns, 3 * len(rows)), squeeze=False, dpi=110)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.99, bottom=0.14, wspace=0.1, hspace=0.5)
    for axes in grid.flat:
        axes.axis("off")
    for row, panels in zip(rows, grid, strict=True):
        for example, axes in zip(row, panels, strict=False):
            axes.imshow(plt.imread(folder / example["image"]))
            mark, color = ("✓", RIGHT) if is_right(example) else ("✗", WRONG)
            lines = [
                (shown_prompt(example), SOFT, "normal"),
                (f"{mark} {shown_answer(example)}", color, "bold"),
                ("" if is_right(example) else f"truth: {example['truth']}", "black", "normal"),
            ]
            height = -0.04
            for text, text_color, weight in lines:
                wrapped = textwrap.wrap(text, 24)
                position = {"transform": axes.transAxes, "ha": "center", "va": "top", "fontsize": 9}
                axes.text(0.5, height, "\n".join(wrapped), color=text_color, weight=weight, **position)
                height -= 0.1 * len(wrapped)
    return figure


def to_svg(figure: plt.Figure) -> str:
    """The figure as an SVG element for a page; equal figures give equal text."""
    text = io.StringIO()
    with plt.rc_context({"svg.hashsalt": "report"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


# ---- The page ----


@dataclass(frozen=True)
class Bar:
    """A share as a horizontal bar."""

    name: str
    value: float
    interval: tuple[float, float] | None = None  # drawn as a whisker
    highlighted: bool = False


@dataclass(frozen=True)
class Card:
    """A held-out picture with the model's answer."""

    image: str  # a data URI
    prompt: str
    answer: str
    truth: str
    right: bool


def card(example: dict, folder: Path) -> Card:
    path = folder / example["image"]
    image = data_uri(path.read_bytes(), mimetypes.guess_type(path)[0])
    return Card(image, shown_prompt(example), shown_answer(example), example["truth"], is_right(example))


def shown_answer(example: dict) -> str:
    return example["output"].strip() or "(nothing)"


def shown_prompt(example: dict) -> str:
    """The prompt without the parts that all prompts share."""
    prompt = example["prompt"].replace("<image>", "").strip()
    return re.sub(r"^Question: (.*) Answer:$", r"\1", prompt)


def page(losses: dict, results: dict, folder: Path) -> str:
    """The whole report as one HTML page."""
    vqa, emoji, train, machine = (results[key] for key in ("easy_vqa", "openmoji", "train", "machine"))
    tiles = [
        (
            percent(vqa["accuracy"]),
            f"of easy-VQA's test answers exactly right; with the wrong image {percent(vqa['shuffled'])}",
        ),
        (
            decimal(emoji["mean_rank"]),
            f"mean rank of an unseen emoji's name among {emoji['candidates']}; with the wrong image "
            f"{decimal(emoji['shuffled_mean_rank'])}",
        ),
        (duration(train["seconds"]), f"of training: {train['updates']:,} updates on {machine['cores']} cores"),
    ]
    bars = [
        Bar("Correct image", vqa["accuracy"], vqa["accuracy_interval"], highlighted=True),
        Bar("Wrong image", vqa["shuffled"], vqa["shuffled_interval"]),
        Bar("Baseline: a model of the questions only, as reported", vqa["question_only_reported"]),
    ]
    cards = {
        title: [card(example, folder) for example in results["examples"] if example["kind"] == kind]
        for kind, title in GALLERY_TITLES.items()
    }
    final = [f"{STREAMS[stream][1]} {points[-1][1]:.2f}" for stream, points in losses["valid"].items()]
    return render(
        TEMPLATE,
        parameters=millions(train["parameters"]),
        trainable=millions(train["trainable_parameters"]),
        tiles=tiles,
        bars=bars,
        percent=percent,
        figures=Table("Figures", HEADER, figures(results)),
        final_losses=", ".join(final) or "not measured",
        loss=to_svg(loss_figure(losses)),
        galleries={title: shown for title, shown in cards.items() if shown},
        facts=facts(results),
    )


def write_report(folder: Path) -> Path:
    """Write the page and the two pictures, print the summary, and return the page's path."""
    losses, results = read_results(folder)
    write_text(folder / "report.html", page(losses, results, folder))
    loss_figure(losses).savefig(folder / "loss.png", dpi=130)
    examples_figure(results["examples"], folder).savefig(folder / "examples.png")
    plt.close("all")
    print_summary(results)
    return folder / "report.html"


def main() -> None:
    parser = argparse.ArgumentParser(description="Write report.html and print the quickstart's results.")
    parser.add_argument("results", type=Path, help="folder with train.log and results.json")
    path = write_report(parser.parse_args().results)
    print(f"\nThe report with pictures: {path}")


if __name__ == "__main__":
    main()
