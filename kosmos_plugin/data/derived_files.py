"""Files that are made from data when it is first opened: beside it or, in a read-only folder, in a cache folder.

One process of a machine makes a file, and others that ask meanwhile wait for it.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from kosmos_plugin.data.remote_files import is_remote
from kosmos_plugin.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class DerivedFile:
    """The two places where a derived file may be."""

    beside: Path  # its path beside the data
    cached: Path  # its path in the cache folder

    @classmethod
    def of(cls, data: str, name: str, cache: str | None) -> "DerivedFile":
        """The places of a file that is named `data` + "." + `name`.

        Args:
            data: What it is made from: the start of a path; beside a remote one nothing is written.
            name: The rest of the file's name.
            cache: Folder to write to where the data's own is read-only; None: the user's cache folder.
        """
        whole = data if is_remote(data) else os.path.realpath(data)
        place = hashlib.blake2b(whole.encode(errors="surrogateescape"), digest_size=8).hexdigest()
        cached = Path(cache or default_cache()) / f"{os.path.basename(data)}-{place}.{name}"
        return cls(cached if is_remote(data) else Path(f"{data}.{name}"), cached)

    def find(self, read: Callable[[Path], T | None]) -> T | None:
        """What `read` finds in the file; None if there is none that it can use."""
        found = read(self.beside)
        return read(self.cached) if found is None else found

    def open(self, read: Callable[[Path], T | None], write: Callable[[Path], None], what: str) -> T:
        """As `find`; the file is made first if there is none.

        Args:
            read: Opens the file at a path; None if it is missing or cannot be used.
            write: Makes the file at a path.
            what: What it holds, for a message: "where the rows of … begin".

        Raises:
            UserError: It cannot be written.
        """
        found = self.find(read)
        if found is not None:
            return found
        from filelock import FileLock  # imports asyncio, which most processes do not need

        place = hashlib.blake2b(str(self.beside.absolute()).encode(errors="surrogateescape"), digest_size=8).hexdigest()
        path = self.beside if os.access(self.beside.parent, os.W_OK) else self.cached
        try:
            lock = Path(tempfile.gettempdir()) / f"kosmos_plugin-{os.getuid()}-{place}.lock"
            with FileLock(lock):
                try:
                    found = self.find(read)  # another process may have made it meanwhile
                    if found is None:
                        path.parent.mkdir(parents=True, exist_ok=True)
                        write(path)
                        found = read(path)
                finally:  # others may wait for this lock or make a new one: once it is gone, both find the file
                    lock.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(
                f"{path}, {what}, cannot be written: {error.strerror}. Make its folder writable, or name another one "
                "with the key `cache` of the data YAML."
            ) from None
        assert found is not None
        return found


def default_cache() -> str:
    """The user's cache folder for this package."""
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "kosmos_plugin")
