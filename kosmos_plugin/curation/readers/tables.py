"""Tables in the forms that data sets have → records, dictionaries of a row's fields.

Parquet   the columns asked for
Arrow     likewise, of a stream as Hugging Face's data sets are cached and saved
CSV, TSV  with a header, or rows of known columns; comma, semicolon, bar or tab between fields. TSV may hold images in
          base64; a field that pandas has quoted is unquoted
JSON      lines of objects, or one array of them, whatever the file's name says
"""

import codecs
import csv
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

from kosmos_plugin.curation.pipeline.inputs import InputFile, OtherForm, open_input
from kosmos_plugin.curation.readers.json_values import json_array, json_lines, lines_of

Record = dict[str, Any]
# Names the fields of a table without a header from its first row; None if the row is a header.
FindColumns = Callable[[Sequence[str]], Sequence[str] | None]

_DELIMITERS = ",;|\t"


def parquet_records(stream: IO[bytes], columns: Sequence[str] | None = None, rows: int = 256) -> Iterator[Record]:
    """The records of a Parquet file, `rows` at a time in memory. ValueError where it is broken."""
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(stream, buffer_size=2**20)  # or it reads whole columns
        for batch in table.iter_batches(batch_size=rows, columns=columns):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, ArithmeticError, LookupError, TypeError, MemoryError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def parquet_columns(stream: IO[bytes]) -> list[tuple[str, Any]]:
    """The names and Arrow types of a Parquet file's columns. ValueError if it is broken."""
    import pyarrow
    from pyarrow import parquet

    try:
        return [(field.name, field.type) for field in parquet.read_schema(stream)]
    except (pyarrow.ArrowException, ArithmeticError, LookupError, TypeError, MemoryError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def arrow_records(stream: IO[bytes], columns: Sequence[str], rows: int) -> Iterator[Record]:
    """The records of an Arrow stream, converted `rows` at a time. ValueError where it is broken."""
    import pyarrow

    try:
        for batch in pyarrow.ipc.open_stream(stream):
            batch.validate(full=True)
            wanted = batch.select(columns)
            for first in range(0, wanted.num_rows, rows):
                yield from wanted.slice(first, rows).to_pylist()
    except (pyarrow.ArrowException, ArithmeticError, LookupError, TypeError, MemoryError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def arrow_columns(stream: IO[bytes]) -> list[str]:
    """The names of an Arrow stream's columns. ValueError if it is broken."""
    import pyarrow

    try:
        return list(pyarrow.ipc.open_stream(stream).schema.names)
    except (pyarrow.ArrowException, ArithmeticError, LookupError, TypeError, MemoryError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def json_records(file: InputFile) -> Iterator[object]:
    """The values of JSON lines or of an array; None for a line that is not valid JSON."""
    is_array = holds_array(file)
    with open_input(file.path) as stream:
        yield from json_array(stream) if is_array else json_lines(stream)


def holds_array(file: InputFile) -> bool:
    """Whether a JSON file is one array, and not JSON lines."""
    with open_input(file.path) as stream:
        return stream.read(64).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")


def csv_records(file: InputFile, find_columns: FindColumns, max_bytes: int) -> Iterator[Record]:
    """The records of a CSV file. Bytes that are not UTF-8 become half surrogate pairs.

    Raises:
        ValueError: The file is broken, or a field is longer than `max_bytes`.
    """
    csv.field_size_limit(max_bytes)
    with open_input(file.path) as stream:
        text = codecs.getreader(_encoding(file))(stream, "surrogateescape")
        lines = iter(functools.partial(text.readline, max_bytes), "")
        first = next(lines, "")
        rows = csv.reader(itertools.chain([first], lines), delimiter=_delimiter(first, find_columns))
        try:
            header = next(rows, [])
            columns = find_columns(header)
            if columns is None:
                columns = header
            else:
                yield _record(columns, header)
            for row in rows:
                if row:
                    yield _record(columns, row)
        except csv.Error as error:
            raise ValueError(str(error)) from None


def tsv_records(file: InputFile, find_columns: FindColumns, max_bytes: int) -> Iterator[Record | None]:
    """As `csv_records`, but quotes are part of a field, and a line as long as `max_bytes` gives None."""
    columns: Sequence[str] | None = None
    with open_input(file.path) as stream:
        for line in lines_of(stream, max_bytes):
            if line is None:
                yield None
            elif stripped := line.strip(b"\r\n"):
                text = stripped.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
                row = [_unquoted(field) for field in text.split("\t")]
                if columns is None and (columns := find_columns(row)) is None:
                    columns = row
                else:
                    yield _record(columns, row)


def _record(columns: Sequence[str], row: Sequence[str]) -> Record:
    """The fields of a row by their columns; None for those that a short row lacks."""
    return dict(itertools.zip_longest(columns, row[: len(columns)]))


def _delimiter(first: str, find_columns: FindColumns) -> str:
    """The delimiter with which the first row makes sense. OtherForm if there is none."""
    failures: list[OtherForm] = []
    for delimiter in sorted(_DELIMITERS, key=first.count, reverse=True):
        try:
            find_columns(next(csv.reader([first], delimiter=delimiter), []))
            return delimiter
        except OtherForm as error:
            failures.append(error)
    raise failures[0]


def _encoding(file: InputFile) -> str:
    """UTF-16 if a byte order mark says so, as in Excel's "Unicode text"; else UTF-8."""
    with open_input(file.path) as stream:
        return "utf-16" if stream.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _unquoted(field: str) -> str:
    """A field without the quotes that pandas and csv put around one with special characters."""
    if len(field) >= 2 and field[0] == field[-1] == '"' and '"' not in field[1:-1].replace('""', ""):
        return field[1:-1].replace('""', '"')
    return field
