"""Counts documents, tokens and images in a mixture's corpora, in a random sample of their documents."""

import bisect
import collections
import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from torch.utils.data import ConcatDataset
from tqdm import tqdm

from kosmos_plugin.curation.readers.json_values import record_metadata
from kosmos_plugin.data.config import read_data_config
from kosmos_plugin.data.documents import BrokenRecord, Document, Text
from kosmos_plugin.data.mixture import ConcatenatedRows, Mixture, Stream
from kosmos_plugin.data.order import Permutation
from kosmos_plugin.data.packing import pack
from kosmos_plugin.data.samples import SampleBuilder
from kosmos_plugin.data.shard_index import Record
from kosmos_plugin.data.shards import ShardedDocuments, record_reader
from kosmos_plugin.data.skips import SkipCounter
from kosmos_plugin.data.text import TextRows
from kosmos_plugin.inspection.options import SequenceOptions, StatisticsOptions
from kosmos_plugin.vocabulary import Vocabulary

MAX_SOURCES = 10


@dataclass(frozen=True)
class DocumentStatistics:
    """Counts of one document."""

    tokens: int  # with <s> (of full-sentence text rows have it, not documents), </s> and image slots
    in_loss: int  # tokens in the loss
    images: int
    words: int
    characters: int
    source: str  # the host of its address, the file it was made from, or its shard


# Examines a document by its number. Raises BrokenRecord if it cannot be used.
Examine = Callable[[int], DocumentStatistics]


@dataclass(frozen=True)
class CorpusStatistics:
    """Counts of a corpus."""

    stream: str
    name: str
    documents: int  # in the corpus
    sample: list[DocumentStatistics]  # the examined documents that can be used
    unusable: dict[str, int]  # reason → number of examined documents that cannot be used
    share: float  # of the stream's sequences
    epochs: float | None  # in the requested number of updates
    known: dict[str, int]  # totals known without examining every document

    @property
    def examined(self) -> int:
        return len(self.sample) + sum(self.unusable.values())

    @property
    def estimated(self) -> bool:
        """Whether totals are extrapolated from the examined documents."""
        return self.examined < self.documents

    def values(self, name: str) -> np.ndarray:
        """The count `name` of each document in the sample, int64 [len(sample)]."""
        return np.array([getattr(document, name) for document in self.sample], dtype=np.int64)

    def total(self, name: str) -> int:
        """The total of the count `name` over the corpus."""
        if name in self.known:
            return self.known[name]
        return round(int(self.values(name).sum()) * self.documents / self.examined)

    def sources(self) -> dict[str, float]:
        """The most frequent sources → their share of the documents."""
        counts = collections.Counter(document.source for document in self.sample)
        most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MAX_SOURCES]
        return {source: count / len(self.sample) for source, count in most}


@dataclass(frozen=True)
class StreamStatistics:
    """Counts of a stream."""

    name: str
    kind: str
    sequences_per_update: int
    rows_per_update: int  # in the first update, packed as in training
    packing_efficiency: float  # share of these rows' positions that are not padding
    corpora: list[CorpusStatistics]


def mixture_statistics(data: str, training: SequenceOptions, options: StatisticsOptions) -> list[StreamStatistics]:
    """Compute the statistics of every stream of a data YAML.

    Raises:
        UserError: The data YAML or a file that it names is wrong.
    """
    config = read_data_config(data)
    vocabulary = Vocabulary.load(training.vocabulary or config.vocabulary)
    sample_builder = SampleBuilder(vocabulary, training.image_tokens, training.tokens_per_sample)
    mixture = Mixture(config, options.split, sample_builder, training.seed, SkipCounter(max_rate=1.0))
    return [_stream_statistics(stream, sample_builder, options) for stream in mixture.streams]


