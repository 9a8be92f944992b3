"""The quickstart's results, to look at: a table in the terminal, `report.html`, and two pictures for a README.

    python report.py RESULTS_DIR

reads     RESULTS_DIR/train.log        fairseq's lines with `--log-format json`
          RESULTS_DIR/results.json     what evaluate.py measured
writes    RESULTS_DIR/report.html      one file, with its pictures inside and no script
          RESULTS_DIR/loss.png         the loss curves
          RESULTS_DIR/examples.png     held-out pictures with what the model says of each
"""

import argparse
import base64
import html
import io
import json
import mimetypes
import re
import string
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
# Stream → color and what it is called; distinct for the color-blind (Okabe and Ito).
STREAMS = {
    "text": ("#6b7280", "text"),
    "captions": ("#d55e00", "captions (OpenMoji, easy-VQA)"),
    "interleaved": ("#0072b2", "interleaved (easy-VQA)"),
}
RIGHT, WRONG, SOFT = "#15803d", "#b91c1c", "#6b7280"
HEADER = ("", "its own picture", "shuffled", "to compare")
GALLERY_TITLES = {
    "easy_vqa": "easy-VQA: questions about unseen pictures",
    "openmoji": "OpenMoji: unseen pictures named",
}


# ---- Reading ----


def read_losses(log: Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """{"train" | "valid": {stream: [(update, bits per token), …]}} from fairseq's JSON lines.

    A resumed run logs some updates again; what it says last counts.
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
    """(losses, results) of a folder; one error that names every missing file."""
    missing = [name for name in ("train.log", "results.json") if not (folder / name).is_file()]
    if missing:
        raise SystemExit(
            f"{folder} has no {' and no '.join(missing)}. train.log is fairseq-train's --log-file, "
            "results.json is written by evaluate.py."
        )
    results = json.loads((folder / "results.json").read_text("utf-8"))
    return read_losses(folder / "train.log"), results


def is_right(example: dict) -> bool:
    """Whether the model says exactly the truth, but for case and a full stop."""
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
    """The summary, row by row: what was measured, with its picture, with another's, and what to compare with."""
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
                f"{of['title']}, {of['n']:,}: {of['metric']}",
                decimal(of["own"][0], of["own"][1:]),
                decimal(of["shuffled"][0], of["shuffled"][1:]),
                f"untrained {decimal(of['untrained'][0], of['untrained'][1:])}",
            )
            for of in results["shapes"].values()
        ),
    ]


def facts(results: dict) -> list[tuple[str, str]]:
    """What was trained, and on what."""
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
    """The figures as a plain table, 95% intervals in brackets."""
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
    """Loss curves per stream, each named at its end: lines of training, dots of validation."""
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
    """A row of each kind of example, at most `columns` wide: picture, question, what the model says, the truth."""
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
                (f"{mark} {said(example)}", color, "bold"),
                ("" if is_right(example) else f"truth: {example['truth']}", "black", "normal"),
            ]
            height = -0.04
            for text, text_color, weight in lines:
                wrapped = textwrap.wrap(text, 24)
                place = {"transform": axes.transAxes, "ha": "center", "va": "top", "fontsize": 9}
                axes.text(0.5, height, "\n".join(wrapped), color=text_color, weight=weight, **place)
                height -= 0.1 * len(wrapped)
    return figure


