"""The report's pictures: loss curves, and a gallery of drawings with the model's answers."""

import io
import re
import textwrap
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

# Stream → color and label; the colors are distinct for the color-blind (Okabe and Ito).
STREAMS = {
    "text": ("#6b7280", "text"),
    "captions": ("#d55e00", "captions (OpenMoji, easy-VQA)"),
    "interleaved": ("#0072b2", "interleaved (easy-VQA, OpenMoji)"),
}
RIGHT, WRONG, SOFT, BORDER = "#15803d", "#b91c1c", "#6b7280", "#d0d7de"
# Kind of example → heading.
GALLERY_TITLES = {
    "colors": "Colors in which it has never seen the thing",
    "lines": "Line drawings: it has never seen any",
    "questions": "Questions about things in colors in which it has never seen them",
    "artist": "Drawings by another artist, of whom it has never seen any",
    "easy_vqa": "Questions about unseen pictures of easy-VQA",
}
ROWS, COLUMNS = 3, 5  # of the picture for a README
CARD, GAP, HEADING = (190, 218), 12, 34  # in pixels


# ---- Examples ----


def is_right(example: dict) -> bool:
    """Whether the answer is the truth, apart from case and a full stop."""
    return example["output"].strip(" .").lower() == example["truth"].strip(" .").lower()


def shown_answer(example: dict) -> str:
    return example["output"].strip() or "(nothing)"


def shown_prompt(example: dict) -> str:
    """The prompt without the parts that all prompts share."""
    prompt = example["prompt"].replace("<image>", "").strip()
    return re.sub(r"^Question: (.*) Answer:$", r"\1", prompt)


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


def gallery_figure(examples: list[dict], folder: Path) -> plt.Figure:
    """A row of cards for each of the first kinds: drawing, prompt, the model's answer, and the truth if it is wrong.

    Between the cards it is transparent, so that it fits light and dark pages.
    """
    kinds = [kind for kind in GALLERY_TITLES if any(example["kind"] == kind for example in examples)][:ROWS]
    width = COLUMNS * CARD[0] + (COLUMNS + 1) * GAP
    height = len(kinds) * (HEADING + CARD[1] + GAP)
    figure = plt.figure(figsize=(width / 100, height / 100), dpi=200, facecolor="none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    for row, kind in enumerate(kinds):
        top = row * (HEADING + CARD[1] + GAP)
        axes.text(GAP + 4, top + HEADING / 2 + 3, GALLERY_TITLES[kind], color="#7d8590", size=11, va="center")
        for column, example in enumerate([e for e in examples if e["kind"] == kind][:COLUMNS]):
            _card(axes, GAP + column * (CARD[0] + GAP), top + HEADING, example, folder)
    axes.set(xlim=(0, width), ylim=(height, 0))  # imshow has changed them
    return figure


def _card(axes: plt.Axes, left: float, top: float, example: dict, folder: Path) -> None:
    """Draw one card with its upper left corner at (left, top)."""
    width, height = CARD
    box = FancyBboxPatch((left, top), width, height, "round,pad=0,rounding_size=10", fc="white", ec=BORDER, lw=0.8)
    axes.add_patch(box)
    side, center = 132, left + width / 2
    extent = (center - side / 2, center + side / 2, top + 8 + side, top + 8)
    axes.imshow(plt.imread(folder / example["image"]), extent=extent, interpolation="antialiased", zorder=2)
    right = is_right(example)
    answer = textwrap.shorten(f"{'✓' if right else '✗'} {shown_answer(example)}", 30, placeholder="…")
    truth = "" if right else f"it is {example['truth']}"
    for text, y, size, color, weight in (
        (textwrap.shorten(shown_prompt(example), 30, placeholder="…"), 156, 9.5, SOFT, "normal"),
        (answer, 178, min(12, 216 / len(answer)), RIGHT if right else WRONG, "bold"),  # as large as the card is wide
        (truth, 201, 9.5, "black", "normal"),
    ):
        axes.text(center, top + y, text, color=color, weight=weight, size=size, ha="center", va="center", zorder=3)


def to_svg(figure: plt.Figure) -> str:
    """The figure as an SVG element for a page; equal figures give equal text."""
    text = io.StringIO()
    with plt.rc_context({"svg.hashsalt": "report"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
