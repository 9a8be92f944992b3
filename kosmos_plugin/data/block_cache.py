"""A bounded cache of pieces of remote files on this machine's disk, shared by all of its processes.

    FOLDER/blocks/3f/3fa1…     a piece as it is in the remote file, under the hash of what it is
    FOLDER/blocks/locks/…      who is fetching what; who is removing
    FOLDER/blocks/size         bytes of all pieces, as 8 bytes

A piece is written beside its place, synchronized with the disk, and renamed, so that it is whole wherever it is found.
Of several processes that want it one fetches it, and the others wait, though not for one that hangs. When the pieces
exceed the limit, those that were used least recently are removed, also under the eyes of a reader, who fetches again.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from kosmos_plugin.atomic import atomic_path
from kosmos_plugin.errors import UserError

_LOCKS = 4096
_LEFT = 0.9  # of the limit, after removing
_POLL_SECONDS = 0.05
_OLD_SECONDS = 3600  # of a piece that a killed process has left half written


class BlockCache:
    """Pieces of remote files on disk.

    Args:
        folder: Where, for any number of corpora and trainings.
        limit: Bytes that all pieces may take.
        wait_seconds: How long to wait for a process that fetches the same piece.
    """

    def __init__(self, folder: Path, limit: int, wait_seconds: float):
        self.folder = folder / "blocks"
        self.limit = limit
        self.wait_seconds = wait_seconds

    def read(self, name: str, offset: int, size: int, fetch: Callable[[], bytes]) -> bytes:
        """Bytes of a piece.

        Args:
            name: What the piece is: the same name stands for the same bytes for ever.
            offset: Where to begin in it.
            size: How many bytes.
            fetch: Gets the whole piece from the storage.
        """
        path = self._path(name)
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return self._fetched(path, fetch, self.wait_seconds)[offset : offset + size]
        try:
            os.utime(file)  # it was used
            data = os.pread(file, size, offset)
        finally:
            os.close(file)
        if len(data) < size:  # something else has cut it short
            path.unlink(missing_ok=True)
            return self._fetched(path, fetch, self.wait_seconds)[offset : offset + size]
        return data

    def fill(self, name: str, fetch: Callable[[], bytes], wait: bool = True) -> None:
        """Fetch a piece unless it is there; or unless another process does so already, if `wait` is False."""
        path = self._path(name)
        try:
            os.utime(path)  # it is needed, and so not removed soon
        except OSError:  # it is not there, or no cache can be
            self._fetched(path, fetch, self.wait_seconds if wait else None)

    def _path(self, name: str) -> Path:
        digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=20).hexdigest()
        return self.folder / digest[:2] / digest

    def _fetched(self, path: Path, fetch: Callable[[], bytes], wait_seconds: float | None) -> bytes:
        """The whole piece, after it was written."""
        try:
            with self._lock(f"{int(path.name[:8], 16) % _LOCKS:03x}", wait_seconds) as own:
                if not own and wait_seconds is None:
                    return b""
                with contextlib.suppress(FileNotFoundError):
                    return path.read_bytes()
                data = fetch()
                self._write(path, data)
                return data
        except OSError as error:
            raise UserError(
                f"The cache {self.folder} cannot be written: {error.strerror or error}. Name another folder with the "
                "key `cache` of the data YAML, or make it smaller with remote.cache_gib."
            ) from None

    def _write(self, path: Path, data: bytes) -> None:
        self._make_room(len(data))
        while True:
            try:
                self._write_file(path, data)
                return
            except OSError as error:  # if the disk is full of other things, take less of it
                if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._halve():
                    raise

    def _write_file(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fdatasync(file.fileno())

    def _halve(self) -> bool:
        """Remove half of what is there; whether that was anything."""
        with self._lock("size", self.wait_seconds):
            total = self._remove(sys.maxsize)
            self._remove(total // 2)
            return total > 0

    def _make_room(self, size: int) -> None:
        """Count `size` more bytes and, if that is more than the limit, remove pieces."""
        with self._lock("size", self.wait_seconds):
            counter = self.folder / "size"
            try:
                total = int.from_bytes(counter.read_bytes()[:8], "little") + size
            except FileNotFoundError:
                total = self.limit + 1  # so that what is there is counted
            if total > self.limit:
                total = self._remove(int(self.limit * _LEFT) - size) + size
            counter.write_bytes(total.to_bytes(8, "little"))

    def _remove(self, limit: int) -> int:
        """Remove the pieces used least recently until `limit` bytes are left; how many are."""
        pieces = []
        for entry in self._entries():
            with contextlib.suppress(FileNotFoundError):
                stat = entry.stat()
                if not entry.name.endswith(".tmp"):
                    pieces.append((stat.st_mtime_ns, stat.st_size, entry.path))
                elif time.time() - stat.st_mtime > _OLD_SECONDS:
                    os.unlink(entry.path)
        total = sum(size for _, size, _ in pieces)
        for _, size, path in sorted(pieces):
            if total <= limit:
                break
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            total -= size
        return total

    def _entries(self) -> Iterator[os.DirEntry[str]]:
        for folder in os.scandir(self.folder):
            if folder.is_dir() and len(folder.name) == 2:
                yield from os.scandir(folder.path)

    @contextlib.contextmanager
    def _lock(self, name: str, wait_seconds: float | None) -> Iterator[bool]:
        """Hold a lock that ends with the process; whether it is held: not if it could not be had in time."""
        folder = self.folder / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            yield _locked(file, wait_seconds)
        finally:
            os.close(file)


def _locked(file: int, wait_seconds: float | None) -> bool:
    end = time.monotonic() + (wait_seconds or 0)
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
        if time.monotonic() >= end:
            return False
        time.sleep(_POLL_SECONDS)
