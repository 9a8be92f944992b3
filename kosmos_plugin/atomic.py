"""Atomic writes of files and folders: readers find the old one or the new one, never a part of it."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Write a file or a folder at a temporary path beside `target`, which is renamed to `target` on success.

    If the block raises, the temporary path is removed and `target` is unchanged. A file at `target` is replaced.

    Args:
        target: Path of the file or folder to write.

    Yields:
        The temporary path, where nothing exists yet.

    Raises:
        OSError: `target` is a folder that is not empty, or the other kind of path (file or folder) than was written.
    """
    target = Path(target)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")  # process ids are not unique over machines
    try:
        yield temporary
        os.replace(temporary, target)
    except BaseException:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
        raise


def write_text(target: str | Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_path(target) as path:
        path.write_text(text, encoding="utf-8")
