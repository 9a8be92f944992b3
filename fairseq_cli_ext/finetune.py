"""kosmos-finetune: fine-tune a checkpoint on your own data, by fairseq-train.

    kosmos-finetune CHECKPOINT DATA.yaml --max-update 1000                   all of the model
    kosmos-finetune CHECKPOINT DATA.yaml --lora-rank 16                      a small adapter (LoRA), for small GPUs
    kosmos-finetune CHECKPOINT DATA.yaml --lora-rank 16 --lr 1e-3 --update-freq 4 --tensorboard-logdir logs
    torchrun --nproc-per-node 2 -m fairseq_cli_ext.finetune CHECKPOINT DATA.yaml

The command of fairseq-train is printed, then run. Architecture, sizes, input format and vocabulary are those of the
checkpoint. CHECKPOINT and DATA.yaml come first; after them, all options of fairseq-train can be given, and replace what
would be printed otherwise. The same command, given again, goes on from the last checkpoint in --save-dir.
"""

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq_cli_ext import run_command
from fairseq_cli_ext.parser import CommandParser
from kosmos_plugin.errors import UserError
from kosmos_plugin.options import add_options, argument, option, parsed_options


@dataclass(frozen=True)
class FinetuneOptions:
    """The command line of kosmos-finetune, without what goes to fairseq-train as it is."""

    checkpoint: Path = argument(
        "a checkpoint of fairseq-train or kosmos-convert, or a folder with one", "CHECKPOINT", must_exist=True
    )
    data: Path = argument("the data YAML; its vocabulary is not used", "DATA.yaml", must_exist=True)
    lora_rank: int = option(0, "train an adapter of this rank; 0: all of the model", minimum=0)
    max_update: int = option(1000, "length of the training, in updates", minimum=1)
    save_dir: Path = option(Path("finetuned"), "folder of the new checkpoints", metavar="FOLDER")
    vocabulary: str | None = option(
        None,
        "folder with CHECKPOINT's vocabulary (default: the checkpoint carries it; of version 0.1: beside it)",
        metavar="FOLDER",
        must_exist=True,
    )
    dry_run: bool = option(False, "print the command only")


class FinetuneParser(CommandParser):
    """A parser that leaves the options it does not know to fairseq-train."""

    def __init__(self) -> None:
        super().__init__("kosmos-finetune", __doc__, allow_abbrev=False)
        add_options(self, FinetuneOptions)

    def parse_known_args(  # type: ignore[override]  # its overloads differ in the namespace only
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse the options; `further` are those of fairseq-train."""
        known, further = argparse.ArgumentParser.parse_known_args(self, args, namespace)
        known.further = further
        return known, []


def parser() -> CommandParser:
    """Build the command's parser."""
    return FinetuneParser()


def run(args: argparse.Namespace) -> None:
    """Print the command of fairseq-train, and become it."""
    from kosmos_plugin.fairseq_modules.finetuning import Finetuning, finetuning_command

    options = parsed_options(args, FinetuneOptions)
    finetuning = Finetuning(
        options.checkpoint, options.data, options.vocabulary, options.lora_rank, options.max_update, options.save_dir
    )
    arguments = finetuning_command(finetuning, args.further)
    if int(os.environ.get("RANK", 0)) == 0:
        print(as_shell(arguments), flush=True)
    if not options.dry_run:
        program = _fairseq_train()
        os.execv(program, [program, *arguments])


def as_shell(arguments: Sequence[str]) -> str:
    """The command as one would type it, an option and its value in each line."""
    lines: list[str] = []
    for item in map(shlex.quote, arguments):
        if item.startswith("--") or not lines:
            lines.append(item)
        else:
            lines[-1] += f" {item}"
    return "fairseq-train " + " \\\n  ".join(lines)


def _fairseq_train() -> str:
    """The program fairseq-train, first that of this environment."""
    beside = Path(sys.executable).with_name("fairseq-train")
    program = str(beside) if beside.is_file() else shutil.which("fairseq-train")
    if program is None:
        raise UserError("fairseq-train is not installed beside this Python: run the printed command where it is.")
    return program


def cli_main(arguments: list[str] | None = None) -> None:
    """Run kosmos-finetune."""
    run_command(parser(), run, arguments)


if __name__ == "__main__":
    cli_main()
