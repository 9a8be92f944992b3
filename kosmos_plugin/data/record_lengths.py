"""How many tokens and images each record of a corpus has, so that an update is planned without reading any record.

    FOLDER/FIRST-LAST.DIGEST.KIND.FINGERPRINT.kosmos_lengths    beside the corpus's index (`corpus_index`)

KIND says how records are read, FINGERPRINT how text is encoded: the SentencePiece model, dict.txt, and newlines. The
tokens are those of the text, to which those of the images are added when an update is planned.

    64 bytes     magic word with the version; number of records; digest of the corpus's index; CRC-32 of these
    block 0 …    64 records, uint32 each: tokens in the lower 22 bits, images in the upper 10; ones if it is unusable
                 a checksum, uint32

The file is mapped into memory, and only the blocks of the records that are drawn are read and checked. It is made by
`kosmos-prepare index --vocabulary` or, by all cores, when training starts. Of a remote corpus the file beside the tars
is copied to the cache folder; if there is none, all records are fetched once to make it there.
"""

import logging
import mmap
import os
import struct
import sys
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from kosmos_plugin.atomic import atomic_path
from kosmos_plugin.data.corpus_index import CorpusIndex, address_beside, file_of_corpus, folder_to_index
from kosmos_plugin.data.documents import BrokenRecord
from kosmos_plugin.data.node_workers import by_all_workers
from kosmos_plugin.data.samples import SampleBuilder
from kosmos_plugin.data.shard_index import LENGTHS_SUFFIX
from kosmos_plugin.data.shards import ShardedDocuments
from kosmos_plugin.errors import UserError
from kosmos_plugin.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

MAGIC = b"KOSMOSL\1"  # another version if records are read in another way
_HEADER = struct.Struct("<8sQ16sI28x")
_RECORDS = 64  # of a block
_UNUSABLE = 0xFFFFFFFF
_TOKEN_BITS = 22
_MOST_TOKENS, _MOST_IMAGES = (1 << _TOKEN_BITS) - 1, (1 << 32 - _TOKEN_BITS) - 2
# Odd, so that a change of any one number changes the sum.
_WEIGHTS = np.random.Generator(np.random.Philox(0)).integers(0, 1 << 32, _RECORDS + 1, np.uint32) | np.uint32(1)


