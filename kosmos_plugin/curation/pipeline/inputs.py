"""Input files, here or on any storage that fsspec knows (s3://, https://, …): which they are, and their bytes."""

import contextlib
import errno
import glob
import io
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import braceexpand
import fsspec
import pyarrow
from fsspec.implementations.local import LocalFileSystem

from kosmos_plugin.data.shard_index import INDEX_SUFFIX
from kosmos_plugin.errors import UserError

# What the readers of compressed files, tars and Parquet raise when one is broken (zstandard's and pyarrow's are
# RuntimeErrors and ValueErrors).
BROKEN = (
    EOFError,
    OSError,
    ValueError,
    RuntimeError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    tarfile.TarError,
)


_OF_THE_MACHINE = {
    getattr(errno, name)
    for name in ("EACCES", "EIO", "EMFILE", "ENFILE", "ENOMEM", "ENOSPC", "EROFS", "ESTALE", "ETIMEDOUT", "ECONNRESET")
}


def is_of_the_machine(error: Exception) -> bool:
    """Whether an error of reading, one of BROKEN, says nothing of the file: another run may not have it."""
    return isinstance(error, OSError) and error.errno in _OF_THE_MACHINE


@dataclass(frozen=True)
class InputFile:
    """A file as a pattern named it, and its size in bytes (None where the storage does not tell)."""

    path: str
    size: int | None

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def format(self) -> str:
        """The ending of its name without that of the compression: `jsonl` of `part-00.JSONL.gz`."""
        name = self.name.lower()
        for compression in (".gz", ".zst", ".bz2", ".xz"):
            name = name.removesuffix(compression)
        return name.rpartition(".")[2] if "." in name else ""


def find_inputs(patterns: Iterable[str]) -> list[InputFile]:
    """The files that the patterns (braces and wildcards) name, in their order; UserError for a pattern without any.

    A folder stands for the files in it and in its folders; indexes beside tars, which this package writes, are none.
    """
    found: dict[str, InputFile] = {}
    for pattern in patterns:
        names = [file for name in _without_braces(pattern) for file in _matches(name)]
        if not names:
            raise UserError(f"There is no input {pattern}.")
        found |= {file.path: file for file in names}
    if not found:
        raise UserError("Give at least one input file, folder or pattern.")
    return list(found.values())


def check_formats(files: Sequence[InputFile], formats: Sequence[str], what: str) -> None:
    """UserError for a file whose name says that it holds something else. `what` is read: "Text is"."""
    for file in files:
        if file.format not in formats:
            raise UserError(
                f"{file.path}: cannot tell its format. {what} read from {', '.join(formats)}, as they are or "
                "compressed (.gz, .zst, .bz2, .xz)."
            )


def files_of_format(
    files: Sequence[InputFile],
    wanted: str | None,
    formats: Mapping[str, Sequence[str]],
    groups: Sequence[Sequence[str]],
) -> tuple[str, list[InputFile]]:
    """The format of the input, and the files that are of it. UserError if that cannot be told.

    `formats`: name → endings of files. Unless one is `wanted`, it is the one that files are of in the first of `groups`
    of which there are any; what is of a later one is beside them for another purpose.
    """
    by_format = {name: [file for file in files if file.format in endings] for name, endings in formats.items()}
    if wanted is not None:
        return wanted, by_format[wanted] or list(files)
    found = next(filter(None, ([name for name in group if by_format[name]] for group in groups)), [])
    if not found:
        raise UserError(f"{files[0].path}: cannot tell its format by its name. Give --format: {', '.join(formats)}.")
    if len(found) > 1:
        raise UserError(f"The input files are of several formats ({', '.join(found)}); prepare one at a time.")
    return found[0], by_format[found[0]]


def _without_braces(pattern: str) -> Iterator[str]:
    """The names that the braces of a pattern stand for; a file with braces in its name stands for itself."""
    if os.path.exists(pattern):
        yield pattern
        return
    try:
        yield from braceexpand.braceexpand(pattern)
    except braceexpand.UnbalancedBracesError as error:
        raise UserError(f"The braces of {pattern} are not balanced: {error}.") from None


def _matches(name: str) -> list[InputFile]:
    filesystem, path = _storage(name)
    try:
        if filesystem.isdir(path):
            details = filesystem.find(path, detail=True)
        elif filesystem.isfile(path):  # also if it has signs of a pattern
            details = {path: filesystem.info(path)}
        elif glob.has_magic(path):
            details = {p: about for p, about in filesystem.glob(path, detail=True).items() if about["type"] == "file"}
        else:
            details = {}
    except (OSError, ImportError, ValueError) as error:
        raise UserError(f"Cannot read the input {name}: {error}") from None
    is_local = isinstance(filesystem, LocalFileSystem)
    return [
        InputFile(path if is_local else filesystem.unstrip_protocol(path), about.get("size"))
        for path, about in sorted(details.items())
        if not os.path.basename(path).startswith(".") and INDEX_SUFFIX not in path
    ]


def _storage(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The storage that a path is on, and its path there. A file here may have "::" in its name, fsspec's own sign."""
    return fsspec.core.url_to_fs(path) if "://" in path else (LocalFileSystem(), os.path.abspath(path))


def open_bytes(path: str, compression: str | None = None) -> BinaryIO:
    """The file's bytes as they are, or decompressed; "infer": by its name."""
    filesystem, path = _storage(path)
    return filesystem.open(path, "rb", compression=compression)


@contextlib.contextmanager
def open_input(path: str) -> Iterator[BinaryIO]:
    """The file's bytes, decompressed if its name ends in .gz, .zst, .bz2 or .xz; of a .zip, of the one file in it."""
    if path.lower().endswith(".zst"):
        # fsspec's reader stops at the end of the first frame, and is silent where one is cut short.
        with open_bytes(path) as file, pyarrow.CompressedInputStream(file, "zstd") as frames:
            yield io.BufferedReader(frames)
    elif path.lower().endswith(".zip"):
        with (
            open_bytes(path) as file,
            zipfile.ZipFile(file) as archive,
            archive.open(_only_member(path, archive)) as member,
        ):
            yield member
    else:
        with open_bytes(path, compression="infer") as file:
            yield file


def _only_member(path: str, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    """The one file of a zip; what macOS adds for itself is none. UserError if there are several."""
    members = [
        member for member in archive.infolist() if not member.is_dir() and not member.filename.startswith("__MACOSX/")
    ]
    if len(members) != 1:
        raise UserError(f"{path} has {len(members)} files in it, and one is read from a zip; unpack it.")
    return members[0]
