"""Options of kosmos-inspect, kosmos-prepare stats and kosmos-prepare show.

Some of them are options of the training, which affect its sequences, batches and pixels. `--like` reads these from a
training, so that they need not be repeated; options given explicitly win.
"""

import argparse
import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kosmos_plugin.errors import UserError
from kosmos_plugin.models.config import KosmosConfig
from kosmos_plugin.options import REQUIRED, add_options, option

SPLITS = ("train", "valid")


@dataclass(frozen=True)
class SequenceOptions:
    """Options of a training that affect its sequences."""

    vocabulary: str | None = option(
        None, "folder of sentencepiece.model and dict.txt (default: the data YAML's)", metavar="FOLDER"
    )
    image_tokens: int = option(KosmosConfig.image_tokens, "embeddings per image", metavar="N", minimum=1)
    tokens_per_sample: int = option(KosmosConfig.tokens_per_sample, "tokens per row", metavar="N", minimum=1)
    seed: int = option(1, "seed of the document order", metavar="N")


@dataclass(frozen=True)
class InputOptions(SequenceOptions):
    """Options of a training that affect its sequences and images."""

    image_size: int = option(KosmosConfig.image_size, "image height and width, in pixels", metavar="N", minimum=1)
    image_fit: str = option(KosmosConfig.image_fit, "how an image is made square", ("crop", "stretch"))
    image_decoding: str = option("draft", "how images are decoded", ("exact", "draft", "fast"))


@dataclass(frozen=True)
class BatchOptions(InputOptions):
    """Options of a training that affect its micro-batches."""

    ranks: int = option(1, "number of ranks (GPUs)", metavar="N", minimum=1)
    update_freq: int = option(1, "micro-batches per rank and update", metavar="N", minimum=1)


@dataclass(frozen=True)
class MicroBatchOptions:
    """Which micro-batch kosmos-inspect shows, and how."""

    split: str = option("train", "the corpora's split", SPLITS)
    update: int = option(0, "update to show, counted from 0", metavar="N", minimum=0)
    rank: int = option(0, "rank to show, counted from 0", metavar="N")
    accumulation_step: int = option(0, "micro-batch of the update's --update-freq, counted from 0", metavar="N")
    rows: int = option(4, "maximum rows to show per stream", metavar="N", minimum=1)
    html: Path | None = option(None, "also write the micro-batch with its images as a page", metavar="PAGE.html")


@dataclass(frozen=True)
class StatisticsOptions:
    """What kosmos-prepare stats counts."""

    out: Path = option(REQUIRED, "folder for the results", metavar="FOLDER")
    documents: int = option(10_000, "documents to examine per corpus", metavar="N", minimum=1)
    updates: int | None = option(None, "also report the epochs of each corpus in N updates", metavar="N", minimum=1)
    split: str = option("train", "the corpora's split", SPLITS)


@dataclass(frozen=True)
class ShowOptions:
    """Which documents kosmos-prepare show shows."""

    out: Path = option(REQUIRED, "the page", metavar="PAGE.html")
    documents: int = option(5, "documents per stream", metavar="N", minimum=1)
    stream: tuple[str, ...] = option((), "show only these streams (default: all)", metavar="NAME")
    corpus: tuple[str, ...] = option((), "show only these corpora (default: all)", metavar="NAME")
    split: str = option("train", "the corpora's split", SPLITS)


Training = TypeVar("Training", bound=SequenceOptions)


def add_training_options(parser: argparse.ArgumentParser, training: type[SequenceOptions]) -> None:
    """Add DATA.yaml, `--like` and the options of `training`, which is one of the dataclasses above."""
    parser.add_argument("data", metavar="DATA.yaml", nargs="?", help="the data YAML (default: the one of --like)")
    group = parser.add_argument_group("options of the training")
    group.add_argument(
        "--like",
        metavar="COMMAND_OR_CHECKPOINT",
        help="read DATA.yaml and the following options from a training: a script that calls fairseq-train or "
        "fairseq-hydra-train, a Hydra YAML, or a checkpoint (.pt, .safetensors); options given here win (default: "
        "none)",
    )
    for action in add_options(group, training):
        action.default = None  # None: not given. The help text shows the default


def training_options(args: argparse.Namespace, training: type[Training]) -> tuple[str, Training]:
    """Resolve the options of `add_training_options`: explicit ones win, then those of --like, then the defaults.

    Returns:
        The path of the data YAML, and the options.

    Raises:
        UserError: There is no data YAML, or --like cannot be read.
    """
    like: dict[str, Any] = {}
    if args.like is not None:
        from kosmos_plugin.inspection.like import read_like

        like = read_like(args.like)
    values = {}
    for field in dataclasses.fields(training):
        given = getattr(args, field.name)
        values[field.name] = like.get(field.name, field.default) if given is None else given
    return _data(args, like), training(**values)


def _data(args: argparse.Namespace, like: dict[str, Any]) -> str:
    if args.data is not None:
        return args.data
    if args.like is None:
        raise UserError("Give DATA.yaml, or --like COMMAND_OR_CHECKPOINT that names it.")
    if like["data"] is None:
        raise UserError(f"--like {args.like} names no data YAML: give DATA.yaml.")
    if not os.path.isfile(like["data"]):
        raise UserError(f"--like {args.like} names the data YAML {like['data']}, which does not exist: give DATA.yaml.")
    return like["data"]
