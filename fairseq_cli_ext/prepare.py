"""kosmos-prepare: raw data → what training reads: shards of images and text, binarized text, a vocabulary.

    kosmos-prepare text INPUT… --out FOLDER --vocabulary FOLDER

INPUT is a file, a folder or a pattern ("crawl/*.warc.gz"), here or on any storage that fsspec knows (s3://, https://).
A run that was stopped goes on where it was if it is given again; finished parts are not done again. FOLDER gets
report.json, the counts of what came in, was dropped and why, and is there. kosmos-prepare COMMAND --help says more.
"""

import argparse
import os
import sys
from pathlib import Path

from fairseq_cli_ext import main_of_command, require_positive
from fairseq_cli_ext.parser import CommandParser


def parser() -> argparse.ArgumentParser:
    from kosmos_plugin.curation.recipes.registry import COMMANDS, TOOLS
    from kosmos_plugin.options import add_options

    parser = CommandParser("kosmos-prepare", __doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        add = (of_command := commands.add_parser(name, help=command.help, description=command.help)).add_argument
        add("inputs", nargs="+", metavar="INPUT", help="files, folders or patterns")
        add("--out", type=Path, required=True, help="folder for what is made")
        add("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes (default: one a core)")
        add_options(of_command, command.options)
    for name, tool in TOOLS.items():
        tool.module.add_arguments(commands.add_parser(name, help=tool.help, description=tool.module.__doc__))
    return parser


def run(arguments: list[str] | None) -> None:
    from kosmos_plugin.curation.recipes.registry import TOOLS

    args = parser().parse_args(arguments)
    if args.command in TOOLS:
        TOOLS[args.command].module.run(args)
    else:
        _run_stages(args)


def _run_stages(args: argparse.Namespace) -> None:
    from kosmos_plugin.curation.pipeline.inputs import find_inputs
    from kosmos_plugin.curation.pipeline.runner import Run, run_stages
    from kosmos_plugin.curation.recipes.registry import COMMANDS
    from kosmos_plugin.errors import UserError
    from kosmos_plugin.options import parsed_options

    require_positive(args, ("workers",))
    command = COMMANDS[args.command]
    asked = Run(args.command, parsed_options(args, command.options), find_inputs(args.inputs), args.out)
    is_new = asked.begin()
    try:
        stages = command.stages(asked)
    except UserError:  # the options that are right then are another run
        if is_new:
            asked.withdraw()
        raise
    report = run_stages(asked, stages, args.workers)
    print(report.as_text())
    if "kept" not in report.counts:
        raise UserError(f"Nothing was kept; {asked.report_file} says why.")
    print(f"\nThe counts are in {asked.report_file}", file=sys.stderr)


def cli_main(arguments: list[str] | None = None) -> None:
    main_of_command(run, arguments)


if __name__ == "__main__":
    cli_main()
