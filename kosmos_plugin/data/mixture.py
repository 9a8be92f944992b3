"""The mixture: the rows of update u, a pure function of (data, seed, u), whatever the ranks and workers.

    stream ─ positions u·n … (u+1)·n ─→ (corpus, document) ─ lengths ─→ pack ─→ planned rows of all streams
    a rank's planned rows ─→ Document ─→ Sample ─→ its rows

No document is read to plan an update: how long each is has been counted once (`record_lengths`). Those that are known
to be unusable are in no row. One that turns out broken when it is read is left out of its row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from torch.utils.data import ConcatDataset, Dataset

from kosmos_plugin.data.config import CorpusConfig, DataConfig, StreamConfig
from kosmos_plugin.data.documents import BrokenRecord
from kosmos_plugin.data.order import Interleaving, block_order, block_shuffled, shuffled
from kosmos_plugin.data.packing import PackedRow, PlannedRow, pack
from kosmos_plugin.data.record_lengths import LengthsFile
from kosmos_plugin.data.remote_files import RemoteFiles, is_remote
from kosmos_plugin.data.remote_text import local_copy
from kosmos_plugin.data.row_starts import rows_name
from kosmos_plugin.data.samples import Sample, SampleBuilder
from kosmos_plugin.data.shards import ShardedDocuments, reading_name, record_reader
from kosmos_plugin.data.skips import SkipCounter
from kosmos_plugin.data.text import TEXT_ROWS, FullSentenceRows, TextRows
from kosmos_plugin.errors import UserError


class ConcatenatedRows(ConcatDataset[Sample]):
    """The rows of several binarized texts as one sequence."""

    def __init__(self, paths: tuple[str, ...], sample_builder: SampleBuilder, config: StreamConfig):
        rows = TEXT_ROWS[config.packing]
        vocabulary, max_tokens = sample_builder.vocabulary, sample_builder.max_tokens
        super().__init__(rows(path, vocabulary, max_tokens, config.cache) for path in paths)

    def lengths(self, numbers: np.ndarray) -> np.ndarray:
        """The tokens and images of rows `numbers` [n], int64 [n, 2]."""
        ends = np.array(self.cumulative_sizes)
        texts = ends.searchsorted(numbers, "right")
        lengths = np.zeros((len(numbers), 2), np.int64)
        for text in np.unique(texts):
            own = texts == text
            begin = int(ends[text - 1]) if text else 0
            lengths[own, 0] = self.texts[text].lengths(numbers[own] - begin)
        return lengths

    @property
    def texts(self) -> list[TextRows]:
        """The rows of each text."""
        return cast(list[TextRows], self.datasets)

    def prepare(self, numbers: list[int]) -> None:
        """Nothing: the text is on disk."""

    def filled(self) -> float:
        """Share of the positions of full-sentence rows that are not padding, without each text's last row."""
        texts = [text for text in self.texts if isinstance(text, FullSentenceRows) and len(text) > 1]
        positions = sum((len(text) - 1) * text.tokens_per_row for text in texts)
        return sum(int(text.starts[-2]) + len(text) - 1 for text in texts) / positions if positions else 1.0


class FormattedDocuments(Dataset[Sample]):
    """The documents of a sharded corpus as samples. Indexing raises BrokenRecord for an unusable record.

    Args:
        documents: The documents.
        reading: How records are read: see `reading_name`.
        sample_builder: Formats the documents.
    """

    def __init__(self, documents: ShardedDocuments, reading: str, sample_builder: SampleBuilder):
        self.documents = documents
        self.sample_builder = sample_builder
        self.lengths_file = LengthsFile(documents, reading, sample_builder.vocabulary)
        self.record_lengths = self.lengths_file.find()

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, i: int) -> Sample:
        document = self.documents[i]
        try:
            return self.sample_builder.sample(document)
        except BrokenRecord as error:
            error.record = document.id
            raise

    def prepare(self, numbers: list[int]) -> None:
        """Make ready to read these samples; see `ShardedDocuments.prepare`."""
        self.documents.prepare(numbers)

    def lengths(self, numbers: np.ndarray) -> np.ndarray:
        """The tokens and images of samples `numbers` [n], int64 [n, 2]; 0 tokens for an unusable record.

        Where the lengths have not been made, as for a look at a few documents, the records are read.
        """
        if self.record_lengths is not None:
            counted = self.record_lengths.of(numbers)
        else:
            counted = self.lengths_file.count_all(numbers.tolist())
        text, images = counted.T
        tokens = text + 2 + images * (self.sample_builder.image_tokens + 2)
        usable = (text >= 0) & (tokens <= self.sample_builder.max_tokens)
        return np.where(usable, (tokens, images), 0).T


