"""kosmos-evaluate: evaluate a model on the paper's benchmarks and your own, and report the results beside the paper's.

    kosmos-evaluate --list                       the benchmarks, and where the files of their releases belong
    kosmos-evaluate --path CHECKPOINT --benchmark coco --data FOLDER --shots 0,2,4,8
    kosmos-evaluate --path CHECKPOINT --benchmark all --data FOLDER
    kosmos-evaluate --path CHECKPOINT --benchmark pets.jsonl                 your own: prompts, images and answers
    kosmos-evaluate --path CHECKPOINT --benchmark coco,riddles.py:Riddles --data FOLDER      your own, in Python
    torchrun --nproc_per_node 8 -m fairseq_cli_ext.evaluate --path CHECKPOINT --benchmark vqav2,vizwiz --data FOLDER
    kosmos-evaluate --compare FIRST SECOND       the results of two checkpoints, by the --out of each
    kosmos-evaluate --compare A1,A2,A3 B1,B2,B3  of two ways of training, with several seeds of each

A benchmark of your own is a subclass of Benchmark in FILE.py, or FILE.jsonl, whose lines are its items:

    {"prompt": "<image> Question: what is it? Answer:", "images": ["a.png"], "answer": "a dog"}
    {"prompt": "<image> This is", "images": ["a.png"], "candidates": ["a dog", "a cat"], "answer": "a dog"}

docs/evaluation.md describes both.

Answers are saved as they are made: an interrupted run resumes where it stopped. --out gets a table and a plot
(report.html, report.md, report.png, results.json), and for each benchmark all answers (predictions.jsonl), a page for
browsing them (page.html) and, for a benchmark with a test server, the file to submit.

A text-only model is not asked about benchmarks with images, and `all` leaves out benchmarks whose files are missing.
The last lines say what was not run, and where files belong. If one benchmark fails, the others are run all the same;
the exit status is then 2.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fairseq_cli_ext import run_command
from fairseq_cli_ext.parser import CommandParser
from kosmos_plugin.errors import UserError
from kosmos_plugin.generation.options import DeviceOptions
from kosmos_plugin.options import add_options, option, parsed_options

DEFAULT_OUT = "evaluation_results"


@dataclass(frozen=True)
class EvaluateOptions:
    """The options of an evaluation."""

    path: Path | None = option(
        None,
        "checkpoint of fairseq-train or kosmos-convert, or its folder (required to evaluate)",
        metavar="CHECKPOINT",
        must_exist=True,
    )
    benchmark: str | None = option(
        None,
        "benchmarks of --list, or all; your own: FILE.jsonl or FILE.py:CLASS (required to evaluate)",
        metavar="NAME[,NAME…]",
    )
    data: Path | None = option(
        None,
        "folder of the releases, each in its own folder (required, but for benchmarks of your own; default: FILE.py's)",
        metavar="FOLDER",
        must_exist=True,
    )
    vocabulary: str | None = option(
        None,
        "folder of sentencepiece.model and dict.txt (default: the checkpoint's own)",
        metavar="FOLDER",
        must_exist=True,
    )
    shots: str | None = option(
        None, "numbers of demonstrations (default: the paper's of each benchmark)", metavar="N[,N…]"
    )
    split: str | None = option(None, "split of a single benchmark (default: the paper's)", metavar="NAME")
    limit: int | None = option(
        None, "only the first N items of each benchmark, for a quick look (default: all)", minimum=1
    )
    seed: int = option(1, "seed of the demonstrations")
    batch_size: int = option(16, "items per batch", minimum=1)
    out: Path | None = option(
        None,
        f"folder for all results (default: {DEFAULT_OUT}; with --compare, the comparison is only printed)",
        metavar="FOLDER",
    )


class _ListBenchmarks(argparse.Action):
    """Prints the benchmarks and ends the program, before torch and fairseq are imported."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        from kosmos_plugin.evaluation.benchmarks import BENCHMARKS

        for name, benchmark in BENCHMARKS.items():
            splits, shots = ", ".join(benchmark.splits), ", ".join(map(str, benchmark.shots))
            print(f"{name}  (§{benchmark.section}: {benchmark.title}; splits {splits}; {shots} shots)")
            print(f"    FOLDER/{benchmark.release}/: {benchmark.source}")
        sys.stdout.flush()
        parser.exit()


