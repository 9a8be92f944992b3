"""kosmos-convert: convert checkpoints from and to other formats.

    kosmos-convert --to transformers checkpoint_best.pt my-kosmos/        any architecture → a folder for transformers
    kosmos-convert --to fairseq      my-kosmos/ back/                     and back → model.pt, vocabulary/
    kosmos-convert --to huggingface  checkpoint_best.pt my-kosmos-2/      kosmos_2 → transformers' own KOSMOS-2
    kosmos-convert --to fairseq      kosmos-2-patch14-224/ kosmos-2/      and back, also the public KOSMOS-2
    kosmos-convert --to safetensors  checkpoint_best.pt model.safetensors any checkpoint of fairseq
    kosmos-convert --to fairseq      model.safetensors model.pt           and back, bit by bit
    kosmos-convert --to fairseq      old.pt new.pt                        any → one that stands alone

What is written here stands alone: it carries its vocabulary, and loads wherever it is moved. So do checkpoints of
fairseq-train; older ones need the data YAML of their training, or --data or --vocabulary, to become one. An adapter
(--lora-rank) is merged into its base.

A folder of --to transformers carries the model's code: transformers loads it with trust_remote_code=True, without this
package and without fairseq. One of --to huggingface has no code: transformers has Kosmos2ForConditionalGeneration.

Weights and configuration are converted; optimizer and training state are not. If a format cannot express something, the
error names it. A conversion that fails leaves no target.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from fairseq_cli_ext import run_command
from fairseq_cli_ext.parser import CommandParser
from kosmos_plugin.options import REQUIRED, add_options, argument, option, parsed_options


@dataclass(frozen=True)
class ConvertOptions:
    """The command line of kosmos-convert."""

    to: str = option(
        REQUIRED,
        "what to write: fairseq, a .pt (from a Hugging Face folder: a folder of model.pt and vocabulary/); "
        "transformers, a folder with the model's code; huggingface, a folder for transformers' own KOSMOS-2; "
        "safetensors, one file",
        ("fairseq", "transformers", "huggingface", "safetensors"),
    )
    source: Path = argument("a checkpoint (.pt, .safetensors) or a Hugging Face folder", "SOURCE", must_exist=True)
    target: Path = argument("the file or folder to write; it must not exist", "TARGET")
    data: str | None = option(
        None,
        "data YAML with SOURCE's vocabulary (default: the checkpoint's own)",
        metavar="DATA.yaml",
        must_exist=True,
    )
    vocabulary: str | None = option(
        None,
        "folder with SOURCE's vocabulary (default: the checkpoint's own)",
        metavar="FOLDER",
        must_exist=True,
    )


def parser() -> CommandParser:
    """Build the command's parser."""
    parser = CommandParser("kosmos-convert", __doc__)
    add_options(parser, ConvertOptions)
    return parser


def run(args: argparse.Namespace) -> None:
    """Convert one checkpoint."""
    from kosmos_plugin.checkpoints.convert import convert

    options = parsed_options(args, ConvertOptions)
    convert(options.source, options.target, options.to, options.data, options.vocabulary)
    print(f"Wrote {options.target}.")


def cli_main(arguments: list[str] | None = None) -> None:
    """Run kosmos-convert."""
    run_command(parser(), run, arguments)


if __name__ == "__main__":
    cli_main()
