"""kosmos-evaluate: a model on the paper's benchmarks, with the paper's figures beside its own.

    kosmos-evaluate --path CHECKPOINT --benchmark coco --data FOLDER --shots 0,2,4,8
    kosmos-evaluate --path CHECKPOINT --benchmark all --data FOLDER
    torchrun --nproc_per_node 8 -m fairseq_cli_ext.evaluate --path CHECKPOINT --benchmark vqav2,vizwiz --data FOLDER
    kosmos-evaluate --list                       the benchmarks, and where in FOLDER the files of their releases belong
    kosmos-evaluate --compare FIRST SECOND       two checkpoints, by the --out of each

Answers are kept as they are made: a run that was stopped goes on where it was. --out gets a table and a plot
(report.html, report.md, report.png, results.json), and for each benchmark every answer (predictions.jsonl), a page to
look through (page.html) and, where there is a test server, the file to submit.
"""

import argparse
import sys
from pathlib import Path

from fairseq_cli_ext import main_of_command, require_positive


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kosmos-evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--path", type=Path, help="checkpoint of fairseq-train or kosmos-convert")
    add("--vocabulary", help="folder of sentencepiece.model and dict.txt, if the checkpoint's data YAML moved")
    add("--benchmark", metavar="NAME[,NAME…]", help="the benchmarks (--list), or all")
    add("--data", type=Path, metavar="FOLDER", help="where the releases are, each in its folder (--list)")
    add("--shots", metavar="N[,N…]", help="numbers of demonstrations (default: the paper's of each benchmark)")
    add("--split", help="another split than the paper's, of one benchmark")
    add("--out", type=Path, default=Path("evaluation_results"), help="folder for all results (evaluation_results)")
    add("--batch-size", type=int, default=16, help="items at a time (default: 16)")
    add("--seed", type=int, default=1, help="of the demonstrations (default: 1)")
    add("--limit", type=int, help="only so many of each benchmark's first items, for a quick look")
    add("--list", action="store_true", help="show the benchmarks and where their files belong")
    add("--compare", type=Path, nargs=2, metavar="OUT", help="compare the results of two checkpoints")
    return parser


def run(arguments: list[str] | None) -> None:
    args = parser().parse_args(arguments)
    if args.list:
        _list()
    elif args.compare:
        _compare(*args.compare)
    else:
        _evaluate(args)


def _list() -> None:
    from kosmos_plugin.evaluation.benchmarks import BENCHMARKS, benchmark_class

    for name in BENCHMARKS:
        benchmark = benchmark_class(name)
        shots = ", ".join(map(str, benchmark.shots))
        print(f"{name}  (§{benchmark.section}: {benchmark.title}; splits {', '.join(benchmark.splits)}; {shots} shots)")
        print(f"    FOLDER/{benchmark.release}/: {benchmark.source}")


def _compare(first: Path, second: Path) -> None:
    from kosmos_plugin.evaluation.reporting.compare import compare

    print(compare(first, second))


def _evaluate(args: argparse.Namespace) -> None:
    from kosmos_plugin.errors import UserError
    from kosmos_plugin.evaluation.plan import plan_runs
    from kosmos_plugin.evaluation.ranks import Ranks
    from kosmos_plugin.evaluation.reporting.plot import check_tools
    from kosmos_plugin.evaluation.reporting.report import as_text, write_report
    from kosmos_plugin.evaluation.responder import KosmosResponder
    from kosmos_plugin.evaluation.results import read_results, write_results
    from kosmos_plugin.evaluation.run import evaluate
    from kosmos_plugin.generation.generator import load

    for option in ("path", "benchmark", "data"):
        if getattr(args, option) is None:
            raise UserError(f"Give --{option}, or --list, or --compare; --help says more.")
    require_positive(args, ("batch_size",) if args.limit is None else ("batch_size", "limit"))
    check_tools()
    runs = plan_runs(args.path, args.benchmark, args.data, args.shots, args.split, args.seed, args.limit)
    ranks = Ranks.join()
    responder = KosmosResponder(load(args.path, vocabulary=args.vocabulary))
    for planned in runs:
        result = evaluate(planned, responder, args.out, args.batch_size, ranks)
        if result is not None:
            others = [other for other in read_results(args.out) if other.key != result.key]
            write_results(args.out, [*others, result])
    if ranks.is_first:
        write_report(args.out)
        print(as_text(read_results(args.out)))
        print(f"\nThe report is {args.out / 'report.html'}", file=sys.stderr)
    ranks.leave()


def cli_main(arguments: list[str] | None = None) -> None:
    main_of_command(run, arguments)


if __name__ == "__main__":
    cli_main()
