"""The records of one WebDataset tar, and the index of a tar.

A record is all files of a tar with one key: the name up to the first dot of its last part. They need not be adjacent.

`SHARD.tar.kosmos_index` (`index_file`) says where the bytes of each member of SHARD.tar are. kosmos-prepare writes it;
training reads the index of a whole corpus (`corpus_index`), which is made of those of its tars. An index of selected
records only (written by `kosmos-prepare captions`) is never replaced by one of all records.
"""

import logging
import os
import posixpath
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kosmos_plugin.data.index_file import DamagedIndex, IndexFile, Members, index_bytes, write_index
from kosmos_plugin.data.tar_files import Pieces, files_of_tar, read_pieces, size_of
from kosmos_plugin.errors import UserError

logger = logging.getLogger(__name__)

INDEX_SUFFIX = ".kosmos_index"
LENGTHS_SUFFIX = ".kosmos_lengths"
# Version 0.1 wrote NumPy's arrays.
OLD_INDEX_SUFFIX = ".index.npz"
# What this package writes beside tars.
OWN_SUFFIXES = (INDEX_SUFFIX, LENGTHS_SUFFIX, OLD_INDEX_SUFFIX)
# Files of a corpus that are looked at when it is opened; those of a larger one only when they are first read.
MOST_CHECKED = 1000


@dataclass(frozen=True)
class Record:
    """The members of one record."""

    tar: str  # path
    key: str
    members: Members  # extension ("txt", "0.jpg") → where its bytes are in the tar
    read_pieces: Callable[[str, Pieces], bytes] = read_pieces  # reads these bytes of a tar, given its path

    @property
    def id(self) -> str:
        """The record's name in messages: SHARD.tar/KEY."""
        return f"{os.path.basename(self.tar)}/{self.key}"

    @property
    def largest(self) -> int:
        """The size of its largest member in bytes."""
        return max(map(size_of, self.members.values()))

    def read(self, member: str) -> bytes:
        """The bytes of the member with this extension."""
        return self.read_pieces(self.tar, self.members[member])


class Replaced(NamedTuple):
    """A file of a tar that a later one of the same name replaces, as in `tar -x`."""

    key: str
    name: str


def tar_records(tar: str | Path, file: Any = None) -> tuple[list[Record], list[Replaced]]:
    """Read the records of a tar from its headers only, in the order of their first files.

    Args:
        tar: Its path.
        file: The tar itself, open, if it is not a file of this machine.

    Returns:
        The records, and the files that are not in them because a later one has the same name. The letters' case does
        not matter in an extension, as in those that are looked for.

    Raises:
        BrokenShard: The tar is cut short, or is not a tar.
        OSError: It cannot be read.
    """
    records: dict[str, Record] = {}
    replaced: list[Replaced] = []
    for name, pieces in files_of_tar(tar, file):
        folder, _, last = name.rpartition("/")
        stem, _, extension = last.partition(".")
        if not stem or not extension:  # e.g. README, .DS_Store, ._0001.jpg: webdataset skips them too
            continue
        key = f"{folder}/{stem}" if folder else stem
        record = records.setdefault(posixpath.normpath(key), Record(str(tar), key, {}))
        extension = extension.lower()
        if extension in record.members:
            replaced.append(Replaced(record.key, name))
        record.members[extension] = pieces
    return list(records.values()), replaced


def index_path(tar: str | Path) -> Path:
    """The path of the index of `tar`."""
    return Path(f"{tar}{INDEX_SUFFIX}")


def build_index(tar: str | Path, records: Iterable[Record] | None = None, selection: str = "") -> Path:
    """Write a tar's index beside it, atomically.

    Args:
        tar: Path of the tar.
        records: The records to list, as `tar_records` has them; None for all.
        selection: How those records were selected; see `selection_of`.

    Returns:
        The path of the index.

    Raises:
        BrokenShard: The tar is cut short, or is not a tar.
        UserError: The index cannot be written.
    """
    if records is None:
        records = all_records(tar)
    path = index_path(tar)
    try:
        write_index(path, ((record.key, record.members) for record in records), _header(tar, selection))
    except OSError as error:
        raise UserError(f"Cannot write the index {path}: {error}. Index the shards where you may write.") from None
    return path


def selection_of(tar: str | Path) -> str | None:
    """How the records in `tar`'s index were selected; None if it lists all of them or is missing.

    Raises:
        UserError: The index is damaged, so that one cannot know.
    """
    path = index_path(tar)
    if path.is_file():
        try:
            return IndexFile(str(path)).header["selection"] or None
        except DamagedIndex as error:
            raise _damaged(str(path), error) from None
    old = f"{tar}{OLD_INDEX_SUFFIX}"
    if not os.path.isfile(old):
        return None
    try:
        with zipfile.ZipFile(old) as arrays, arrays.open("selection.npy") as file:
            return str(np.lib.format.read_array(file))
    except KeyError:
        return None
    except Exception as error:  # a damaged zip raises anything from OSError to struct.error
        raise _damaged(old, error) from None


def _damaged(path: str, error: Exception) -> UserError:
    return UserError(
        f"The index {path} cannot be used ({error}). Remove it, and all records of the tar are indexed again; if "
        "kosmos-prepare captions has filtered the tar, prepare it again, with another --out."
    )


def read_or_make_index(tar: str) -> bytes:
    """The bytes of the index of `tar`: those of the file beside it, or of all records if there is none.

    A file that is older than the tar, or of a tar of another size, counts as none.

    Raises:
        UserError: The tar is missing or broken, or its index is damaged, or lists selected records of another tar.
    """
    if not os.path.isfile(tar):
        raise UserError(f"The shard {tar} does not exist.")
    index = index_path(tar)
    try:
        # Comparing sizes is not enough: a rewritten tar is often as large, as tars are padded to 10,240 bytes.
        if os.path.isfile(index) and os.path.getmtime(index) >= os.path.getmtime(tar):
            opened = IndexFile(str(index))
            if opened.header["tar_size"] == os.path.getsize(tar):
                opened.check()
                return index.read_bytes()
        _require_no_selection(tar)
        return index_bytes(((record.key, record.members) for record in all_records(tar)), _header(tar))
    except DamagedIndex as error:
        raise _damaged(str(index), error) from None
    except OSError as error:
        raise UserError(f"Cannot read the shard {tar}: {error}") from None


def _header(tar: str | Path, selection: str = "") -> dict[str, Any]:
    return {"tar_size": os.path.getsize(tar), "selection": selection}


def all_records(tar: str | Path, file: Any = None) -> list[Record]:
    """As `tar_records`, with a warning if files are replaced."""
    records, replaced = tar_records(tar, file)
    if replaced:
        logger.warning(
            f"{tar}: {len(replaced)} files are replaced by later ones of the same name, such as {replaced[0].name}."
        )
    return records


def _require_no_selection(tar: str) -> None:
    """Raise UserError if the present index of `tar` is of selected records."""
    if selection_of(tar) is not None:
        index = next(path for path in (index_path(tar), f"{tar}{OLD_INDEX_SUFFIX}") if os.path.isfile(path))
        why = "has changed" if index == index_path(tar) else "is indexed in another form"
        raise UserError(
            f"The shard {tar} {why} since kosmos-prepare captions filtered it. Prepare it again, with another --out, "
            f"or remove {index} to use all of its records."
        )
