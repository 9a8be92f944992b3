"""A crash while fairseq writes a checkpoint can leave a truncated `checkpoint_last.pt`.

`save_checkpoint` writes one file under a temporary name, renames it, and copies it over the others, among them
`checkpoint_last.pt`, which a restart reads. With this patch copies go to a temporary name too, and a file is flushed to
the disk before it gets its new name: without fsync, a crash of the machine can leave that name with an empty file. A
copy that fails leaves no temporary file.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from fairseq.file_io import PathManager

_copy = PathManager.copy


def is_needed() -> bool:
    """Return True: fairseq always copies over the old file."""
    return True


def apply() -> None:
    """Replace copy and rename of `PathManager`."""
    PathManager.copy = staticmethod(copy)
    PathManager.rename = staticmethod(rename)


def copy(src_path: str, dst_path: str, overwrite: bool = False) -> bool:
    """Copy a file. At every moment `dst_path` is the old file or the complete new one."""
    if not overwrite or not (PathManager.supports_rename(src_path) and PathManager.supports_rename(dst_path)):
        return _copy(src_path, dst_path, overwrite=overwrite)
    with replacement(dst_path) as temporary:
        shutil.copyfile(src_path, temporary)
    return True


@contextmanager
def replacement(path: str) -> Iterator[str]:
    """Yield the name of a file to write, which replaces `path` if the block succeeds, and else is removed.

    It is always the same name, so that what a killed process left there does not stay.
    """
    temporary = f"{path}.tmp"
    try:
        yield temporary
        rename(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.remove(temporary)
        raise


def rename(src: str, dst: str) -> None:
    """Flush a file to the disk and rename it, replacing a file of that name."""
    _flush_to_disk(src)
    os.replace(src, dst)
    _flush_to_disk(os.path.dirname(os.path.abspath(dst)))


def _flush_to_disk(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
