"""The bytes of a remote corpus's records: whole blocks through a cache that a node shares, or record by record.

    few nodes, shuffle_block    a block's bytes are fetched once on each node, into its cache (`block_cache`), for all
                                of its ranks: each node uses 1/nodes of them in the end
    otherwise                   a rank fetches its own records, all of a micro-batch at the same time

Bytes fetched for each byte used: as many as nodes, up to WHOLE_BLOCK_NODES; beyond, less than 2, and mostly 1. For
records that lie near each other are fetched together only if what lies between is less than what is wanted before it,
or small.
"""

import functools
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from kosmos_plugin.data.block_cache import BlockCache
from kosmos_plugin.data.corpus_index import CorpusIndex
from kosmos_plugin.data.daemon_threads import DaemonThreads
from kosmos_plugin.data.derived_files import default_cache
from kosmos_plugin.data.documents import BrokenRecord
from kosmos_plugin.data.order import WINDOW_BLOCKS, BlockOrder
from kosmos_plugin.data.remote_files import RemoteFiles, Unavailable
from kosmos_plugin.data.shard_index import Record
from kosmos_plugin.data.tar_files import HOLE, Pieces
from kosmos_plugin.errors import UserError

# Up to here each node fetches whole blocks.
WHOLE_BLOCK_NODES = 2
# What may lie between two pieces that are fetched together, in any case: headers of the tar, and small files.
_SMALL_GAP = 16 << 10
_THREADS = 16
_SAMPLED_BLOCKS = 8

