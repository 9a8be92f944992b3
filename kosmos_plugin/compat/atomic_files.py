"""A crash while fairseq writes a checkpoint can leave a torn ``checkpoint_last.pt``.

``save_checkpoint`` writes the first file name under a temporary name and renames it, and then makes the others, among
them ``checkpoint_last.pt``, the one that a restart reads, by copying over what is there. So a copy here goes to a
temporary name too. A renamed file reaches the disk before its new name does: without fsync a crash of the machine can
leave the new name with no content.
"""

import os
import shutil

from fairseq.file_io import PathManager

_copy = PathManager.copy


def is_needed() -> bool:
    return True


def apply() -> None:
    PathManager.copy = staticmethod(copy)
    PathManager.rename = staticmethod(rename)


def copy(src_path: str, dst_path: str, overwrite: bool = False) -> bool:
    """Copies a file; at no moment does `dst_path` hold a part of it."""
    if not overwrite or not (PathManager.supports_rename(src_path) and PathManager.supports_rename(dst_path)):
        return _copy(src_path, dst_path, overwrite=overwrite)
    temporary = f"{dst_path}.tmp"
    shutil.copyfile(src_path, temporary)
    rename(temporary, dst_path)
    return True


def rename(src: str, dst: str) -> None:
    """Renames a file, over another if there is one, once its content is on the disk."""
    _flush_to_disk(src)
    os.replace(src, dst)
    _flush_to_disk(os.path.dirname(os.path.abspath(dst)))


def _flush_to_disk(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