Corpus = ConcatenatedRows | FormattedDocuments


def open_corpus(stream: StreamConfig, corpus: CorpusConfig, split: str, sample_builder: SampleBuilder) -> Corpus:
    """Open a stream's corpus.

    Raises:
        UserError: A file cannot be read.
    """
    paths, files = corpus.paths(split), RemoteFiles(stream.remote)
    if stream.kind == "text":
        if is_remote(paths[0]):
            rows = rows_name(sample_builder.vocabulary, sample_builder.max_tokens)
            paths = tuple(local_copy(path, files, stream.cache, rows) for path in paths)
        return ConcatenatedRows(paths, sample_builder, stream)
    reader = record_reader(stream.kind, corpus.caption_from)
    documents = ShardedDocuments(paths, reader, stream.cache, corpus.shuffle_block, files)
    return FormattedDocuments(documents, reading_name(stream.kind, corpus.caption_from), sample_builder)


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
        self.shuffle_blocks = [corpus.shuffle_block for corpus in corpora]
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

    def draws(self, update: int) -> np.ndarray:
        """The samples of `update` in order, int64 [n, 2]: the corpus of each, and its number there."""
        start = update * self.config.sequences_per_update
        end = start + self.config.sequences_per_update
        if not self.corpora:
            return np.empty((0, 2), np.int64)
        if not self.shuffle:
            ends = np.cumsum(self.sizes)
            positions = np.arange(start, min(end, int(ends[-1])))
            corpora = ends.searchsorted(positions, "right")
            return np.stack((corpora, positions - (ends - self.sizes)[corpora]), axis=1)
        corpora, numbers = self.interleaving(start, end)
        documents = np.empty_like(numbers)
        for corpus in np.unique(corpora).tolist():
            own, size, seed = corpora == corpus, int(self.sizes[corpus]), self._seed_of(corpus)
            block = self.shuffle_blocks[corpus]
            documents[own] = (
                shuffled(numbers[own], size, seed) if block is None else block_shuffled(numbers[own], size, block, seed)
            )
        return np.stack((corpora, documents), axis=1)

    def prefetch(self, update: int) -> None:
        """Fetch blocks of remote corpora that updates after `update` need, without waiting."""
        position = (update + 1) * self.config.sequences_per_update
        for number, (corpus, block) in enumerate(zip(self.corpora, self.shuffle_blocks, strict=True)):
            if block is None or not isinstance(corpus, FormattedDocuments) or corpus.documents.remote is None:
                continue
            # about where the corpus is then: exactly so at every whole block of the interleaving
            epoch, at = divmod(int(position * self.interleaving.shares[number]), int(self.sizes[number]))
            order, following = (
                block_order(each, int(self.sizes[number]), block, self._seed_of(number)) for each in (epoch, epoch + 1)
            )
            corpus.documents.remote.prefetch(order, following, at)

    def _seed_of(self, corpus: int) -> int:
        return self.seed + corpus + 1

    def lengths(self, draws: np.ndarray) -> np.ndarray:
        """The tokens and images of `draws` [n, 2], int64 [n, 2]; 0 tokens for a record known to be unusable."""
        lengths = np.empty_like(draws)
        for corpus in np.unique(draws[:, 0]):
            own = draws[:, 0] == corpus
            lengths[own] = self.corpora[corpus].lengths(draws[own, 1])
        return lengths


