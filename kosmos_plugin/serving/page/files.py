"""Files of the page: what users upload, and the pictures that it shows. They are deleted when the server ends."""

import os
import tempfile
from pathlib import Path

KEPT = 32  # uploads of the largest size


class PageFiles:
    """A private folder of limited size.

    Args:
        max_upload: The largest upload, in bytes. KEPT times as much is kept; the oldest files are deleted first.

    Attributes:
        folder: The folder.
    """

    def __init__(self, max_upload: int):
        self.max_bytes = KEPT * max_upload
        self._made = tempfile.TemporaryDirectory(prefix="kosmos-page-", ignore_cleanup_errors=True)
        self.folder = Path(self._made.name).resolve()
        self._kept: set[Path] = set()

    def keep(self) -> None:
        """Never delete the files that there are now: they are the page's own."""
        self._kept = set(self.folder.rglob("*"))

    def has(self, path: str) -> bool:
        """Whether a path, of a file or not, is in the folder."""
        return "\0" not in path and Path(os.path.realpath(path)).is_relative_to(self.folder)

    def make_room(self, size: int) -> None:
        """Delete files until there is room for `size` bytes more."""
        found = []
        for path in self.folder.rglob("*"):
            try:
                if path.is_file() and path not in self._kept:
                    found.append((path.stat().st_mtime, path.stat().st_size, path))
            except FileNotFoundError:  # deleted by another request
                continue
        total = size + sum(each for _, each, _ in found)
        for _, each, path in sorted(found):
            if total <= self.max_bytes:
                return
            path.unlink(missing_ok=True)
            total -= each

    def delete(self) -> None:
        """Delete the folder and all that is in it."""
        self._made.cleanup()
