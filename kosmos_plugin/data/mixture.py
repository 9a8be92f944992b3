"""The mixture: the rows of update u, a pure function of (data, seed, u), whatever the ranks and workers.

stream ─ positions u·n … (u+1)·n ─→ (corpus, document) ─→ Sample ─ pack ─→ rows of all streams
"""

import itertools
from typing import cast

import numpy as np
from torch.utils.data import ConcatDataset, Dataset

from kosmos_plugin.data.config import CorpusConfig, DataConfig, StreamConfig
from kosmos_plugin.data.documents import BrokenRecord
from kosmos_plugin.data.order import Interleaving, shuffled
from kosmos_plugin.data.packing import PackedRow, pack
from kosmos_plugin.data.samples import Sample, SampleBuilder
from kosmos_plugin.data.shards import ShardedDocuments, record_reader
from kosmos_plugin.data.skips import SkipCounter
from kosmos_plugin.data.text import TEXT_ROWS, FullSentenceRows, TextRows
from kosmos_plugin.errors import UserError


class ConcatenatedRows(ConcatDataset[Sample]):
    """The rows of several binarized texts as one sequence."""

    def __init__(self, paths: tuple[str, ...], sample_builder: SampleBuilder, config: StreamConfig):
        rows = TEXT_ROWS[config.packing]
        vocabulary, max_tokens = sample_builder.vocabulary, sample_builder.max_tokens
        super().__init__(rows(path, vocabulary, max_tokens, config.cache) for path in paths)

    @property
    def texts(self) -> list[TextRows]:
        """The rows of each text."""
        return cast(list[TextRows], self.datasets)

    def filled(self) -> float:
        """Share of the positions of full-sentence rows that are not padding, without each text's last row."""
        texts = [text for text in self.texts if isinstance(text, FullSentenceRows) and len(text) > 1]
        positions = sum((len(text) - 1) * text.tokens_per_row for text in texts)
        return sum(int(text.starts[-2]) + len(text) - 1 for text in texts) / positions if positions else 1.0


class FormattedDocuments(Dataset[Sample]):
    """The documents of a sharded corpus as samples. Indexing raises BrokenRecord for an unusable record."""

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
            error.record = document.id
            raise


Corpus = ConcatenatedRows | FormattedDocuments


def open_corpus(stream: StreamConfig, corpus: CorpusConfig, split: str, sample_builder: SampleBuilder) -> Corpus:
    """Open a stream's corpus.

    Raises:
        UserError: A file cannot be read.
    """
    paths = corpus.paths(split)
    if stream.kind == "text":
        return ConcatenatedRows(paths, sample_builder, stream)
    documents = ShardedDocuments(paths, record_reader(stream.kind, corpus.caption_from))
    return FormattedDocuments(documents, sample_builder)


class Stream:
    """A stream's corpora: for training weighted, shuffled and repeated, otherwise in their own order, once.

    Args:
        config: The stream in the data YAML.
        split: "train" or "valid".
        sample_builder: Formats the documents.
        seed: Seed of the training order.

    Attributes:
        corpora: Those that have the split.
        names: Their names.
        sizes: Their numbers of samples, int64 [corpora].

    Raises:
        UserError: A corpus is empty or cannot be read.
    """

    def __init__(self, config: StreamConfig, split: str, sample_builder: SampleBuilder, seed: int):
        self.config = config
        self.shuffle = split == "train"
        self.seed = seed
        corpora = [corpus for corpus in config.corpora if corpus.paths(split)]
        self.corpora = [open_corpus(config, corpus, split, sample_builder) for corpus in corpora]
        self.names = [corpus.name for corpus in corpora]
        self.sizes = np.array([len(corpus) for corpus in self.corpora], dtype=np.int64)
        for name, size in zip(self.names, self.sizes, strict=True):
            if size == 0:
                raise UserError(f"The corpus {name} of stream {config.name} is empty ({split}).")
        if self.corpora:
            weights = [corpus.weight for corpus in corpora if corpus.weight is not None]
            self.interleaving = Interleaving(weights or self.sizes.tolist(), seed)

    def __len__(self) -> int:
        """Updates that draw as many samples as the stream's corpora have."""
        return -(-int(self.sizes.sum()) // self.config.sequences_per_update)

    def epochs(self, updates: int) -> dict[str, float]:
        """Epochs of each corpus after `updates` updates, by its name."""
        draws = updates * self.config.sequences_per_update * self.interleaving.shares if self.corpora else []
        return {name: float(n / size) for name, n, size in zip(self.names, draws, self.sizes, strict=True)}

    def draws(self, update: int) -> list[tuple[int, int]]:
        """The samples of `update` in order, each as (corpus, number within the corpus)."""
        start = update * self.config.sequences_per_update
        end = start + self.config.sequences_per_update
        if not self.corpora:
            return []
        if not self.shuffle:
            sizes = self.sizes.tolist()
            firsts = itertools.accumulate(sizes, initial=0)  # position of each corpus's first sample
            return [
                (corpus, number)
                for corpus, (first, size) in enumerate(zip(firsts, sizes, strict=False))
                for number in range(max(start - first, 0), min(end - first, size))
            ]
        corpora, numbers = self.interleaving(start, end)
        documents = np.empty_like(numbers)
        for corpus in np.unique(corpora):
            seed = self.seed + int(corpus) + 1
            documents[corpora == corpus] = shuffled(numbers[corpora == corpus], int(self.sizes[corpus]), seed)
        return list(zip(corpora.tolist(), documents.tolist(), strict=True))


class Mixture:
    """All streams of a split: the rows of any update.

    Args:
        config: The data YAML.
        split: "train" or "valid".
        sample_builder: Formats the documents.
        seed: Seed of the training order.
        skips: Counts broken records.

    Raises:
        UserError: No corpus has the split, or a corpus is empty or cannot be read.
    """

    def __init__(self, config: DataConfig, split: str, sample_builder: SampleBuilder, seed: int, skips: SkipCounter):
        self.max_tokens = sample_builder.max_tokens
        self.skips = skips
        # Seeds of streams are far apart, so that two streams over the same corpus have different orders.
        self.streams = [
            Stream(stream, split, sample_builder, seed * 1_000_003 + i * 1_009)
            for i, stream in enumerate(config.streams)
        ]
        if not any(stream.corpora for stream in self.streams):
            hint = " Name held-out files as valid, or train with --disable-validation." if split == "valid" else ""
            raise UserError(f"{config.path}: no corpus has a {split!r} split.{hint}")

    def __len__(self) -> int:
        """Updates of an epoch: until the longest stream has gone through its corpora."""
        return max(len(stream) for stream in self.streams)

    @property
    def packing(self) -> dict[str, str]:
        """How each text stream is packed, by its name."""
        return {stream.config.name: stream.config.packing for stream in self.streams if stream.config.kind == "text"}

    def rows(self, update: int, count_skips: bool = True) -> list[PackedRow]:
        """Pack the rows of `update`, stream by stream. Reads no image, and skips broken records.

        Args:
            update: Number of the update, from 0.
            count_skips: Whether to count and log broken records. False for an update that will be read again.
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
        for corpus, number in draws:
            try:
                samples.append(stream.corpora[corpus][number])
            except BrokenRecord as error:
                if count_skips:
                    self.skips.skip(f"{stream.names[corpus]}/{number}", error)
        return samples
