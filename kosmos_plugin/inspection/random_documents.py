"""Random documents of a mixture, each as a row of its own, and the report on them."""

import bisect
import dataclasses
import itertools
import os
from collections.abc import Iterator
from typing import cast

import numpy as np
import torch
from torch.utils.data import ConcatDataset

from kosmos_plugin.data.batch import Batch, Collator
from kosmos_plugin.data.config import DataConfig, read_data_config
from kosmos_plugin.data.documents import BrokenRecord
from kosmos_plugin.data.mixture import Mixture, Stream
from kosmos_plugin.data.order import Permutation
from kosmos_plugin.data.packing import PackedRow
from kosmos_plugin.data.samples import Sample, SampleBuilder
from kosmos_plugin.data.skips import SkipCounter
from kosmos_plugin.errors import UserError, did_you_mean
from kosmos_plugin.inspection import micro_batch, tables
from kosmos_plugin.inspection.options import InputOptions, ShowOptions
from kosmos_plugin.vocabulary import Vocabulary

# Broken documents are skipped; a corpus with nothing else must not be searched to its end.
TRIES_PER_DOCUMENT = 20


def documents_report(data: str, training: InputOptions, options: ShowOptions) -> micro_batch.Report:
    """Describe random documents of a data YAML, each as a row of its own.

    Raises:
        UserError: The data YAML or a name is wrong, or there is no document to show.
    """
    config = read_data_config(data)
    _check_names(config, options)
    vocabulary = Vocabulary.load(training.vocabulary or config.vocabulary)
    skips = SkipCounter(max_rate=1.0)
    row_length = training.tokens_per_sample
    sample_builder = SampleBuilder(vocabulary, training.image_tokens, row_length)
    mixture = Mixture(config, options.split, sample_builder, training.seed, skips)
    collate = Collator(vocabulary, row_length, training.image_size, skips, training.image_fit, training.image_decoding)
    documents = list(_documents(mixture, collate, training.seed, options))
    if not documents:
        raise UserError(f"{data}: there is no document to show (skipped as broken: {skips.skipped:,}).")
    rows, batches = zip(*documents, strict=True)
    batch = cast(Batch, {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]})

    root = os.path.join(os.path.normpath(os.path.dirname(data) or "."), "")
    names = [stream.config.name for stream in mixture.streams]
    described = micro_batch.describe(batch, vocabulary, names, micro_batch.sample_names(batch, rows, root))
    described = [dataclasses.replace(row, parts=tuple(row.documents)) for row in described]  # without the padding
    table = tables.batch_table(described, names, "On this page", packed=False)
    return micro_batch.Report(
        title=f"Documents of {data}",
        where=f"{options.split} · at random, seed {training.seed} · rows of {row_length:,} tokens, without padding",
        tables=[tables.stream_table(mixture), table],
        rows=described,
        images=batch["images"],
        note=f"Skipped as broken: {skips.skipped:,}." if skips.skipped else "",
    )


def _check_names(config: DataConfig, options: ShowOptions) -> None:
    streams = [stream.name for stream in config.streams]
    corpora = [corpus.name for stream in config.streams for corpus in stream.corpora]
    for option, asked, known in (("--stream", options.stream, streams), ("--corpus", options.corpus, corpora)):
        for name in asked:
            if name not in known:
                names = ", ".join(dict.fromkeys(known))
                raise UserError(f"{option} {name}: the data YAML has {names}.{did_you_mean(name, known)}")


def _documents(
    mixture: Mixture, collate: Collator, seed: int, options: ShowOptions
) -> Iterator[tuple[PackedRow, Batch]]:
    """The documents to show, each as a row of its own and the row's batch."""
    for number, stream in enumerate(mixture.streams):
        if options.stream and stream.config.name not in options.stream:
            continue
        rows = _random_rows(stream, number, seed, options, mixture.skips)
        batches = ((row, collate([row])) for row in rows)
        whole = (pair for pair in batches if pair[1]["document_ids"].any())  # otherwise an image is broken
        yield from itertools.islice(whole, options.documents)


def _random_rows(
    stream: Stream, number: int, seed: int, options: ShowOptions, skips: SkipCounter
) -> Iterator[PackedRow]:
    """Rows of one sample each from the chosen corpora of the stream, every document equally likely.

    They come in the order of a permutation that the seed determines; broken ones are skipped, up to a limit.
    """
    chosen = [i for i, name in enumerate(stream.names) if not options.corpus or name in options.corpus]
    if not chosen:
        return
    samples: ConcatDataset[Sample] = ConcatDataset([stream.corpora[i] for i in chosen])
    tries = np.arange(min(len(samples), options.documents * TRIES_PER_DOCUMENT))
    for i in Permutation(len(samples), seed)(tries).tolist():
        skips.count(1)
        try:
            sample = samples[i]
        except BrokenRecord as error:
            skips.skip(stream.names[chosen[bisect.bisect_right(samples.cumulative_sizes, i)]], error)
        else:
            yield PackedRow(number, stream.config.cross_document_attention, (sample,))