def to_svg(figure: plt.Figure) -> str:
    """The figure as an SVG element to stand inside a page; equal figures give equal text."""
    text = io.StringIO()
    with plt.rc_context({"svg.hashsalt": "report"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


# ---- The page ----


def table(rows: Sequence[Sequence[str]], header: Sequence[str] = ()) -> str:
    """Rows whose first cell begins with two spaces are parts of the row above."""
    lines = ["<tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in header) + "</tr>"] if header else []
    for first, *others in rows:
        kind = ' class="inner"' if first.startswith("  ") else ""
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in others)
        lines.append(f"<tr><td{kind}>{html.escape(first.strip())}</td>{cells}</tr>")
    return f"<table>{''.join(lines)}</table>"


def bar(name: str, value: float, bounds: Sequence[float] | None = None, kind: str = "") -> str:
    """A horizontal bar of a share, with its interval as a whisker."""
    whisker = ""
    if bounds:
        low, high = 100 * bounds[0], 100 * bounds[1]
        whisker = f'<div class="spread" style="left: {low:.2f}%; width: {high - low:.2f}%"></div>'
    return (
        f'<div class="bar"><div class="name"><span>{html.escape(name)}</span><b>{percent(value)}</b></div>'
        f'<div class="track"><div class="fill {kind}" style="width: {100 * value:.2f}%"></div>{whisker}</div></div>'
    )


def tile(value: str, meaning: str) -> str:
    return f'<div class="tile"><b>{html.escape(value)}</b><span>{html.escape(meaning)}</span></div>'


def card(example: dict, folder: Path) -> str:
    """One held-out picture, what was asked, what the model says, and the truth."""
    path = folder / example["image"]
    data = base64.b64encode(path.read_bytes()).decode()
    kind, mark = ("right", "✓") if is_right(example) else ("wrong", "✗")
    prompt = shown_prompt(example)
    asked = f'<span class="soft">{html.escape(prompt)}</span>' if prompt else ""
    return (
        f'<figure class="{kind}"><img src="data:{mimetypes.guess_type(path)[0]};base64,{data}" '
        f'alt="{html.escape(example["truth"])}"><figcaption>{asked}'
        f'<span class="says" title="{kind}">{mark}&nbsp;{html.escape(said(example))}</span>'
        f"<span>truth: {html.escape(example['truth'])}</span></figcaption></figure>"
    )


def said(example: dict) -> str:
    return example["output"].strip() or "(nothing)"


def shown_prompt(example: dict) -> str:
    """The prompt without what is the same in all of them."""
    prompt = example["prompt"].replace("<image>", "").strip()
    return re.sub(r"^Question: (.*) Answer:$", r"\1", prompt)


def gallery(kind: str, examples: list[dict], folder: Path) -> str:
    cards = "".join(card(example, folder) for example in examples if example["kind"] == kind)
    return f'<h3>{GALLERY_TITLES[kind]}</h3><div class="gallery">{cards}</div>' if cards else ""


def page(losses: dict, results: dict, folder: Path) -> str:
    """The whole report as one HTML page."""
    vqa, emoji, train, machine = (results[key] for key in ("easy_vqa", "openmoji", "train", "machine"))
    lede = (
        f"A KOSMOS model of {millions(train['parameters'])} parameters, {millions(train['trainable_parameters'])} of "
        "them trained, after one run of the quickstart."
    )
    tiles = [
        tile(
            percent(vqa["accuracy"]),
            f"of easy-VQA's test answers exactly right; with shuffled pictures {percent(vqa['shuffled'])}",
        ),
        tile(
            decimal(emoji["mean_rank"]),
            f"mean rank of an unseen emoji's name among {emoji['candidates']}; with shuffled pictures "
            f"{decimal(emoji['shuffled_mean_rank'])}",
        ),
        tile(duration(train["seconds"]), f"of training: {train['updates']:,} updates on {machine['cores']} cores"),
    ]
    bars = [
        bar("The question's own picture", vqa["accuracy"], vqa["accuracy_interval"], "ours"),
        bar("Shuffled pictures", vqa["shuffled"], vqa["shuffled_interval"]),
        bar("No pictures (a model of the questions alone, as reported)", vqa["question_only_reported"]),
    ]
    final = [f"{STREAMS[stream][1]} {points[-1][1]:.2f}" for stream, points in losses["valid"].items()]
    return string.Template((HERE / "report_page.html").read_text("utf-8")).substitute(
        lede=html.escape(lede),
        tiles="".join(tiles),
        bars="".join(bars),
        figures=table(figures(results), HEADER),
        final_losses=html.escape(", ".join(final) or "not measured"),
        loss=to_svg(loss_figure(losses)),
        galleries="".join(gallery(kind, results["examples"], folder) for kind in GALLERY_TITLES),
        facts=table(facts(results)),
    )


def write_report(folder: Path) -> Path:
    """Write the page and the two pictures; returns the page's path."""
    losses, results = read_results(folder)
    (folder / "report.html").write_text(page(losses, results, folder), encoding="utf-8")
    loss_figure(losses).savefig(folder / "loss.png", dpi=130)
    examples_figure(results["examples"], folder).savefig(folder / "examples.png")
    plt.close("all")
    print_summary(results)
    return folder / "report.html"


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes report.html and prints the quickstart's results.")
    parser.add_argument("results", type=Path, help="folder with train.log and results.json")
    path = write_report(parser.parse_args().results)
    print(f"\nThe report with pictures: {path}")


if __name__ == "__main__":
    main()
