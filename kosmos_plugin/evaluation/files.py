"""Reads the files of releases (JSON, JSON lines, CSV, images), and writes results; errors name the file and record."""

import csv
import functools
import json
import logging
from pathlib import Path
from typing import Any

from kosmos_plugin import atomic
from kosmos_plugin.data.documents import Image
from kosmos_plugin.errors import UserError
from kosmos_plugin.image_files import IMAGE_EXTENSIONS

logger = logging.getLogger(__name__)

# Files that Windows leaves in folders. macOS's (.DS_Store, ._photo.png) are hidden, as are those of other programs.
_LEFT_BY_WINDOWS = ("thumbs.db", "ehthumbs.db", "desktop.ini")
_LEFT_BY_MACOS = "__MACOSX"  # the folder in which a zip of macOS keeps files' attributes, under the files' names

_DIGITS = 18  # the most of a number in a string
_MOST_SHOWN = 200  # characters of a wrong value in an error


def read_text(path: Path) -> str:
    """Read a UTF-8 text file, with or without a byte order mark, with lines that end in any way.

    Raises:
        UserError: It cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {_reason(error)}.") from None


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: It cannot be read or is not valid JSON.
    """
    return parse_json(read_text(path), str(path))


def read_json_lines(path: Path) -> list[Any]:
    """Read the values of a .jsonl file. Empty lines are skipped.

    Raises:
        UserError: It cannot be read, or a line is not valid JSON.
    """
    values = []
    lines = read_text(path).split("\n")  # splitlines() would also split at U+2028 and others within texts
    for number, line in enumerate(lines, start=1):
        if line.strip():
            values.append(parse_json(line, f"{path}, line {number},"))
    return values


def parse_json(text: str, where: str) -> Any:
    """Parse JSON.

    Args:
        text: The JSON.
        where: The file, and the record if it has several, for the error.

    Raises:
        UserError: It is not valid JSON.
    """
    try:
        value = json.loads(text)
        if "\\ud" in text.lower():  # may be half of a character, which no file of results could hold
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise UserError(f"{where} is not JSON that can be read: it is nested too deeply.") from None
    except ValueError as error:
        raise UserError(f"{where} is not valid JSON: {_reason(error)}.") from None
    return value


def read_table(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Read the rows of a CSV file with a header. Rows without any value are skipped.

    Args:
        path: The file.
        columns: Columns that it must have; it may have others.

    Raises:
        UserError: The file cannot be read, or lacks a column.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            found, rows = reader.fieldnames or [], [row for row in reader if any(row.values())]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {_reason(error)}.") from None
    missing = [column for column in columns if column not in found]
    if missing:
        raise UserError(f"{path} has no column {' and '.join(missing)}; it has {shown(found)}.")
    return rows


def field(record: Any, name: str, kind: type, where: str) -> Any:
    """Return the value of a record's field.

    Args:
        record: A JSON value, which must be an object.
        name: The field.
        kind: The type that its value must have.
        where: The file and the record, for the error.

    Raises:
        UserError: The field is missing or of another type.
    """
    value = _value(record, name)
    if not isinstance(value, kind):
        raise UserError(f'{where}: "{name}" must be of type {kind.__name__}; it is {shown(value)}.')
    return value


def whole_number(record: Any, name: str, where: str) -> int:
    """Return a field's whole number. Copies of a release may have it as a string ("08291") or a float (1.0).

    Args:
        record: A JSON value, which must be an object.
        name: The field.
        where: The file and the record, for the error.

    Raises:
        UserError: The field is missing or is not a whole number.
    """
    value = _value(record, name)
    if isinstance(value, str) and value.isascii() and value.strip().isdigit() and len(value) <= _DIGITS:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, int):
        raise UserError(f'{where}: "{name}" must be a whole number; it is {shown(value)}.')
    return int(value)


def identifier(record: Any, name: str, where: str) -> int | str:
    """Return a field that identifies a record, as the file spells it: the number 8291, or the string "08291".

    Args:
        record: A JSON value, which must be an object.
        name: The field.
        where: The file and the record, for the error.

    Raises:
        UserError: The field is missing, or is neither a number nor a text.
    """
    value = _value(record, name)
    if isinstance(value, bool) or not isinstance(value, int | str) or not str(value).strip():
        raise UserError(f'{where}: "{name}" must be a number or a text; it is {shown(value)}.')
    return value


def is_missing(record: dict[str, Any], name: str) -> bool:
    """Return whether a record has no value of this name: no such field, null, NaN (of pandas) or an empty text."""
    value = record.get(name)
    return value is None or value == "" or value != value


def _value(record: Any, name: str) -> Any:
    return record.get(name) if isinstance(record, dict) else None


def shown(value: Any) -> str:
    """Return a value as an error shows it: on one line, and not all of a long one."""
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


def named(name: str) -> str:
    """Return a name, or how an error shows it if it is not a usual one."""
    return name if name.isprintable() and len(name) <= _MOST_SHOWN else shown(name)


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error).rstrip(".")


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically.

    Raises:
        UserError: It cannot be written.
    """
    try:
        atomic.write_text(path, text)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from None


def exists(path: Path) -> bool:
    """Return whether there is such a file or folder; False for what cannot be a path, such as a name that is too long.

    Unlike Path.exists, it never raises.
    """
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def is_leftover(name: str) -> bool:
    """Return whether a file or folder is one that a desktop leaves behind: hidden, or known by its name."""
    return name.startswith(".") or name == _LEFT_BY_MACOS or name.lower() in _LEFT_BY_WINDOWS


def list_folder(folder: Path) -> list[Path]:
    """List a folder's files and folders, sorted by name, without what desktops leave behind.

    Raises:
        UserError: The folder cannot be listed.
    """
    try:
        return sorted(path for path in folder.iterdir() if not is_leftover(path.name))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} cannot be listed: {_reason(error)}.") from None


def image_files(folder: Path) -> list[Path]:
    """List a folder's image files, sorted by name. Empty files, as of an interrupted copy, are skipped with a warning.

    Raises:
        UserError: The folder cannot be listed.
    """
    found = [path for path in list_folder(folder) if path.suffix.lower().removeprefix(".") in IMAGE_EXTENSIONS]
    whole = [path for path in found if path.is_file() and path.stat().st_size]
    if len(whole) < len(found):
        first = next(path.name for path in found if path not in whole)
        logger.warning(
            "%s: %d of %d images are empty and are skipped, the first: %s",
            folder,
            len(found) - len(whole),
            len(found),
            first,
        )
    return whole


def image_file(path: Path) -> Image:
    """Make an Image of a file, which is read when it is needed."""
    return Image(functools.partial(_read, path), str(path))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise UserError(f"The image {named(str(path))} cannot be read: {_reason(error)}.") from None
