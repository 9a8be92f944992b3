"""kosmos-prepare stats: what is in the corpora of a data YAML, in numbers and plots.

    kosmos-prepare stats DATA.yaml --out FOLDER
    kosmos-prepare stats DATA.yaml --out FOLDER --documents 100000 --updates 300000

FOLDER gets statistics.json, statistics.md and statistics.png. Of a corpus of more than --documents documents that many
are looked at, chosen at random; its totals are then estimated, and are marked so. Give the options of fairseq-train,
which say how long documents are. Images are counted and not decoded (kosmos-prepare check does that).
"""

import argparse
import sys
from pathlib import Path

from fairseq_cli_ext import require_positive
from kosmos_plugin.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add("data", metavar="DATA.yaml", help="the data YAML: streams, corpora, vocabulary")
    add("--out", metavar="FOLDER", type=Path, required=True, help="folder for what is made")
    add("--documents", type=int, default=10_000, help="look at this many documents of a corpus (default: 10000)")
    add("--updates", type=int, help="also say how often so many updates go through each corpus")
    add("--split", choices=("train", "valid"), default="train", help="which corpora (default: train)")
    add("--image-tokens", type=int, default=64, help="embeddings an image takes in a sequence (default: 64)")
    add("--tokens-per-sample", type=int, default=2048, help="length of a row (default: 2048)")
    add("--seed", type=int, default=1, help="of the order of documents, and of those that are looked at (default: 1)")


def run(args: argparse.Namespace) -> None:
    from kosmos_plugin.atomic import write_text
    from kosmos_plugin.data.config import read_data_config
    from kosmos_plugin.data.mixture import Mixture
    from kosmos_plugin.data.samples import SampleBuilder
    from kosmos_plugin.data.skips import SkipCounter
    from kosmos_plugin.inspection import corpus_statistics, statistics_report
    from kosmos_plugin.vocabulary import Vocabulary

    require_positive(args, ("documents", "image_tokens", "tokens_per_sample"))
    if args.updates is not None:
        require_positive(args, ("updates",))
    config = read_data_config(args.data)
    sample_builder = SampleBuilder(Vocabulary.load(config.vocabulary), args.image_tokens, args.tokens_per_sample)
    mixture = Mixture(config, args.split, sample_builder, args.seed, SkipCounter(max_rate=1.0))
    streams = [
        corpus_statistics.of_stream(mixture, number, sample_builder, args.split, args.documents, args.updates)
        for number in range(len(mixture.streams))
    ]
    corpora = [corpus for stream in streams for corpus in stream.corpora]
    tables = statistics_report.tables(streams, args.updates)
    about = {
        "data": args.data,
        "split": args.split,
        "tokens_per_sample": args.tokens_per_sample,
        "image_tokens": args.image_tokens,
        "updates": args.updates,
    }
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        as_json = statistics_report.as_json(about, streams)
        write_text(args.out / "statistics.json", as_json)
        write_text(args.out / "statistics.md", statistics_report.as_markdown(about, tables))
        statistics_report.plot(corpora, args.out / "statistics.png")
    except OSError as error:
        raise UserError(f"Cannot write to {args.out}: {error.strerror}.") from None
    print(statistics_report.as_text(tables))
    print(f"\nThe numbers and plots are in {args.out}", file=sys.stderr)