_fetchers = DaemonThreads(_THREADS)
_prefetchers = DaemonThreads(_THREADS // 2)

Extent = tuple[int, int, int]  # number of the tar, first byte, byte after the last


class RemoteRecords:
    """Reads records of one corpus.

    Args:
        index: The corpus's index.
        files: Reads remote files.
        block: Records of a block of the order (`shuffle_block`); None: there are no blocks.
        cache: The cache folder; None: the user's.
    """

    def __init__(self, index: CorpusIndex, files: RemoteFiles, block: int | None, cache: str | None):
        self.index = index
        self.files = files
        self.block = block
        options = files.options
        wait_seconds = options.retry_seconds + options.timeout
        self.cache = BlockCache(Path(cache or default_cache()), int(options.cache_gib * 2**30), wait_seconds)
        self.whole_blocks = block is not None
        self._checked: set[int] = set()  # tars whose size is that of the index
        self._away: dict[int, tuple[float, str]] = {}  # tars that could not be read: until when not to try, and why
        self._blocks: dict[int, list[Extent]] = {}
        self._fetched: dict[int, _Buffers] = {}  # of the records that were asked for last
        self._prefetched: tuple[tuple[int, int], int] = (-1, -1), 0  # (epoch's key, window), its blocks asked for

    def spread_over(self, nodes: int) -> None:
        """Choose the way of reading for a training on so many nodes."""
        self.whole_blocks = self.block is not None and nodes <= WHOLE_BLOCK_NODES

    def window_bytes(self) -> int:
        """About the bytes of a window of blocks, by some of them; 0 if whole blocks are not fetched."""
        if not self.whole_blocks:
            return 0
        assert self.block is not None
        count = -(-len(self.index) // self.block)
        some = range(0, count, -(-count // _SAMPLED_BLOCKS))
        size = sum(end - begin for block in some for _, begin, end in self._block_extents(block))
        return size * min(WINDOW_BLOCKS, count) // len(some)

    def prepare(self, numbers: Iterable[int], once: bool = False) -> None:
        """Fetch what records need, all at the same time. Those of the last call are forgotten.

        Args:
            numbers: Numbers of the records.
            once: Whether they are read only now, so that no block is kept for them.
        """
        self._fetched = {}
        numbers = sorted(set(numbers))
        if self.whole_blocks and not once:
            assert self.block is not None
            blocks = sorted({number // self.block for number in numbers})
            extents = [extent for block in blocks for extent in self._block_extents(block)]
            self._each(extents, lambda extent: self.cache.fill(self._name(extent), lambda: self._fetch(extent)))
            return
        pieces = [self._pieces(number, number + 1) for number in numbers]
        extents = _merged(np.concatenate(pieces)) if pieces else []
        buffers = _Buffers(extents)
        self._each(extents, lambda extent: buffers.put(extent, self._fetch(extent)))
        self._fetched = dict.fromkeys(numbers, buffers)

    def with_reader(self, number: int, record: Record) -> Record:
        """The record, with what reads its bytes."""
        tar = int(self.index.first.searchsorted(number, "right")) - 1
        buffers = self._fetched.get(number)
        if self.whole_blocks and buffers is None:
            assert self.block is not None
            read = functools.partial(self._from_block, number // self.block, tar)
        else:
            read = functools.partial(self._from_buffers, buffers, tar)
        return Record(record.tar, record.key, record.members, read)

    def prefetch(self, order: BlockOrder, following: BlockOrder, position: int) -> None:
        """Fetch blocks that will be needed, without waiting: as much of the next window as has passed of the present.

        Args:
            order: The order of the epoch.
            following: The order of the epoch after it.
            position: The position in the epoch that will be read next.
        """
        if not self.whole_blocks:
            return
        window, passed = order.progress(position)
        if self._prefetched[0] != (order.key, window):
            self._prefetched = (order.key, window), 0
        blocks = order.blocks_of(window + 1) if window + 1 < order.windows else following.blocks_of(0)
        wanted = min(int(passed * WINDOW_BLOCKS) + 1, len(blocks))
        for block in blocks[self._prefetched[1] : wanted].tolist():
            for extent in self._block_extents(block):
                _prefetchers.submit(functools.partial(self._prefetch, extent))
        self._prefetched = self._prefetched[0], max(wanted, self._prefetched[1])

    def _prefetch(self, extent: Extent) -> None:
        self.cache.fill(self._name(extent), lambda: self._fetch(extent), wait=False)

    def _from_block(self, block: int, tar: int, _: str, pieces: Pieces) -> bytes:
        extents = self._block_extents(block)
        return self._joined(pieces, lambda begin, size: self._from_cache(extents, tar, begin, size))

    def _from_cache(self, extents: list[Extent], tar: int, begin: int, size: int) -> bytes:
        extent = next(each for each in extents if each[0] == tar and each[1] <= begin and begin + size <= each[2])
        return self.cache.read(self._name(extent), begin - extent[1], size, lambda: self._fetch(extent))

    def _from_buffers(self, buffers: "_Buffers | None", tar: int, _: str, pieces: Pieces) -> bytes:
        def read(begin: int, size: int) -> bytes:
            found = buffers.get(tar, begin, size) if buffers is not None else None
            return self._fetch((tar, begin, begin + size)) if found is None else found

        return self._joined(pieces, read)

    def _joined(self, pieces: Pieces, read: Callable[[int, int], bytes]) -> bytes:
        try:
            parts = [bytes(size) if offset == HOLE else read(offset, size) for offset, size in pieces if size]
            return b"".join(parts)
        except Unavailable as error:
            self._skip_or_raise(error)
            raise BrokenRecord("shard not available", str(error)) from None

    def _each(self, extents: list[Extent], fetch: Callable[[Extent], None]) -> None:
        def task(extent: Extent) -> None:
            try:
                fetch(extent)
            except Unavailable as error:  # reading the record says so again
                self._skip_or_raise(error)

        _fetchers.all([functools.partial(task, extent) for extent in extents])

    def _skip_or_raise(self, error: Unavailable) -> None:
        if self.files.options.unavailable == "fail":
            raise UserError(
                f"{error} To skip and count the records of shards that cannot be read, set remote.unavailable: skip in "
                "the data YAML."
            ) from None

    def _fetch(self, extent: Extent) -> bytes:
        """Bytes of a tar from the storage.

        If shards that cannot be read are skipped, such a one is left alone for `retry_seconds`, then tried once.
        """
        tar, begin, end = extent
        url = self.index.tars[tar]
        skips = self.files.options.unavailable == "skip"
        until, why = self._away.get(tar, (0.0, "")) if skips else (0.0, "")
        if time.monotonic() < until:
            raise Unavailable(why)
        try:
            self._check(tar)
            data = self.files.read(url, begin, end, patient=not why)
        except Unavailable as error:
            self._away[tar] = time.monotonic() + self.files.options.retry_seconds, str(error)
            raise
        self._away.pop(tar, None)
        return data

    def _check(self, tar: int) -> None:
        """Raise UserError if a tar has not the size that it had when it was indexed."""
        if tar in self._checked:
            return
        url = self.index.tars[tar]
        info = self.files.info(url)
        if info is None:
            raise Unavailable(f"The shard {url} does not exist.")
        if info.size != self.index.tar_size(tar):
            raise UserError(
                f"The shard {url} has changed since {self.index.path} was made. Index it again; if the index "
                "is not on the storage, remove that file, and it is made anew."
            )
        self._checked.add(tar)

    def _name(self, extent: Extent) -> str:
        tar, begin, end = extent
        return f"{self.index.digest.hex()} {tar} {begin} {end}"

    def _block_extents(self, block: int) -> list[Extent]:
        if block not in self._blocks:
            if len(self._blocks) >= 8 * WINDOW_BLOCKS:
                self._blocks.clear()
            assert self.block is not None
            first = block * self.block
            self._blocks[block] = _merged(self._pieces(first, min(first + self.block, len(self.index))))
        return self._blocks[block]

    def _pieces(self, first: int, last: int) -> np.ndarray:
        """Tar, first byte and byte after the last of each stored piece of records, int64 [pieces, 3]."""
        found = []
        for tar, pieces in self.index.pieces(first, last):
            stored = pieces[(pieces[:, 0] != HOLE) & (pieces[:, 1] > 0)]
            begins, ends = stored[:, 0], stored.sum(axis=1)
            found.append(np.stack((np.full_like(begins, tar), begins, ends), axis=1))
        return np.concatenate(found)


class _Buffers:
    """Fetched extents in memory."""

    def __init__(self, extents: list[Extent]):
        self.extents = extents
        self.data: dict[Extent, bytes] = {}

    def put(self, extent: Extent, data: bytes) -> None:
        self.data[extent] = data

    def get(self, tar: int, begin: int, size: int) -> bytes | None:
        for extent in self.extents:
            if extent[0] == tar and extent[1] <= begin and begin + size <= extent[2]:
                data = self.data.get(extent)
                return None if data is None else data[begin - extent[1] : begin - extent[1] + size]
        return None


def _merged(pieces: np.ndarray) -> list[Extent]:
    """The extents to fetch for pieces [n, 3] of (tar, begin, end), which may overlap.

    Neighbors are one extent if the gap between is small, or all gaps of the extent are less than what is wanted in it.
    """
    extents: list[Extent] = []
    spare = 0  # bytes wanted in the last extent, less its gaps
    for tar, begin, end in sorted(set(map(tuple, pieces.tolist()))):
        if extents and extents[-1][0] == tar:
            _, first, last = extents[-1]
            gap = max(begin - last, 0)
            if gap <= max(_SMALL_GAP, spare):
                spare += max(end - max(begin, last), 0) - (gap if gap > _SMALL_GAP else 0)
                extents[-1] = (tar, first, max(last, end))
                continue
        extents.append((tar, begin, end))
        spare = end - begin
    return extents
