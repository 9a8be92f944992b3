"""What is in the corpora of a mixture, by looking at some of their documents, or at all."""

import collections
import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np
from tqdm import tqdm

from kosmos_plugin.curation.readers.json_values import record_metadata
from kosmos_plugin.data.documents import BrokenRecord, Document, Text
from kosmos_plugin.data.mixture import Mixture, Stream
from kosmos_plugin.data.order import Permutation
from kosmos_plugin.data.packing import pack
from kosmos_plugin.data.samples import SampleBuilder
from kosmos_plugin.data.shard_index import Record
from kosmos_plugin.data.shards import ShardedDocuments, caption_document, interleaved_document
from kosmos_plugin.data.text import TextRows

MOST_SOURCES = 10
RECORD_READERS = {"captions": caption_document, "interleaved": interleaved_document}


@dataclass(frozen=True)
class DocumentStatistics:
    tokens: int  # with <s>, </s> and image slots
    counted: int  # targets of the loss
    images: int
    words: int
    characters: int
    source: str  # where it is from: the host of its address, the file it was made of, or the shard


# Looks at a document, by its number; why it cannot be used, if it cannot.
LookAt = Callable[[int], DocumentStatistics | str]


@dataclass(frozen=True)
class CorpusStatistics:
    stream: str
    name: str
    documents: int  # all of them, which is known without looking at them
    sample: list[DocumentStatistics]  # those that were looked at and can be used
    unusable: dict[str, int]  # those that were looked at and cannot: why → how many
    share: float  # of the stream's sequences
    epochs: float | None  # in the updates that were asked for
    known: dict[str, int]  # totals that are known without looking at all documents

    @property
    def looked_at(self) -> int:
        return len(self.sample) + sum(self.unusable.values())

    @property
    def estimated(self) -> bool:
        """Whether totals are those of the documents that were looked at, times their share."""
        return self.looked_at < self.documents

    def values(self, name: str) -> np.ndarray:
        """A number of each document that was looked at, int64 [len(sample)]."""
        return np.array([getattr(document, name) for document in self.sample], dtype=np.int64)

    def total(self, name: str) -> int:
        return (
            self.known[name]
            if name in self.known
            else round(int(self.values(name).sum()) * self.documents / self.looked_at)
        )

    def sources(self) -> dict[str, float]:
        """The most frequent sources → their share of the documents."""
        counts = collections.Counter(document.source for document in self.sample)
        most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MOST_SOURCES]
        return {source: count / len(self.sample) for source, count in most}


@dataclass(frozen=True)
class StreamStatistics:
    name: str
    kind: str
    sequences_per_update: int
    rows_per_update: int  # of the first update, as training packs them
    filled: float  # share of their positions that are no padding
    corpora: list[CorpusStatistics]


def of_stream(
    mixture: Mixture, number: int, sample_builder: SampleBuilder, split: str, most: int, updates: int | None
) -> StreamStatistics:
    """Of each corpus `most` documents are looked at; `updates` are those whose epochs are asked for."""
    stream = mixture.streams[number]
    config = stream.config
    paths = {corpus.name: corpus.paths(split) for corpus in config.corpora}
    epochs = stream.epochs(updates) if updates is not None else {}
    corpora = []
    for i, name in enumerate(stream.names):
        known = {}
        if config.kind == "text":
            known = _totals_of_binarized(stream.corpora[i].datasets)
            size, look_at = _binarized(stream.corpora[i].datasets, sample_builder)
        else:
            size, look_at = _sharded(paths[name], RECORD_READERS[config.kind], sample_builder)
        sample, unusable = [], collections.Counter()
        chosen = _chosen(size, most, stream.seed + i)
        for document in tqdm(chosen, desc=f"{config.name}: {name}", unit="document", leave=False, mininterval=1):
            found = look_at(int(document))
            if isinstance(found, str):
                unusable[found] += 1
            else:
                sample.append(found)
        share = float(stream.interleaving.shares[i]) if stream.shuffle else size / int(stream.sizes.sum())
        corpora.append(
            CorpusStatistics(config.name, name, size, sample, dict(unusable), share, epochs.get(name), known)
        )
    rows, filled = _packed(stream, mixture.max_tokens)
    return StreamStatistics(config.name, config.kind, config.sequences_per_update, rows, filled, corpora)


