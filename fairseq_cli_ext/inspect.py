"""kosmos-inspect: one real micro-batch of a training, in words and as a page; or the plan of a training.

    kosmos-inspect DATA.yaml                                              the first update, on one rank
    kosmos-inspect DATA.yaml --update 1000 --rank 3 --ranks 64 --html page.html
    kosmos-inspect DATA.yaml --image-tokens 8 --image-size 128 --tokens-per-sample 256     as in the quickstart

It is made by the code that makes the batches of fairseq-train. Give the same options as there: --image-tokens,
--image-size, --image-fit, --tokens-per-sample, --seed and --update-freq all change what is in it. No model is built.

    kosmos-inspect --plan examples/kosmos_1/pretrain.sh                   parameters, tokens, memory, FLOPs, GPU-hours

It is made from the command's own options; neither its data nor GPUs need be there. A file with a line such as
`# kosmos-inspect: paper pretraining` is held against the paper's tables: exit status 1 says that it differs.
"""

import argparse
import os
import shutil
import sys

from fairseq_cli_ext import main_of_command, plan, require_positive


def _parser() -> tuple[argparse.ArgumentParser, dict[str, list[argparse.Action]]]:
    """The parser, and the options that belong to each of its two modes."""
    parser = argparse.ArgumentParser(
        prog="kosmos-inspect", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options: dict[str, list[argparse.Action]] = {"DATA.yaml": [], "--plan": []}

    def adder(mode: str, title: str):
        group = parser.add_argument_group(title)
        return lambda *names, **settings: options[mode].append(group.add_argument(*names, **settings))

    add = adder("DATA.yaml", "a micro-batch")
    add("data", metavar="DATA.yaml", nargs="?", help="the data YAML: streams, corpora, vocabulary")
    add("--split", choices=("train", "valid"), default="train", help="which corpora (default: train)")
    add("--update", type=int, default=0, help="which update; the first is 0")
    add("--rank", type=int, default=0, help="whose micro-batch; the first rank is 0")
    add("--ranks", type=int, default=1, help="how many ranks (GPUs) train")
    add("--turn", type=int, default=0, help="which of the update's --update-freq micro-batches; the first is 0")
    add("--update-freq", type=int, default=1, help="micro-batches of a rank in an update")
    add("--image-tokens", type=int, default=64, help="embeddings an image takes in a sequence")
    add("--image-size", type=int, default=224, help="height and width of the images, in pixels")
    add("--image-fit", choices=("crop", "stretch"), default="crop", help="how an image is made square (default: crop)")
    add("--tokens-per-sample", type=int, default=2048, help="length of a row")
    add("--seed", type=int, default=1, help="seed of the order of documents")
    add("--rows", type=int, default=4, help="show at most this many rows of each stream (default: 4)")
    add("--html", metavar="PAGE.html", help="also write the micro-batch with its images as a page")
    plan.add_options(adder("--plan", "a plan"))
    return parser, options


def run(arguments: list[str] | None) -> None:
    args = _parse(arguments)
    if args.plan is not None:
        plan.run(args)
    else:
        _show_micro_batch(args)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    """UserError unless the options are of one mode, a micro-batch or a plan."""
    from kosmos_plugin.errors import UserError

    parser, options = _parser()
    args = parser.parse_args(arguments)
    if (args.data is None) == (args.plan is None):
        raise UserError("Give either DATA.yaml, for a micro-batch of it, or --plan COMMAND, and not both.")
    mode, other = ("--plan", "DATA.yaml") if args.plan is not None else ("DATA.yaml", "--plan")
    for option in options[other]:
        if getattr(args, option.dest) != option.default:
            raise UserError(f"{option.option_strings[0]} goes with {other}, not with {mode}.")
    return args


def _show_micro_batch(args: argparse.Namespace) -> None:
    from kosmos_plugin.errors import UserError
    from kosmos_plugin.fairseq_modules.task import KosmosMultimodalConfig, KosmosMultimodalTask
    from kosmos_plugin.inspection import micro_batch as inspection
    from kosmos_plugin.inspection.page import as_html

    _check(args)
    cfg = KosmosMultimodalConfig(
        data=args.data,
        image_tokens=args.image_tokens,
        image_size=args.image_size,
        image_fit=args.image_fit,
        tokens_per_sample=args.tokens_per_sample,
    )
    cfg.seed, cfg.update_freq = args.seed, [args.update_freq]
    task = KosmosMultimodalTask.setup_task(cfg)
    task.load_dataset(args.split)
    mixture = task.dataset(args.split)
    if args.split == "valid" and args.update >= len(mixture):
        raise UserError(f"--update must be below {len(mixture)}, the batches of the split valid, not {args.update}.")
    micro_batches = task.get_batch_iterator(mixture, num_shards=args.ranks, shard_id=args.rank).micro_batches
    item = args.update * args.update_freq + args.turn
    batch = micro_batches[item]

    root = os.path.join(os.path.normpath(os.path.dirname(args.data) or "."), "")
    names = inspection.names_of(batch, micro_batches.rows(item), root)
    rows = inspection.describe(batch, task.vocabulary, task.stream_names, names)
    shown, note = inspection.first_rows_of_each_stream(rows, args.rows)
    where = f"{args.split} · update {args.update} (epoch {args.update // len(mixture) + 1})"
    where += f" · rank {args.rank} of {args.ranks} · turn {args.turn} of {args.update_freq} · seed {args.seed}"
    report = inspection.Report(
        f"A micro-batch of {args.data}",
        where,
        [inspection.stream_table(mixture), inspection.batch_table(rows, task.stream_names)],
        shown,
        batch["images"],
        note,
    )
    color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    print(inspection.as_text(report, color, min(shutil.get_terminal_size((100, 24)).columns, 120)))
    if task.skips.skipped:
        print(f"\nskipped as broken: {task.skips.skipped} (see the warnings)", file=sys.stderr)
    if args.html:
        try:
            with open(args.html, "w", encoding="utf-8") as page:
                page.write(as_html(report))
        except OSError as error:
            raise UserError(f"Cannot write the page {args.html}: {error.strerror}.") from None
        print(f"\nThe page is {args.html}", file=sys.stderr)


def _check(args: argparse.Namespace) -> None:
    """UserError for a number out of its range."""
    from kosmos_plugin.errors import UserError

    require_positive(args, ("ranks", "update_freq", "image_tokens", "image_size", "tokens_per_sample", "rows"))
    if args.update < 0:
        raise UserError(f"--update must be at least 0, not {args.update}.")
    for name, limit, of in (("rank", args.ranks, "ranks"), ("turn", args.update_freq, "update-freq")):
        if not 0 <= getattr(args, name) < limit:
            raise UserError(f"--{name} must be 0 … {limit - 1} with --{of} {limit}, not {getattr(args, name)}.")


def cli_main(arguments: list[str] | None = None) -> None:
    main_of_command(run, arguments)


if __name__ == "__main__":
    cli_main()
