"""Input files on any storage that fsspec knows (local, s3://, https://, …): finding them and reading their bytes."""

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
from typing import IO

import braceexpand
import fsspec
import pyarrow
from fsspec.implementations.local import LocalFileSystem

from kosmos_plugin.data.shard_index import OWN_SUFFIXES
from kosmos_plugin.errors import UserError

# What readers of compressed files, tars and Parquet raise when one is broken (zstandard and pyarrow raise
# RuntimeErrors and ValueErrors).
READ_ERRORS = (
    EOFError,
    OSError,
    ValueError,
    RuntimeError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    tarfile.TarError,
)
_SYSTEM_ERRORS = {
    getattr(errno, name)
    for name in (
        "EACCES",
        "EDQUOT",
        "EIO",
        "EMFILE",
        "ENFILE",
        "ENOMEM",
        "ENOSPC",
        "EROFS",
        "ESTALE",
        "ETIMEDOUT",
        "ECONNRESET",
    )
}


class OtherForm(ValueError):
    """An input file holds something else than the command reads; the message says what. One of READ_ERRORS."""


def is_system_error(error: Exception) -> bool:
    """Whether one of READ_ERRORS is the machine's fault and not the file's, so that another run may succeed."""
    return isinstance(error, OSError) and error.errno in _SYSTEM_ERRORS


@dataclass(frozen=True)
class InputFile:
    """An input file."""

    path: str  # a local path, or an address with its protocol
    size: int | None  # bytes; None if the storage does not say

    @property
    def name(self) -> str:
        """The path without its folder."""
        return self.path.rpartition("/")[2]

    @property
    def folder(self) -> str:
        """The name of the folder that the file is in."""
        return self.path.rpartition("/")[0].rpartition("/")[2]

    @property
    def format(self) -> str:
        """The file extension without that of a compression: `jsonl` for `part-00.JSONL.gz`."""
        name = self.name.lower()
        for compression in (".gz", ".zst", ".bz2", ".xz"):
            name = name.removesuffix(compression)
        return name.rpartition(".")[2] if "." in name else ""


def find_inputs(patterns: Iterable[str]) -> list[InputFile]:
    """Find the files that the patterns match, in order and each once.

    Args:
        patterns: Files, folders, or patterns with braces and wildcards. A folder stands for all files below it, except
            hidden ones and the indexes that this package writes beside tars.

    Raises:
        UserError: A pattern matches no file.
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
    """Check the files' extensions.

    Args:
        files: The input files.
        formats: The allowed extensions, without that of a compression.
        what: The start of the error's second sentence: "Text is".

    Raises:
        UserError: for the first file with another extension.
    """
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
    """Choose the format of the input, and the files in that format.

    Args:
        files: The input files.
        wanted: The format that the user asked for, or None.
        formats: Format → file extensions.
        groups: Formats in the order of preference. The first group that any file belongs to is used; files of later
            groups are by-products, such as the tables that img2dataset writes beside its tars.

    Raises:
        UserError: No file has a known extension, or files have several formats of one group.
    """
    by_format = {name: [file for file in files if file.format in extensions] for name, extensions in formats.items()}
    if wanted is not None:
        return wanted, by_format[wanted] or list(files)
    found = next(filter(None, ([name for name in group if by_format[name]] for group in groups)), [])
    if not found:
        raise UserError(f"{files[0].path}: cannot tell its format from its name. Give --format: {', '.join(formats)}.")
    if len(found) > 1:
        raise UserError(f"The input files are of several formats ({', '.join(found)}); prepare one at a time.")
    return found[0], by_format[found[0]]


def _without_braces(pattern: str) -> Iterator[str]:
    """Expand the braces of a pattern; an existing file with braces in its name is not expanded."""
    if os.path.exists(pattern):
        yield pattern
        return
    try:
        yield from braceexpand.braceexpand(pattern)
    except ValueError as error:  # unbalanced
        raise UserError(f"The braces of {pattern} are not balanced: {error}.") from None


def _matches(name: str) -> list[InputFile]:
    filesystem, path = _storage(name)
    try:
        if filesystem.isdir(path):
            details = filesystem.find(path, detail=True)
        elif filesystem.isfile(path):  # also if its name looks like a pattern
            details = {path: filesystem.info(path)}
        elif glob.has_magic(path):
            details = {p: info for p, info in filesystem.glob(path, detail=True).items() if info["type"] == "file"}
        else:
            details = {}
    except (OSError, ImportError, ValueError) as error:
        raise UserError(f"Cannot read the input {name}: {error}") from None
    is_local = isinstance(filesystem, LocalFileSystem)
    return [
        InputFile(path if is_local else filesystem.unstrip_protocol(path), info.get("size"))
        for path, info in sorted(details.items())
        if not os.path.basename(path).startswith(".") and not path.endswith(OWN_SUFFIXES)
    ]


def _storage(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a path, and the path there. A local name may contain "::", which fsspec would split."""
    return fsspec.core.url_to_fs(path) if "://" in path else (LocalFileSystem(), os.path.abspath(path))


def is_file(path: str) -> bool:
    """Whether there is a file at a path."""
    filesystem, path = _storage(path)
    return filesystem.isfile(path)


def open_bytes(path: str, compression: str | None = None) -> IO[bytes]:
    """Open a file; `compression` "infer" decompresses it by its extension."""
    filesystem, path = _storage(path)
    return filesystem.open(path, "rb", compression=compression)


@contextlib.contextmanager
def open_input(path: str) -> Iterator[IO[bytes]]:
    """Open a file and decompress it by its extension: .gz, .zst, .bz2, .xz, or a .zip with one file in it."""
    if path.lower().endswith(".zst"):
        # fsspec's reader stops after the first frame, and says nothing if one is cut short.
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
    """The only file in a zip, except what macOS adds; UserError if there are several."""
    members = [
        member for member in archive.infolist() if not member.is_dir() and not member.filename.startswith("__MACOSX/")
    ]
    if len(members) != 1:
        raise UserError(f"{path} has {len(members)} files in it, but only a zip with one file can be read; unpack it.")
    return members[0]
