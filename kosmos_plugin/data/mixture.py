"""The mixture: which rows make up update u — a pure function of (data, seed, u), whatever the ranks and workers.

stream ─ positions u·n … (u+1)·n ─→ (corpus, document) ─→ Sample ─ pack ─→ rows of all streams
"""

import numpy as np

from kosmos_plugin.data.config import DataConfig, StreamConfig
from kosmos_plugin.data.documents import BrokenRecord
from kosmos_plugin.data.order import Interleaving, shuffled
from kosmos_plugin.data.packing import PackedRow, pack
from kosmos_plugin.data.samples import Sample, SampleBuilder
from kosmos_plugin.data.shards import ShardedDocuments, caption_document, interleaved_document
from kosmos_plugin.data.skips import SkipCounter
from kosmos_plugin.data.text import TextRows
from kosmos_plugin.errors import UserError


class ConcatenatedRows:
    """Several binarized texts, one after the other, as one sequence of samples."""

    def __init__(self, paths: tuple[str, ...], sample_builder: SampleBuilder):
        self.parts = [TextRows(path, sample_builder.vocabulary, sample_builder.max_tokens) for path in paths]
        self.ends = np.cumsum([len(part) for part in self.parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, i: int) -> Sample:
        part = int(np.searchsorted(self.ends, i, side="right"))
        return self.parts[part][int(i - (self.ends[part - 1] if part else 0))]


class FormattedDocuments:
    """The documents of a sharded corpus as samples; a record that is no usable one raises BrokenRecord."""

    def __init__(self, documents: ShardedDocuments, sample_builder: SampleBuilder):
        self.documents = documents
        self.sample_builder = sample_builder

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, i: int) -> Sample:
        document = self.documents[i]
        try:
            return self.sample_builder.sample(document)
        except BrokenRecord as error:
            raise BrokenRecord(error.reason, error.detail, document.id) from None


# How the corpora of each kind of stream are opened: (paths, sample format) → a sequence of samples.
CORPUS_READERS = {
    "text": ConcatenatedRows,
    "captions": lambda paths, sample_builder: FormattedDocuments(
        ShardedDocuments(paths, caption_document), sample_builder
    ),
    "interleaved": lambda paths, sample_builder: FormattedDocuments(
        ShardedDocuments(paths, interleaved_document), sample_builder
    ),
}


class Stream:
    """One stream's corpora in training order (weighted and shuffled without end) or in their own order (once)."""

    def __init__(self, config: StreamConfig, split: str, sample_builder: SampleBuilder, seed: int):
        self.config = config
        self.shuffle = split == "train"
        self.seed = seed
        named = [(corpus, corpus.paths(split)) for corpus in config.corpora if corpus.paths(split)]
        self.corpora = [CORPUS_READERS[config.kind](paths, sample_builder) for _, paths in named]
        self.names = [corpus.name for corpus, _ in named]
        for name, corpus in zip(self.names, self.corpora, strict=True):
            if len(corpus) == 0:
                raise UserError(f"The corpus {name} of stream {config.name} is empty ({split}).")
        self.sizes = np.array([len(corpus) for corpus in self.corpora], dtype=np.int64)
        weights = [corpus.weight for corpus, _ in named]
        if self.corpora:
            self.interleaving = Interleaving(list(self.sizes) if None in weights else weights, seed)

    def __len__(self) -> int:
        """Updates until as many sequences were drawn as the corpora have."""
        return -(-int(self.sizes.sum()) // self.config.sequences_per_update)

    def epochs(self, updates: int) -> dict[str, float]:
        """Corpus → how often the first `updates` updates have gone through it."""
        draws = updates * self.config.sequences_per_update * self.interleaving.shares if self.corpora else []
        return {name: float(n / size) for name, n, size in zip(self.names, draws, self.sizes, strict=True)}

    def draws(self, update: int) -> list[tuple[int, int]]:
        """The (corpus, number of its document) of the stream's sequences in `update`, in order."""
        begin = update * self.config.sequences_per_update
        end = begin + self.config.sequences_per_update
        if not self.corpora:
            return []
        if not self.shuffle:
            ends = np.cumsum(self.sizes)
            positions = np.arange(begin, min(end, ends[-1]))
            corpora = np.searchsorted(ends, positions, side="right")
            return list(zip(corpora.tolist(), (positions - (ends - self.sizes)[corpora]).tolist(), strict=True))
        corpora, numbers = self.interleaving(begin, end)
        documents = np.empty_like(numbers)
        for corpus in np.unique(corpora):
            seed = self.seed + int(corpus) + 1
            documents[corpora == corpus] = shuffled(numbers[corpora == corpus], int(self.sizes[corpus]), seed)
        return list(zip(corpora.tolist(), documents.tolist(), strict=True))


class Mixture:
    """All streams of a split: the rows of any update."""

    def __init__(self, config: DataConfig, split: str, sample_builder: SampleBuilder, seed: int, skips: SkipCounter):
        self.max_tokens = sample_builder.max_tokens
        self.skips = skips
        # Streams are seeded far apart, so that two streams over the same corpus do not run in step.
        self.streams = [
            Stream(stream, split, sample_builder, seed * 1_000_003 + i * 1_009)
            for i, stream in enumerate(config.streams)
        ]
        if not any(stream.corpora for stream in self.streams):
            raise UserError(f"{config.path}: no corpus has a {split!r} split.")

    def __len__(self) -> int:
        """Updates in an epoch: until the stream that lasts longest has gone through its corpora."""
        return max(len(stream) for stream in self.streams)

    def rows(self, update: int, count_skips: bool = True) -> list[PackedRow]:
        """The rows of `update`, stream by stream; no image is read. Broken records are skipped.

        They are counted and logged too unless `count_skips` is False, for what is looked at another time.
        """
        rows = []
        for number, stream in enumerate(self.streams):
            samples = self._samples(stream, update, count_skips)
            for indices in pack([len(sample) for sample in samples], self.max_tokens):
                packed = tuple(samples[i] for i in indices)
                rows.append(PackedRow(number, stream.config.cross_document_attention, packed))
        return rows

    def _samples(self, stream: Stream, update: int, count_skips: bool) -> list[Sample]:
        samples = []
        draws = stream.draws(update)
        if count_skips:
            self.skips.count(len(draws))
        for corpus, document in draws:
            try:
                samples.append(stream.corpora[corpus][document])
            except BrokenRecord as error:
                if count_skips:
                    self.skips.skip(f"{stream.names[corpus]}/{document}", error)
        return samples