def parser() -> CommandParser:
    """Build the command's parser."""
    parser = CommandParser("kosmos-evaluate", __doc__)
    add_options(parser, EvaluateOptions)
    add_options(parser.add_argument_group("device"), DeviceOptions)
    parser.add_argument(
        "--list", nargs=0, action=_ListBenchmarks, help="list the benchmarks and where their files belong"
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("FIRST", "SECOND"),
        help="compare the results of two checkpoints; with A1,A2,A3 B1,B2,B3, of several seeds (default: evaluate one)",
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Evaluate a checkpoint, or compare two."""
    if args.compare:
        from kosmos_plugin.evaluation.reporting.compare import compare, folders
        from kosmos_plugin.evaluation.reporting.comparison_report import as_text, write_comparison

        comparison = compare(*map(folders, args.compare))
        print(as_text(comparison))
        if args.out is not None:
            print(f"\nThe report is {write_comparison(comparison, args.out)}", file=sys.stderr)
    else:
        _evaluate(parsed_options(args, EvaluateOptions), parsed_options(args, DeviceOptions))


def _evaluate(options: EvaluateOptions, where: DeviceOptions) -> None:
    from kosmos_plugin.checkpoints.fairseq_checkpoint import checkpoint_file, read_kosmos
    from kosmos_plugin.evaluation.plan import needs_data, plan_runs
    from kosmos_plugin.evaluation.ranks import Ranks
    from kosmos_plugin.evaluation.reporting.plot import check_tools
    from kosmos_plugin.evaluation.reporting.report import as_text, write_report
    from kosmos_plugin.evaluation.responder import KosmosResponder
    from kosmos_plugin.evaluation.results import read_results, write_results
    from kosmos_plugin.evaluation.run import evaluate
    from kosmos_plugin.generation.generator import build_generator

    for name in ("path", "benchmark", "data"):
        if getattr(options, name) is None and (name != "data" or needs_data(options.benchmark or "")):
            raise UserError(f"Give --{name} (or --list, or --compare). `kosmos-evaluate --help` lists the options.")
    assert options.path is not None and options.benchmark is not None
    out = options.out or Path(DEFAULT_OUT)
    check_tools()
    path = checkpoint_file(options.path)
    checkpoint = read_kosmos(path, vocabulary=options.vocabulary)
    plan = plan_runs(
        path,
        options.benchmark,
        options.data,
        options.shots,
        options.split,
        options.seed,
        options.limit,
        text_only=checkpoint.config.vision_encoder == "none",
    )
    ranks = Ranks.join()
    if ranks.count > 1 and ":" in (where.device or ""):
        raise UserError(f"--device {where.device}: each of the {ranks.count} processes has its own GPU; give cuda.")
    kosmos = build_generator(checkpoint, path, where.device, where.dtype)
    del checkpoint  # the model has its weights
    responder, dtype = KosmosResponder(kosmos), str(kosmos.dtype).removeprefix("torch.")
    failed = []
    for planned in plan.runs:
        try:
            result = evaluate(replace(planned, dtype=dtype), responder, out, options.batch_size, ranks)
            if result is not None:
                others = [other for other in read_results(out) if other.key != result.key]
                write_results(out, [*others, result])
        except UserError as error:  # the other benchmarks are run all the same
            name = planned.benchmark.name
            failed.append(f"{name}: {str(error).removeprefix(f'{name}: ')}")
    if ranks.is_first:
        if len(failed) < len(plan.runs):
            write_report(out)
            print(as_text(read_results(out)))
            print(f"\nThe report is {out / 'report.html'}", file=sys.stderr)
        if plan.left_out:
            print("\n".join(["Not run:", *plan.left_out]), file=sys.stderr)
    ranks.leave()
    if failed:
        raise UserError("\n".join(dict.fromkeys(failed)))


def cli_main(arguments: list[str] | None = None) -> None:
    """Run kosmos-evaluate."""
    run_command(parser(), run, arguments, resumes=lambda args: not args.compare)


if __name__ == "__main__":
    cli_main()
