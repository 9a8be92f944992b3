"""The index of a corpus: one file for all of its tars, opened by two reads whatever their number.

    FOLDER/FIRST-LAST.DIGEST.kosmos_index   FIRST, LAST: the first and the last tar; DIGEST: of the names of all

    48 bytes     magic word with the version; where the table is, its size, its CRC-32; digest of the contents
    part 0 …     the index of each tar (`index_file`), in the order of the data YAML
    table        int64 [tars + 1]: the first record of each tar, and the number of all records
                 int64 [tars + 1]: where each part begins, and where the last one ends
                 the names of the tars, relative to FOLDER (the first one's), with NUL between them

A record is read by ranges: its part's header once, where its block begins, its block. Everything has a checksum. The
file is made when the corpus is first opened, by all cores, from the indexes beside the tars (which may be of selected
records) or else from the tars' headers. `kosmos-prepare index` makes it in advance.

The tars of a large corpus are not looked at before they are read: then one that has changed is an error. Those of a
smaller one are, and the file is made anew.

Of a remote corpus (`remote_files`) the file beside the tars is copied to the cache folder once; if there is none, it is
made there.
"""

import functools
import hashlib
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from kosmos_plugin.atomic import atomic_path
from kosmos_plugin.data.derived_files import DerivedFile
from kosmos_plugin.data.index_file import DamagedIndex, IndexFile, records_in
from kosmos_plugin.data.node_workers import by_all_workers
from kosmos_plugin.data.remote_files import RemoteFiles, is_remote
from kosmos_plugin.data.remote_index import remote_index
from kosmos_plugin.data.shard_index import INDEX_SUFFIX, MOST_CHECKED, Record, index_path, read_or_make_index
from kosmos_plugin.data.tar_files import read_bytes
from kosmos_plugin.errors import UserError

MAGIC = b"KOSMOSC\1"
_HEADER = struct.Struct("<8sQQI16sI")  # as above, and the CRC-32 of all before it
_OPEN_PARTS = 1024  # whose headers a process keeps


class CorpusIndex:
    """The records of a corpus, read one at a time.

    Args:
        path: Path of the file.
        tars: Paths of the corpus's tars.

    Attributes:
        first: The first record of each tar, and the number of all records, int64 [tars + 1].
        digest: Digest of the contents.

    Raises:
        DamagedIndex: The file is not a whole index of these tars.
        OSError: It cannot be read.
    """

    def __init__(self, path: str | Path, tars: Sequence[str]):
        self.path = str(path)
        self.tars = tars
        self.time = os.stat(path).st_mtime_ns
        header = read_bytes(self.path, 0, _HEADER.size)
        if len(header) < _HEADER.size or not header.startswith(MAGIC):
            raise DamagedIndex("not an index of a corpus, of this version")
        _, at, size, checksum, self.digest, own_checksum = _HEADER.unpack(header)
        if zlib.crc32(header[:-4]) != own_checksum or at + size != os.path.getsize(path):
            raise DamagedIndex("a damaged header")
        table = read_bytes(self.path, at, size)
        if zlib.crc32(table) != checksum:
            raise DamagedIndex("a damaged table")
        count = 8 * (len(tars) + 1)
        if table[2 * count :] != _names(tars):
            raise DamagedIndex("of other tars")
        self.first = np.frombuffer(table, "<i8", len(tars) + 1)
        self.begins = np.frombuffer(table, "<i8", len(tars) + 1, count)
        self._checked = bytearray(len(tars))

    def __len__(self) -> int:
        return int(self.first[-1])

    def __reduce__(self) -> tuple[type["CorpusIndex"], tuple[str, Sequence[str]]]:
        return type(self), (self.path, self.tars)  # a worker process opens the file itself

    def record(self, number: int) -> Record:
        """Record `number`, without reading any of its members.

        Raises:
            UserError: The index is damaged there, or its tar is missing or has changed.
        """
        assert 0 <= number < len(self)
        tar = int(self.first.searchsorted(number, "right")) - 1
        try:
            if not self._checked[tar]:
                if why := self.change_of(tar):
                    raise UserError(
                        f"The shard {self.tars[tar]} {why} {self.path} was made. Remove that file, and it is made "
                        "anew; or touch it, if the shard has only been copied."
                    )
                self._checked[tar] = 1
            return Record(self.tars[tar], *self._part(tar).record(number - int(self.first[tar])))
        except DamagedIndex as error:
            raise self._damaged(error) from None
        except OSError as error:
            raise UserError(f"Cannot read the shard {self.tars[tar]}: {error}") from None

    def pieces(self, first: int, last: int) -> Iterator[tuple[int, np.ndarray]]:
        """Of each tar with records among first … last − 1, its number, and offset and size of their pieces [n, 2].

        Raises:
            UserError: The index is damaged there.
        """
        while first < last:
            tar = int(self.first.searchsorted(first, "right")) - 1
            begin, end = self.first[tar : tar + 2].tolist()
            try:
                yield tar, self._part(tar).pieces(first - begin, min(last, end) - begin)
            except DamagedIndex as error:
                raise self._damaged(error) from None
            first = end

    def tar_size(self, tar: int) -> int:
        """The size in bytes that a tar, by its number, had when it was indexed.

        Raises:
            UserError: The index is damaged there.
        """
        try:
            return self._part(tar).header["tar_size"]
        except DamagedIndex as error:
            raise self._damaged(error) from None

    def _damaged(self, error: DamagedIndex) -> UserError:
        return UserError(f"The index {self.path} cannot be used ({error}). Remove it, and it is made anew.")

    def change_of(self, tar: int) -> str:
        """How a tar, by its number, or the index beside it has changed; "" if it has not. Raises DamagedIndex.

        A remote one is looked at when it is read.
        """
        if is_remote(self.tars[tar]):
            return ""
        try:
            stat = os.stat(self.tars[tar])
        except FileNotFoundError:
            return "has been removed since"
        if stat.st_mtime_ns > self.time or stat.st_size != self._part(tar).header["tar_size"]:
            return "has changed since"
        index = index_path(self.tars[tar])
        try:
            is_newer = os.stat(index).st_mtime_ns > self.time
        except FileNotFoundError:
            return ""
        begin, end = self.begins[tar : tar + 2].tolist()
        same = not is_newer or index.read_bytes() == read_bytes(self.path, begin, end - begin)
        return "" if same else "has been indexed in another way since"

    def _part(self, tar: int) -> IndexFile:
        begin, end = self.begins[tar : tar + 2].tolist()
        return _part(self.path, self.time, begin, end - begin)


