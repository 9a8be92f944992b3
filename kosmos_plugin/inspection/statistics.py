"""kosmos-prepare stats: statistics and plots of the corpora of a data YAML.

    kosmos-prepare stats DATA.yaml --out FOLDER
    kosmos-prepare stats --like train.sh --out FOLDER --documents 100000 --updates 300000

FOLDER gets statistics.html, statistics.json, statistics.md and statistics.png. If a corpus has more than --documents
documents, a random sample of that size is examined, and its totals are marked as estimates. Images are counted, not
decoded (kosmos-prepare check decodes them).
"""

import argparse
import sys

from kosmos_plugin.errors import UserError
from kosmos_plugin.inspection.options import SequenceOptions, StatisticsOptions, add_training_options, training_options
from kosmos_plugin.options import add_options, parsed_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_training_options(parser, SequenceOptions)
    add_options(parser, StatisticsOptions)


def run(args: argparse.Namespace) -> None:
    """Write the statistics and print the tables."""
    from kosmos_plugin.inspection import corpus_statistics, statistics_report

    data, training = training_options(args, SequenceOptions)
    options = parsed_options(args, StatisticsOptions)
    streams = corpus_statistics.mixture_statistics(data, training, options)
    report = statistics_report.StatisticsReport(
        data, options.split, training.tokens_per_sample, training.image_tokens, options.updates, streams
    )
    try:
        report.write(options.out)
    except OSError as error:
        raise UserError(f"Cannot write to {options.out}: {error.strerror}.") from None
    print(report.as_text())
    print(f"\nThe statistics are in {options.out}", file=sys.stderr)