class RecordLengths:
    """The lengths of a corpus's records.

    Args:
        path: Path of the file.
        index: The corpus's index.

    Raises:
        ValueError: The file is not of this version, damaged, or of other records.
        OSError: It cannot be read.
    """

    def __init__(self, path: Path, index: CorpusIndex):
        self.path = path
        self.index = index
        with open(path, "rb") as file:
            head = file.read(_HEADER.size)
            blocks = -(-len(index) // _RECORDS)
            if head != _header(len(index), index.digest):
                raise ValueError("of other records, or of another version")
            if os.fstat(file.fileno()).st_size != _HEADER.size + blocks * 4 * (_RECORDS + 1):
                raise ValueError("cut short")
            self._map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        self._blocks = np.frombuffer(self._map, "<u4", offset=_HEADER.size).reshape(blocks, _RECORDS + 1)

    def __reduce__(self) -> tuple[type["RecordLengths"], tuple[Path, CorpusIndex]]:
        return type(self), (self.path, self.index)  # a worker process opens the file itself

    def of(self, numbers: np.ndarray) -> np.ndarray:
        """The tokens of text and the images of records, int64 [n, 2]; −1 tokens for an unusable one.

        Args:
            numbers: Numbers of the records, int64 [n].

        Raises:
            UserError: The file is damaged there.
        """
        block_numbers = numbers // _RECORDS
        blocks = self._blocks[block_numbers]
        # The pages stay in the system's cache, but do not count as this process's.
        self._map.madvise(mmap.MADV_DONTNEED)
        if (_checksums(blocks[:, :-1], block_numbers) != blocks[:, -1]).any():
            raise UserError(f"The record lengths {self.path} are damaged: remove the file, and it is made anew.")
        packed = blocks[np.arange(len(numbers)), numbers % _RECORDS].astype(np.int64)
        lengths = np.stack((packed & _MOST_TOKENS, packed >> _TOKEN_BITS), axis=1)
        lengths[packed == _UNUSABLE] = (-1, 0)
        return lengths


class LengthsFile:
    """Makes and opens the lengths of the records of one corpus.

    Args:
        documents: The corpus.
        reading: How its records are read, as in the file's name.
        vocabulary: Encodes its text.
    """

    def __init__(self, documents: ShardedDocuments, reading: str, vocabulary: Vocabulary):
        self.documents = documents
        self.index = documents.index
        self.vocabulary = vocabulary
        self.builder = SampleBuilder(vocabulary, 0, sys.maxsize)
        self.name = f"{reading}.{vocabulary.encoding_fingerprint}{LENGTHS_SUFFIX}"
        self.file = file_of_corpus(self.index.tars, documents.cache, self.name)

    def find(self) -> RecordLengths | None:
        """Open the lengths; None if they have not been made."""
        return self.file.find(self._read)

    def open(self) -> RecordLengths:
        """Open the lengths; they are made if there are none of this very corpus.

        Raises:
            UserError: They cannot be written, or a tar is missing or has changed.
        """
        what = f"the lengths of the records of {self.index.tars[0]}"
        return self.file.open(self._read, self.write if self.documents.remote is None else self._copy_or_write, what)

    def _copy_or_write(self, path: Path) -> None:
        """Copy the file beside a remote corpus; if it is missing, or of other records, the lengths are counted."""
        url = address_beside(self.index.tars, self.name)
        info = self.documents.files.info(url, optional=True)
        if info is not None:
            self.documents.files.copy(url, path, info.size)
            if self._read(path) is not None:
                return
            logger.warning(f"{url} is damaged, or of other records: they are counted again.")
        self.write(path)

    def write(self, path: Path, parts: Iterable[np.ndarray] | None = None) -> None:
        """Write the lengths of all records.

        Args:
            path: Path of the file.
            parts: What `count_tar` gives for each tar; None: all cores count them now.
        """
        if parts is None:
            where = os.path.dirname(self.index.tars[0]) or "."
            command = f"kosmos-prepare index {folder_to_index(self.index.tars)} --vocabulary VOCABULARY --out REPORT"
            parts = by_all_workers(_Counts(self), len(self.index.tars), f"record lengths of {where}", "tar", command)
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            file.write(_header(len(self.index), self.index.digest))
            left, block = np.empty(0, np.uint32), 0
            for packed in parts:
                left = np.concatenate((left, packed))
                whole = len(left) // _RECORDS
                file.write(_as_blocks(left[: whole * _RECORDS], block))
                left, block = left[whole * _RECORDS :], block + whole
            if len(left):
                file.write(_as_blocks(np.pad(left, (0, _RECORDS - len(left))), block))

    def count_tar(self, tar: int) -> np.ndarray:
        """The lengths of the records of a tar, by its number, as they are in the file: uint32 [records]."""
        first, end = self.index.first[tar : tar + 2].tolist()
        return np.array([_packed(*lengths) for lengths in self.count_all(range(first, end)).tolist()], np.uint32)

    def count_all(self, numbers: Sequence[int]) -> np.ndarray:
        """As `count`, of several records, int64 [n, 2]. Remote ones are fetched some at the same time."""
        counted = []
        for begin in range(0, len(numbers), _RECORDS):
            some = numbers[begin : begin + _RECORDS]
            self.documents.prepare(some, once=True)
            counted += [self.count(number) for number in some]
        return np.array(counted, np.int64).reshape(-1, 2)

    def count(self, number: int) -> tuple[int, int]:
        """The tokens of text and the images of a record, by reading it; −1 tokens if it is unusable."""
        try:
            sample = self.builder.sample(self.documents[number])
        except BrokenRecord:
            return -1, 0
        images = len(sample.images)
        return len(sample) - 2 - 2 * images, images  # without <s>, </s>, <image>, </image>

    def _read(self, path: Path) -> RecordLengths | None:
        try:
            return RecordLengths(path, self.index)
        except (OSError, ValueError):
            return None


class _Counts(Dataset[np.ndarray | UserError]):
    """Item i: the packed lengths of the records of tar i, uint32."""

    def __init__(self, lengths: LengthsFile):
        self.lengths = lengths

    def __getitem__(self, tar: int) -> np.ndarray | UserError:
        try:
            return self.lengths.count_tar(tar)
        except UserError as error:
            return error


def _packed(tokens: int, images: int) -> int:
    fits = 0 <= tokens <= _MOST_TOKENS and images <= _MOST_IMAGES
    return images << _TOKEN_BITS | tokens if fits else _UNUSABLE


def _as_blocks(packed: np.ndarray, first: int) -> bytes:
    records = packed.astype("<u4").reshape(-1, _RECORDS)
    checksums = _checksums(records, np.arange(first, first + len(records)))
    return np.concatenate((records, checksums[:, None]), axis=1).astype("<u4").tobytes()


def _checksums(records: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The checksums of blocks, uint32 [n], from their records [n, 64] and their numbers [n]."""
    return records @ _WEIGHTS[:-1] + (numbers.astype(np.uint32) + np.uint32(1)) * _WEIGHTS[-1]


def _header(records: int, digest: bytes) -> bytes:
    checksum = zlib.crc32(_HEADER.pack(MAGIC, records, digest, 0))
    return _HEADER.pack(MAGIC, records, digest, checksum)