@dataclass(frozen=True)
class Plan:
    """An update, or one micro-batch of it, before anything is read."""

    rows: list[PlannedRow]
    unusable: list[tuple[int, int, int]]  # records known to be unusable: stream, corpus, number; read for their reason


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

    def plan(self, update: int) -> Plan:
        """Plan the rows of `update`, stream by stream. Reads no document."""
        plan = Plan([], [])
        for number, stream in enumerate(self.streams):
            draws = stream.draws(update)
            samples = np.concatenate((draws, stream.lengths(draws)), axis=1)
            unusable = samples[:, 2] == 0
            plan.unusable.extend((number, corpus, i) for corpus, i in draws[unusable].tolist())
            samples = samples[~unusable]
            for indices in pack(samples[:, 2].tolist(), self.max_tokens):
                row = samples[indices]
                tokens, images = row[:, 2:].sum(axis=0).tolist()
                plan.rows.append(PlannedRow(number, row, tokens, images))
        return plan

    def read(self, plan: Plan, count_skips: bool = True) -> list[PackedRow]:
        """Read the samples of rows, but none of their images. Broken records are left out.

        Args:
            plan: The rows, and records known to be unusable.
            count_skips: Whether to count and log broken records. False for an update that will be read again.
        """
        self._prepare(plan, count_skips)
        if count_skips:
            self.skips.count(len(plan.unusable) + sum(len(row.samples) for row in plan.rows))
            for number, corpus, i in plan.unusable:
                self._sample(number, corpus, i)
        return [
            PackedRow(
                row.stream,
                self.streams[row.stream].config.cross_document_attention,
                tuple(
                    sample
                    for corpus, i, *length in row.samples.tolist()
                    if (sample := self._sample(row.stream, corpus, i, length, count_skips)) is not None
                ),
            )
            for row in plan.rows
        ]

    def _prepare(self, plan: Plan, unusable_too: bool) -> None:
        """Have each corpus make ready for the documents of a plan."""
        wanted: dict[tuple[int, int], list[int]] = {}
        for row in plan.rows:
            for corpus, number in row.samples[:, :2].tolist():
                wanted.setdefault((row.stream, corpus), []).append(number)
        for stream, corpus, number in plan.unusable if unusable_too else ():
            wanted.setdefault((stream, corpus), []).append(number)
        for (stream, corpus), numbers in wanted.items():
            self.streams[stream].corpora[corpus].prepare(numbers)

    def prefetch(self, update: int) -> None:
        """Fetch, without waiting, what updates after `update` need of remote corpora in blocks."""
        for stream in self.streams:
            if stream.shuffle and stream.corpora:
                stream.prefetch(update)

    def spread_over(self, nodes: int) -> None:
        """Have remote corpora read in the way that suits a training on so many nodes.

        Raises:
            UserError: The cache is too small for the blocks that are in use at the same time.
        """
        remote, needed = [], 0
        for stream in self.streams:
            for corpus in stream.corpora:
                records = corpus.documents.remote if isinstance(corpus, FormattedDocuments) else None
                if records is not None:
                    records.spread_over(nodes)
                    remote.append(records)
                    needed += 2 * records.window_bytes() * stream.shuffle  # the present window, and the next
        if remote and needed > remote[0].cache.limit:
            raise UserError(
                f"Two windows of the remote corpora's blocks take about {needed / 2**30:,.2g} GiB, and the cache only "
                f"{remote[0].cache.limit / 2**30:,.2g} GiB, so that blocks would be fetched again and again. Raise "
                "remote.cache_gib in the data YAML, or lower shuffle_block."
            )

    def rows(self, update: int, count_skips: bool = True) -> list[PackedRow]:
        """All rows of `update`: `plan`, then `read`."""
        return self.read(self.plan(update), count_skips)

    def _sample(
        self, number: int, corpus: int, i: int, length: Sequence[int] = (0, 0), count_skips: bool = True
    ) -> Sample | None:
        """Read a sample of a stream; None if it is broken, or has not the planned length (tokens, images)."""
        stream = self.streams[number]
        try:
            sample = stream.corpora[corpus][i]
            if [len(sample), len(sample.images)] != list(length):
                detail = (
                    f"{len(sample):,} tokens and {len(sample.images)} images instead of {length[0]:,} and {length[1]}"
                )
                raise BrokenRecord("not as it was when its tokens were counted", detail, sample.id)
        except BrokenRecord as error:
            if count_skips:
                self.skips.skip(f"{stream.names[corpus]}/{i}", error)
            return None
        return sample
