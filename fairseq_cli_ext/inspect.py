"""kosmos-inspect: show one micro-batch of a training, or estimate its memory, FLOPs and GPU-hours.

    kosmos-inspect DATA.yaml                                              the first update, on one rank
    kosmos-inspect --like train.sh --update 1000 --rank 3 --html page.html
    kosmos-inspect --like checkpoints/checkpoint_last.pt
    kosmos-inspect DATA.yaml --image-tokens 8 --image-size 128 --tokens-per-sample 256     as in the quickstart

The micro-batch is made by the code that makes the batches of fairseq-train; no model is built. --like reads the options
that affect it from a training; without --like, give those that differ from the defaults.

    kosmos-inspect --plan examples/kosmos_1/pretrain.sh

--plan makes the estimate from the training's command; it needs neither data nor GPUs. A file with a line such as
`# kosmos-inspect: paper pretraining` is compared with the paper's tables; the exit status is 1 if it differs.
"""

import argparse
import dataclasses
import os
import shutil
import sys
from collections.abc import Sequence
from typing import Any

from fairseq_cli_ext import run_command
from fairseq_cli_ext.parser import CommandParser
from kosmos_plugin.errors import UserError
from kosmos_plugin.inspection.options import BatchOptions, MicroBatchOptions, add_training_options, training_options
from kosmos_plugin.options import add_options, parsed_options
from kosmos_plugin.planning.options import Assumptions


class InspectParser(CommandParser):
    """The parser of both modes, a micro-batch and a plan."""

    def __init__(self) -> None:
        super().__init__("kosmos-inspect", __doc__)
        add_training_options(self, BatchOptions)
        add_options(self.add_argument_group("the micro-batch"), MicroBatchOptions)
        group = self.add_argument_group("a plan")
        group.add_argument(
            "--plan",
            metavar="COMMAND",
            help="a script that calls fairseq-train or fairseq-hydra-train (by torchrun or directly), or a Hydra YAML. "
            "The script runs up to that call, which is read and not executed (default: none)",
        )
        add_options(group, Assumptions)

    def parse_args(  # type: ignore[override]  # its overloads differ in the namespace only
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        """Parse the options. Raises UserError unless all belong to one mode."""
        parsed = super().parse_args(args, namespace)
        if (parsed.data is None and parsed.like is None) == (parsed.plan is None):
            raise UserError("Give either DATA.yaml (or --like) for a micro-batch, or --plan COMMAND for a plan.")
        if parsed.plan is None:
            self._check_unused(parsed, Assumptions, "--plan", "DATA.yaml")
        else:
            self._check_unused(parsed, BatchOptions, "DATA.yaml", "--plan")
            self._check_unused(parsed, MicroBatchOptions, "DATA.yaml", "--plan")
        return parsed

    def _check_unused(self, parsed: argparse.Namespace, options: type, mode: str, used: str) -> None:
        for field in dataclasses.fields(options):
            if getattr(parsed, field.name) != self.get_default(field.name):
                raise UserError(f"--{field.name.replace('_', '-')} goes with {mode}, not with {used}.")


def parser() -> CommandParser:
    """Build the command's parser."""
    return InspectParser()


def run(args: argparse.Namespace) -> None:
    """Show the micro-batch, or print the plan."""
    if args.plan is not None:
        _print_plan(args.plan, parsed_options(args, Assumptions))
    else:
        _show_micro_batch(*training_options(args, BatchOptions), parsed_options(args, MicroBatchOptions))


def _show_micro_batch(data: str, training: BatchOptions, options: MicroBatchOptions) -> None:
    from kosmos_plugin.atomic import write_text
    from kosmos_plugin.inspection.page import as_html
    from kosmos_plugin.inspection.text import as_text
    from kosmos_plugin.inspection.training_batch import micro_batch_report

    report, skipped = micro_batch_report(data, training, options)
    if options.html is not None:  # before the text, which may go to `| head`
        try:
            write_text(options.html, as_html(report))
        except OSError as error:
            raise UserError(f"Cannot write the page {options.html}: {error.strerror}.") from None
    color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    print(as_text(report, color, _terminal_width()))
    if skipped:
        print(f"\nskipped as broken: {skipped} (see the warnings)", file=sys.stderr)
    if options.html is not None:
        print(f"\nThe page is {options.html}", file=sys.stderr)


def _print_plan(command: str, assumptions: Assumptions) -> None:
    """Print the plan. The exit status is 1 if its file claims to be one of the paper's runs but differs."""
    from kosmos_plugin.planning.command import read_training_command
    from kosmos_plugin.planning.plan import make_plan
    from kosmos_plugin.planning.report import as_text, differences_from_paper

    assumptions.check()
    plan = make_plan(read_training_command(command), assumptions)
    found = differences_from_paper(plan)
    print(as_text(plan, found, _terminal_width()))
    if found:
        number = "one value differs" if len(found) == 1 else f"{len(found)} values differ"
        print(f"error: {number} from the paper's (the last table).", file=sys.stderr)
        sys.exit(1)


def _terminal_width() -> int:
    return min(shutil.get_terminal_size((100, 24)).columns, 120)


def cli_main(arguments: list[str] | None = None) -> None:
    """Run kosmos-inspect."""
    run_command(parser(), run, arguments)


if __name__ == "__main__":
    cli_main()
