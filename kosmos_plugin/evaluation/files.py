"""Reading releases (JSON, JSON lines, CSV, images) with one clear error for what is not as it should be; writing."""

import csv
import functools
import json
import os
from pathlib import Path
from typing import Any

from kosmos_plugin.data.documents import Image
from kosmos_plugin.errors import UserError


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def read_json_lines(path: Path) -> list[dict]:
    """The objects of a .jsonl file; empty lines are passed over."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # splitlines() also splits at characters within texts
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    found = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                found.append(json.loads(line))
            except ValueError as error:
                raise UserError(f"{path}, line {number}, is no JSON: {error}") from None
    return found


def read_table(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of a CSV file with a header that has `columns`, among others."""
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
    """The value of a record's field, which must be a `kind`. `where` is the file and the record, for the error."""
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, kind):
        raise UserError(f'{where}: "{name}" must be of type {kind.__name__}; it is {value!r}.')
    return value


def write_text(path: Path, text: str) -> None:
    """Write a file at once: whoever reads it, whenever, finds the old or the new one whole."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from None


def image_file(path: Path) -> Image:
    """The image of a file, which is read when it is needed."""
    return Image(functools.partial(_read, path), str(path))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"The image {path} cannot be read: {error.strerror}.") from None