def _stream_statistics(stream: Stream, sample_builder: SampleBuilder, options: StatisticsOptions) -> StreamStatistics:
    config = stream.config
    configs = {corpus.name: corpus for corpus in config.corpora}
    epochs = stream.epochs(options.updates) if options.updates is not None else {}
    corpora = []
    for i, name in enumerate(stream.names):
        known: dict[str, int] = {}
        if isinstance(corpus := stream.corpora[i], ConcatenatedRows):
            known = _totals_of_binarized(corpus.texts)
            size, examine = _binarized(corpus.texts, sample_builder.vocabulary)
        else:
            read_record = record_reader(config.kind, configs[name].caption_from)
            size, examine = _sharded(corpus.documents, read_record, sample_builder)
        sample, unusable = [], collections.Counter[str]()
        chosen = _random_sample(size, options.documents, stream.seed + i)
        for document in tqdm(chosen, desc=f"{config.name}: {name}", unit="document", leave=False, mininterval=1):
            try:
                sample.append(examine(int(document)))
            except BrokenRecord as error:
                unusable[error.reason] += 1
        share = float(stream.interleaving.shares[i]) if stream.shuffle else size / int(stream.sizes.sum())
        corpora.append(
            CorpusStatistics(config.name, name, size, sample, dict(unusable), share, epochs.get(name), known)
        )
    rows, efficiency = _packing(stream, sample_builder.max_tokens)
    return StreamStatistics(config.name, config.kind, config.sequences_per_update, rows, efficiency, corpora)


def _random_sample(size: int, most: int, key: int) -> np.ndarray:
    """At most `most` of the numbers 0 … size − 1, drawn at random, in ascending order."""
    return np.sort(Permutation(size, key)(np.arange(min(size, most))))


def _binarized(parts: list[TextRows], vocabulary: Vocabulary) -> tuple[int, Examine]:
    """The number of documents in binarized text, and the function that examines one of them."""
    items_of_parts: list[Any] = [part.items for part in parts]  # sequences, though not of torch's type
    items = ConcatDataset[np.ndarray](items_of_parts)

    def examine(number: int) -> DocumentStatistics:
        part = parts[bisect.bisect_right(items.cumulative_sizes, number)]
        tokens = items[number]
        text = vocabulary.decode(tokens)
        in_loss = len(tokens) + part.adds_eos
        length = in_loss + len(part.text.before)
        return DocumentStatistics(
            length, in_loss, 0, len(text.split()), len(text), source=os.path.basename(part.prefix)
        )

    return len(items), examine


def _totals_of_binarized(parts: list[TextRows]) -> dict[str, int]:
    """Totals from the indexes of binarized text."""
    tokens, in_loss = sum(part.num_tokens for part in parts), sum(part.num_targets for part in parts)
    return {"tokens": tokens, "in_loss": in_loss, "images": 0}


@dataclass(frozen=True)
class _SourcedDocument(Document):
    source: str


def _sharded(
    corpus: ShardedDocuments, read: Callable[[Record], Document], sample_builder: SampleBuilder
) -> tuple[int, Examine]:
    """The number of documents of a corpus, and the function that examines one of them."""

    def read_with_source(record: Record) -> _SourcedDocument:
        document = read(record)
        return _SourcedDocument(document.id, document.segments, _source(record))

    documents = ShardedDocuments(corpus.index.tars, read_with_source, corpus.cache, files=corpus.files)
    any_length = dataclasses.replace(sample_builder, max_tokens=sys.maxsize)

    def examine(number: int) -> DocumentStatistics:
        document = documents[number]
        assert isinstance(document, _SourcedDocument)
        sample = any_length.sample(document)
        if len(sample) > sample_builder.max_tokens:
            raise BrokenRecord("longer than a row")
        texts = [segment.text for segment in document.segments if isinstance(segment, Text)]
        return DocumentStatistics(
            tokens=len(sample),
            in_loss=int((sample.targets != sample_builder.vocabulary.pad).sum()),
            images=len(sample.images),
            words=sum(len(text.split()) for text in texts),
            characters=sum(map(len, texts)),
            source=document.source,
        )

    return len(documents), examine


def _source(record: Record) -> str:
    """The host of the address in the record's JSON, the file that its id starts with, or its tar."""
    metadata = record_metadata(record)
    for name in ("url", "id"):
        if isinstance(value := metadata.get(name), str) and value:
            with contextlib.suppress(ValueError):  # "http://[" is not an address
                if host := urlsplit(value).hostname:
                    return host
    id = metadata.get("id")
    if isinstance(id, str) and "/" in id:
        return id.rpartition("/")[0]
    return os.path.basename(record.tar)


def _packing(stream: Stream, row_length: int) -> tuple[int, float]:
    """The number of rows in the first update, and the share of their positions that are not padding."""
    lengths = [length for length in stream.lengths(stream.draws(0))[:, 0].tolist() if length]
    rows = len(pack(lengths, row_length))
    return rows, sum(lengths) / (rows * row_length) if rows else 0.0
