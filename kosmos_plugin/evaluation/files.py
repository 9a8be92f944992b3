"""Reads the files of releases (JSON, JSON lines, CSV, images), and writes results; errors name the file and record."""

import csv
import functools
import json
from pathlib import Path
from typing import Any

from kosmos_plugin import atomic
from kosmos_plugin.data.documents import Image
from kosmos_plugin.errors import UserError


def read_text(path: Path) -> str:
    """Read a UTF-8 text file.

    Raises:
        UserError: It cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: It cannot be read or is not valid JSON.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None


def read_json_lines(path: Path) -> list[Any]:
    """Read the values of a .jsonl file. Empty lines are skipped.

    Raises:
        UserError: It cannot be read, or a line is not valid JSON.
    """
    values = []
    lines = read_text(path).split("\n")  # splitlines() would also split at U+2028 and others within texts
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                values.append(json.loads(line))
            except ValueError as error:
                raise UserError(f"{path}, line {number}, is not valid JSON: {error}") from None
    return values


def read_table(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Read the rows of a CSV file with a header.

    Args:
        path: The file.
        columns: Columns that it must have; it may have others.

    Raises:
        UserError: The file cannot be read, or lacks a column.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    missing = [column for column in columns if column not in (reader.fieldnames or [])]
    if missing:
        raise UserError(f"{path} has no column {' and '.join(missing)}; it has {', '.join(reader.fieldnames or [])}.")
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
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, kind):
        raise UserError(f'{where}: "{name}" must be of type {kind.__name__}; it is {value!r}.')
    return value


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically.

    Raises:
        UserError: It cannot be written.
    """
    try:
        atomic.write_text(path, text)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from None


def image_file(path: Path) -> Image:
    """Make an Image of a file, which is read when it is needed."""
    return Image(functools.partial(_read, path), str(path))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"The image {path} cannot be read: {error.strerror}.") from None