@functools.lru_cache(maxsize=_OPEN_PARTS)
def _part(path: str, time: int, at: int, size: int) -> IndexFile:
    return IndexFile(path, at, size)


def file_of_corpus(tars: Sequence[str], cache: str | None = None, suffix: str = INDEX_SUFFIX[1:]) -> DerivedFile:
    """Where a file about a corpus is.

    Args:
        tars: Paths of the tars.
        cache: Folder for the file if the tars' own is read-only; None: the user's cache folder.
        suffix: The end of the file's name.
    """
    stem, digest = _stem(tars)
    return DerivedFile.of(stem, f"{digest}.{suffix}", cache)


def address_beside(tars: Sequence[str], suffix: str) -> str:
    """Where the file of a remote corpus is on the storage, if it was uploaded with the tars."""
    stem, digest = _stem(tars)
    return f"{stem}.{digest}.{suffix}"


def _stem(tars: Sequence[str]) -> tuple[str, str]:
    """What the names of all files about a corpus begin with, and the digest that follows."""
    first, last = (os.path.basename(tar).removesuffix(".tar") for tar in (tars[0], tars[-1]))
    digest = hashlib.blake2b(_names(tars), digest_size=4).hexdigest()
    name = f"{first}-{last}"[:100] if len(tars) > 1 else first[:100]
    return os.path.join(_folder(tars), name), digest


def open_corpus_index(tars: Sequence[str], cache: str | None = None, files: RemoteFiles | None = None) -> CorpusIndex:
    """Open the index of a corpus. It is made if it is missing, damaged, or older than a tar.

    Args:
        tars: Paths of the tars, or their addresses.
        cache: Folder for the index if the tars' own is read-only or remote; None: the user's cache folder.
        files: Reads remote files.

    Raises:
        UserError: A tar is missing or broken, its index is damaged, or the corpus's cannot be written.
    """
    what = f"the index of {tars[0]}" + (f" and {len(tars) - 1:,} more" if len(tars) > 1 else "")
    if is_remote(tars[0]):
        return _open_remote(tars, cache, files or RemoteFiles(), what)
    made = False

    def read(path: Path) -> CorpusIndex | None:
        try:
            index = CorpusIndex(path, tars)
            if not made and len(tars) <= MOST_CHECKED and any(map(index.change_of, range(len(tars)))):
                return None
            return index
        except (OSError, DamagedIndex):
            return None

    def write(path: Path) -> None:
        nonlocal made
        write_corpus_index(path, tars)
        made = True

    return file_of_corpus(tars, cache).open(read, write, what)