def _chosen(size: int, most: int, key: int) -> np.ndarray:
    """`most` of the numbers 0 … size − 1 at random, or all of them, in ascending order."""
    return np.sort(Permutation(size, key)(np.arange(min(size, most))))


def _binarized(parts: list[TextRows], sample_builder: SampleBuilder) -> tuple[int, LookAt]:
    """How many documents binarized texts have, and what looks at one of them."""
    vocabulary = sample_builder.vocabulary
    ends = np.cumsum([len(part.items) for part in parts])

    def look_at(number: int) -> DocumentStatistics:
        which = int(np.searchsorted(ends, number, side="right"))
        tokens = parts[which].items[number - int(ends[which - 1] if which else 0)]
        text = vocabulary.decode(tokens)
        length = len(tokens) + _frame(parts[which])
        source = os.path.basename(parts[which].prefix)
        return DocumentStatistics(length, length - 1, 0, len(text.split()), len(text), source)

    return int(ends[-1]), look_at


def _frame(part: TextRows) -> int:
    """How many tokens a document gets when it is read: `<s>`, and `</s>` where it has none."""
    return 1 if part.ends_in_eos else 2


def _totals_of_binarized(parts: list[TextRows]) -> dict[str, int]:
    """What the indexes of binarized texts tell. In each document all tokens but `<s>` are targets."""
    documents = sum(len(part.items) for part in parts)
    tokens = sum(part.items.begin(len(part.items)) + len(part.items) * _frame(part) for part in parts)
    return {"tokens": tokens, "counted": tokens - documents, "images": 0}


def _sharded(
    tars: Sequence[str], read: Callable[[Record], Document], sample_builder: SampleBuilder
) -> tuple[int, LookAt]:
    """How many documents tars have, and what looks at one of them."""

    def document_and_source(record: Record) -> tuple[Document, str] | str:
        try:
            return read(record), _source(record)
        except BrokenRecord as error:
            return error.reason

    documents = ShardedDocuments(tars, document_and_source)
    of_any_length = dataclasses.replace(sample_builder, max_tokens=sys.maxsize)

    def look_at(number: int) -> DocumentStatistics | str:
        if isinstance(found := documents[number], str):
            return found
        document, source = found
        try:
            sample = of_any_length.sample(document)
        except BrokenRecord as error:
            return error.reason
        if len(sample) > sample_builder.max_tokens:
            return "longer than a row"
        texts = [segment.text for segment in document.segments if isinstance(segment, Text)]
        return DocumentStatistics(
            tokens=len(sample),
            counted=int((sample.targets != sample_builder.vocabulary.pad).sum()),
            images=len(sample.images),
            words=sum(len(text.split()) for text in texts),
            characters=sum(map(len, texts)),
            source=source,
        )

    return len(documents), look_at


def _source(record: Record) -> str:
    """The host of the address in the record's JSON, the file that its id begins with, or else its tar."""
    about = record_metadata(record)
    for name in ("url", "id"):
        if isinstance(value := about.get(name), str) and value:
            try:
                if host := urlsplit(value).hostname:
                    return host
            except ValueError:  # such as "http://[": no address
                pass
    id = about.get("id")
    if isinstance(id, str) and "/" in id:
        return id.rpartition("/")[0]
    return os.path.basename(record.tar)


def _packed(stream: Stream, row: int) -> tuple[int, float]:
    """How many rows of `row` tokens the first update has, and which share of their positions is filled."""
    lengths = []
    for corpus, document in stream.draws(0):
        with contextlib.suppress(BrokenRecord):
            lengths.append(len(stream.corpora[corpus][document]))
    rows = len(pack(lengths, row))
    return rows, sum(lengths) / (rows * row) if rows else 0.0
