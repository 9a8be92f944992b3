"""kosmos-convert: checkpoints in and out of fairseq.

    kosmos-convert --to fairseq     kosmos-2-patch14-224/ kosmos-2/      Hugging Face's KOSMOS-2 → model.pt, vocabulary/
    kosmos-convert --to huggingface checkpoint_best.pt my-kosmos-2/      the architecture kosmos_2 → transformers
    kosmos-convert --to safetensors checkpoint_best.pt model.safetensors any checkpoint of fairseq
    kosmos-convert --to fairseq     model.safetensors model.pt           and back, bit by bit

Weights and configuration are converted; the state of optimizer and training stays behind. What a format cannot express
is refused by name, and a target is there whole or not at all.
"""

import argparse
from pathlib import Path

from fairseq_cli_ext import main_of_command


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kosmos-convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--to", required=True, choices=("fairseq", "huggingface", "safetensors"), help="format of the target")
    add("source", metavar="SOURCE", type=Path, help="a checkpoint (.pt, .safetensors) or a Hugging Face folder")
    add("target", metavar="TARGET", type=Path, help="the file or folder to write; it must not be there")
    add("--data", metavar="DATA.yaml", help="the data YAML of SOURCE's training, if it moved (for its vocabulary)")
    add("--vocabulary", metavar="FOLDER", help="the vocabulary of SOURCE, if it moved")
    return parser


def run(arguments: list[str] | None) -> None:
    args = parser().parse_args(arguments)
    from kosmos_plugin.checkpoints.convert import convert

    convert(args.source, args.target, args.to, args.data, args.vocabulary)
    print(f"{args.target} is written.")


def cli_main(arguments: list[str] | None = None) -> None:
    main_of_command(run, arguments)


if __name__ == "__main__":
    cli_main()