def _open_remote(tars: Sequence[str], cache: str | None, files: RemoteFiles, what: str) -> CorpusIndex:
    url = address_beside(tars, INDEX_SUFFIX[1:])
    info = files.info(url, optional=True)
    # Another version on the storage is another file here.
    version = "made"
    if info is not None:
        version = hashlib.blake2b(f"{info.size} {info.version}".encode(), digest_size=4).hexdigest()

    def read(path: Path) -> CorpusIndex | None:
        try:
            return CorpusIndex(path, tars)
        except (OSError, DamagedIndex):
            return None

    def write(path: Path) -> None:
        if info is None:
            write_corpus_index(path, tars, files)
            return
        files.copy(url, path, info.size)
        if read(path) is None:
            path.unlink()
            raise UserError(
                f"{url} is damaged, or an index of other tars: upload it again, or remove it, and it is made."
            )

    return file_of_corpus(tars, cache, f"{version}{INDEX_SUFFIX}").open(read, write, what)


def write_corpus_index(path: Path, tars: Sequence[str], files: RemoteFiles | None = None) -> None:
    """Make the index of a corpus, with all cores."""
    first, begins, newest = [0], [_HEADER.size], 0
    digest = hashlib.blake2b(digest_size=16)
    folder = _folder(tars)
    made_by = f"kosmos-prepare index {folder_to_index(tars)} --out REPORT"
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(bytes(_HEADER.size))
        parts = by_all_workers(_Parts(tars, files), len(tars), f"index of {folder}", "tar", made_by)
        for part, records, time, digest_of_part in parts:
            file.write(part)
            first.append(first[-1] + records)
            begins.append(begins[-1] + len(part))
            digest.update(digest_of_part)
            newest = max(newest, time)
        table = np.array([*first, *begins], "<i8").tobytes() + _names(tars)
        file.write(table)
        header = _HEADER.pack(MAGIC, begins[-1], len(table), zlib.crc32(table), digest.digest(), 0)[:-4]
        file.seek(0)
        file.write(header + zlib.crc32(header).to_bytes(4, "little"))
        file.flush()
        if newest > os.fstat(file.fileno()).st_mtime_ns:  # of another machine, whose clock is ahead
            os.utime(file.fileno(), ns=(newest, newest))


class _Parts(Dataset[tuple[bytes, int, int, bytes] | UserError]):
    """Item i: the index of tar i, its number of records, the time of the last change, and a digest of all that."""

    def __init__(self, tars: Sequence[str], files: RemoteFiles | None):
        self.tars = tars
        self.files = files

    def __getitem__(self, number: int) -> tuple[bytes, int, int, bytes] | UserError:
        tar = self.tars[number]
        try:
            if self.files is not None:
                part, digest_of_part = remote_index(tar, self.files)
                return part, records_in(part), 0, digest_of_part
            part = read_or_make_index(tar)
            time = os.stat(tar).st_mtime_ns  # so that the digest is another one if the tar is replaced by one like it
        except UserError as error:
            return error
        except OSError as error:
            return UserError(f"Cannot read the shard {tar}: {error}")
        digest = hashlib.blake2b(part + time.to_bytes(8, "little", signed=True), digest_size=16)
        newest = max(time, *(os.stat(path).st_mtime_ns for path in (index_path(tar),) if path.exists()), 0)
        return part, records_in(part), newest, digest.digest()


def folder_to_index(tars: Sequence[str]) -> str:
    """What `kosmos-prepare index` is to be given for a corpus; a remote one's folder is not on this machine."""
    return "FOLDER, before it is uploaded," if is_remote(tars[0]) else _folder(tars) or "."


def _folder(tars: Sequence[str]) -> str:
    """The folder of a corpus: that of its first tar."""
    return os.path.dirname(tars[0])


def _names(tars: Sequence[str]) -> bytes:
    """The names of the tars, relative to their folder."""
    folder = _folder(tars)
    relative = functools.cache(lambda other: "" if other == folder else os.path.relpath(other, folder or "."))
    paths = ((relative(head), name) for head, name in map(os.path.split, tars))
    return os.fsencode("\0".join(f"{head}/{name}" if head else name for head, name in paths))
