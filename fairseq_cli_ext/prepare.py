"""kosmos-prepare: raw data → what training reads: shards of images and text, binarized text, a vocabulary.

    kosmos-prepare text INPUT… --out FOLDER --vocabulary FOLDER

INPUT is a file, a folder or a pattern ("crawl/*.warc.gz"), local or on any storage that fsspec knows (s3://, https://).
A stopped run resumes where it stopped when the command is given again. FOLDER gets report.json: the counts of what was
read, dropped (and why) and kept. `kosmos-prepare COMMAND --help` lists a command's options.
"""

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fairseq_cli_ext import run_command
from fairseq_cli_ext.parser import CommandParser
from kosmos_plugin.curation.recipes.registry import RECIPES, TOOLS
from kosmos_plugin.errors import UserError
from kosmos_plugin.options import REQUIRED, add_options, argument, option, parsed_options


@dataclass(frozen=True)
class RunOptions:
    """The options of every recipe."""

    inputs: tuple[str, ...] = argument("files, folders or patterns", "INPUT")
    out: Path = option(REQUIRED, "folder for the result", metavar="FOLDER")
    workers: int = option(len(os.sched_getaffinity(0)), "processes (default: one per core)", minimum=1)


def parser() -> CommandParser:
    """Build the command's parser, with a sub-command for each recipe and tool."""
    parser = CommandParser("kosmos-prepare", __doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, recipe in RECIPES.items():
        command = commands.add_parser(
            name, help=recipe.help, description=recipe.help, epilog=f"example:\n  {recipe.example}"
        )
        add_options(command, RunOptions)
        add_options(command, recipe.options)
    for name, tool in TOOLS.items():
        command = commands.add_parser(
            name, help=tool.help, description=tool.module.__doc__, epilog=f"example:\n  {tool.example}"
        )
        tool.module.add_arguments(command)
    return parser


def run(args: argparse.Namespace) -> None:
    """Run the recipe or tool that the arguments name."""
    if args.command in TOOLS:
        TOOLS[args.command].module.run(args)
        return
    try:
        _run_recipe(args)
    except ImportError as error:  # datatrove names a missing module only in its message
        missing = f"the package {error.name.partition('.')[0]}" if error.name else f"more ({error})"
        raise UserError(
            f'kosmos-prepare {args.command} needs {missing}. Install it with `pip install "kosmos-plugin[curation]"`.'
        ) from error


def _run_recipe(args: argparse.Namespace) -> None:
    from kosmos_plugin.curation.pipeline.inputs import find_inputs
    from kosmos_plugin.curation.pipeline.run import Run
    from kosmos_plugin.curation.pipeline.runner import run_stages

    recipe = RECIPES[args.command]
    make_stages = recipe.stages  # imports the recipe's libraries, before anything is written
    options = parsed_options(args, RunOptions)
    this_run: Run[Any] = Run(
        args.command, parsed_options(args, recipe.options), find_inputs(options.inputs), options.out
    )
    is_new = this_run.begin()
    try:
        stages = make_stages(this_run)
    except UserError:  # the corrected command will be another run
        if is_new:
            this_run.withdraw()
        raise
    report = run_stages(this_run, stages, options.workers)
    print(report.as_text())
    if "kept" not in report.counts:
        raise UserError(f"Nothing was kept; the counts above, also in {this_run.report_file}, say why.")
    print(f"\nThe counts are in {this_run.report_file}", file=sys.stderr)
    if recipe.kind is not None:
        from kosmos_plugin.curation.writers.data_yaml import write_data_yaml

        corpus_file = options.out / "corpus.yaml"  # of tars that are used in place
        corpora = yaml.safe_load(corpus_file.read_text("utf-8")) if corpus_file.is_file() else ()
        print(f"\n{write_data_yaml(options.out, recipe.kind, this_run.options.vocabulary, corpora)}")


def cli_main(arguments: list[str] | None = None) -> None:
    """Run kosmos-prepare."""
    run_command(parser(), run, arguments, resumes=lambda args: args.command in RECIPES)


if __name__ == "__main__":
    cli_main()
