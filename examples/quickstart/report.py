"""The quickstart's results as a table in the terminal, as `report.html`, and as two pictures for a README.

    python report.py RESULTS_DIR

reads     RESULTS_DIR/train.log        fairseq's lines with `--log-format json`
          RESULTS_DIR/results.json     what evaluate.py measured
writes    RESULTS_DIR/report.html      one self-contained page, without scripts
          RESULTS_DIR/loss.png         the loss curves
          RESULTS_DIR/examples.png     held-out pictures and the model's answers
"""

import argparse
import json
import mimetypes
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
from plots import (
    GALLERY_TITLES,
    STREAMS,
    gallery_figure,
    is_right,
    loss_figure,
    shown_answer,
    shown_prompt,
    to_svg,
)

from kosmos_plugin.atomic import write_text
from kosmos_plugin.reporting.html import data_uri, render
from kosmos_plugin.reporting.tables import Table

TEMPLATE = Path(__file__).parent / "report_page.html"
# Benchmark → what its accuracy means.
TILES = {
    "colors": "of things in unseen colors named right, color and thing",
    "lines": "of unseen line drawings named right out of 100",
    "twemoji": "of another artist's drawings named right out of 100",
}
HEADER = ("", "correct image", "wrong image", "baseline")


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
    vqa = results["easy_vqa"]
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
        *(
            (
                f"{part['title']}, {part['n']:,}: {part['metric']}",
                decimal(part["own"][0], part["own"][1:]),
                decimal(part["shuffled"][0], part["shuffled"][1:]),
                f"untrained {decimal(part['untrained'][0], part['untrained'][1:])}",
            )
            for part in results["benchmarks"].values()
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


def page(losses: dict, results: dict, folder: Path) -> str:
    """The whole report as one HTML page."""
    vqa, train, machine = (results[key] for key in ("easy_vqa", "train", "machine"))
    tiles = [
        *(
            (f"{part['own'][0]:.1f}%", f"{meaning}; with the wrong picture {part['shuffled'][0]:.1f}%")
            for name, meaning in TILES.items()
            if (part := results["benchmarks"].get(name))
        ),
        (
            percent(vqa["accuracy"]),
            f"of easy-VQA's test answers exactly right; with the wrong image {percent(vqa['shuffled'])}",
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
    gallery_figure(results["examples"], folder).savefig(folder / "examples.png")
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
