"""Binarized text on remote storage is copied to this machine's disk once: a row is found by a few bytes here and there.

    CACHE/text/NAME-DIGEST.VERSION/NAME.bin, NAME.idx, dict.txt and where rows begin, if they are beside the text

VERSION changes with the files on the storage. Copies are not removed when the cache is full, as blocks are.
"""

import hashlib
import shutil
from pathlib import Path

from kosmos_plugin.data.derived_files import DerivedFile, default_cache
from kosmos_plugin.data.remote_files import RemoteFiles, RemoteInfo, Unavailable
from kosmos_plugin.errors import UserError
from kosmos_plugin.vocabulary import DICTIONARY_FILE


def local_copy(prefix: str, files: RemoteFiles, cache: str | None, rows: str) -> str:
    """Copy a binarized text to the cache folder, unless it is there.

    Args:
        prefix: The address of the text, without .bin and .idx.
        files: Reads remote files.
        cache: The cache folder; None: the user's.
        rows: The end of the name of the file that says where rows begin; it is copied if there is one.

    Returns:
        The path of the copy, without .bin and .idx.

    Raises:
        UserError: It does not exist or cannot be read, or the disk has no room.
    """
    infos = {suffix: files.info(f"{prefix}{suffix}") for suffix in (".bin", ".idx")}
    for suffix, info in infos.items():
        if info is None:
            raise Unavailable(f"The binarized text {prefix}{suffix} does not exist.")
    found: dict[str, RemoteInfo] = {suffix: info for suffix, info in infos.items() if info is not None}
    version = hashlib.blake2b(repr(sorted(found.items())).encode(), digest_size=6).hexdigest()
    folder_address, _, name = prefix.rpartition("/")
    place = hashlib.blake2b(prefix.encode(), digest_size=6).hexdigest()
    folder = Path(cache or default_cache()) / "text" / f"{name}-{place}.{version}"
    whole = folder / "whole"  # written last

    def read(_: Path) -> str | None:
        return str(folder / name) if whole.exists() else None

    def write(_: Path) -> None:
        size = sum(info.size for info in found.values())
        free = shutil.disk_usage(folder).free
        if size > free:
            raise UserError(
                f"The text {prefix} has {size / 2**30:,.1f} GiB, and {folder} only {free / 2**30:,.1f} GiB "
                "of room: name another folder with the key `cache` of the data YAML."
            )
        for suffix, info in found.items():
            files.copy(f"{prefix}{suffix}", folder / f"{name}{suffix}", info.size)
        for address, path in (
            (f"{folder_address}/{DICTIONARY_FILE}", folder / DICTIONARY_FILE),
            (f"{prefix}.{rows}", folder / f"{name}.{rows}"),
        ):
            if (there := files.info(address, optional=True)) is not None:
                files.copy(address, path, there.size)
        whole.touch()

    return DerivedFile(whole, whole).open(read, write, f"the copy of {prefix}")
