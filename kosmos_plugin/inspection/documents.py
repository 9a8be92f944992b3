"""kosmos-prepare show: random documents of a data YAML as the model sees them, as one page that stands alone.

    kosmos-prepare show DATA.yaml --out page.html
    kosmos-prepare show DATA.yaml --out page.html --stream interleaved --documents 20

The page shows text, images as they are decoded, special tokens, and which tokens count in the loss. Of binarized text,
whose documents follow each other without gaps, it shows rows. Give the options of fairseq-train: they change what is in
it. kosmos-inspect shows a real micro-batch, with its documents packed together.
"""

import argparse
import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from fairseq_cli_ext import require_positive
from kosmos_plugin.errors import UserError

# Broken documents are passed over; a corpus of nothing else must not be searched to its end.
TRIES_PER_DOCUMENT = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add("data", metavar="DATA.yaml", help="the data YAML: streams, corpora, vocabulary")
    add("--out", metavar="PAGE.html", required=True, help="the page")
    add("--documents", type=int, default=5, help="documents of each stream (default: 5)")
    add("--stream", nargs="*", default=[], help="show these streams alone")
    add("--corpus", nargs="*", default=[], help="show these corpora alone")
    add("--split", choices=("train", "valid"), default="train", help="which corpora (default: train)")
    add("--image-tokens", type=int, default=64, help="embeddings an image takes in a sequence (default: 64)")
    add("--image-size", type=int, default=224, help="height and width of the images, in pixels (default: 224)")
    add("--image-fit", choices=("crop", "stretch"), default="crop", help="how an image is made square (default: crop)")
    add("--tokens-per-sample", type=int, default=2048, help="length of a row (default: 2048)")
    add("--seed", type=int, default=1, help="another seed shows other documents (default: 1)")


def run(args: argparse.Namespace) -> None:
    import torch

    from kosmos_plugin.atomic import write_text
    from kosmos_plugin.data.batch import Collator
    from kosmos_plugin.data.config import read_data_config
    from kosmos_plugin.data.mixture import Mixture
    from kosmos_plugin.data.samples import SampleBuilder
    from kosmos_plugin.data.skips import SkipCounter
    from kosmos_plugin.inspection import micro_batch as inspection
    from kosmos_plugin.inspection.page import as_html
    from kosmos_plugin.reporting.tables import as_text
    from kosmos_plugin.vocabulary import Vocabulary

    require_positive(args, ("documents", "image_tokens", "image_size", "tokens_per_sample"))
    config = read_data_config(args.data)
    _check_names("--stream", args.stream, [stream.name for stream in config.streams])
    _check_names("--corpus", args.corpus, [corpus.name for stream in config.streams for corpus in stream.corpora])
    vocabulary = Vocabulary.load(config.vocabulary)
    skips = SkipCounter(max_rate=1.0)
    sample_builder = SampleBuilder(vocabulary, args.image_tokens, args.tokens_per_sample)
    mixture = Mixture(config, args.split, sample_builder, args.seed, skips)
    collate = Collator(vocabulary, args.tokens_per_sample, args.image_size, skips, args.image_fit, "exact")

    rows, batches = [], []
    for number, stream in enumerate(mixture.streams):
        if args.stream and stream.config.name not in args.stream:
            continue
        wanted = len(rows) + args.documents
        for row in _random_rows(stream, number, args, skips):
            batch = collate([row])
            if batch["document_ids"].any():  # else an image of it is broken
                rows.append(row)
                batches.append(batch)
            if len(rows) == wanted:
                break
    if not rows:
        raise UserError(f"{args.data}: there is no document to show (skipped as broken: {skips.skipped:,}).")

    batch = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    names = [stream.config.name for stream in mixture.streams]
    root = os.path.join(os.path.normpath(os.path.dirname(args.data) or "."), "")
    described = inspection.describe(batch, vocabulary, names, inspection.names_of(batch, rows, root))
    described = [dataclasses.replace(row, parts=tuple(row.documents)) for row in described]  # without the padding
    table = dataclasses.replace(inspection.batch_table(described, names), title="On this page")
    report = inspection.Report(
        f"Documents of {args.data}",
        f"{args.split} · at random, seed {args.seed} · rows of {args.tokens_per_sample:,} tokens, without padding",
        [inspection.stream_table(mixture), table],
        described,
        batch["images"],
        f"Skipped as broken: {skips.skipped:,}." if skips.skipped else "",
    )
    out = Path(args.out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, as_html(report))
    except OSError as error:
        raise UserError(f"Cannot write the page {out}: {error.strerror}.") from None
    print(as_text(table))
    print(f"\nThe page is {out}", file=sys.stderr)


def _check_names(option: str, asked: list[str], known: list[str]) -> None:
    for name in asked:
        if name not in known:
            raise UserError(f"{option} {name}: the data YAML has {', '.join(dict.fromkeys(known))}.")


def _random_rows(stream, number: int, args: argparse.Namespace, skips) -> Iterator:
    """Rows of one sample each, of the stream's corpora that are asked for, each document of them as likely as another.

    They come in the order of a permutation that the seed chooses; broken ones are skipped, up to a limit.
    """
    import numpy as np

    from kosmos_plugin.data.documents import BrokenRecord
    from kosmos_plugin.data.order import Permutation
    from kosmos_plugin.data.packing import PackedRow

    corpora = [i for i, name in enumerate(stream.names) if not args.corpus or name in args.corpus]
    if not corpora:
        return
    ends = np.cumsum(stream.sizes[corpora])
    total = int(ends[-1])
    tries = np.arange(min(total, args.documents * TRIES_PER_DOCUMENT))
    for place in Permutation(total, args.seed)(tries).tolist():
        which = int(np.searchsorted(ends, place, side="right"))
        document = place - int(ends[which - 1] if which else 0)
        corpus = corpora[which]
        skips.count(1)
        try:
            sample = stream.corpora[corpus][document]
        except BrokenRecord as error:
            skips.skip(f"{stream.names[corpus]}/{document}", error)
        else:
            yield PackedRow(number, stream.config.cross_document_attention, (sample,))
