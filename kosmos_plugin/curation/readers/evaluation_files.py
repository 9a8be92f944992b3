"""Evaluation data as it is released → its texts, for `filters.contamination`.

XML             the texts of each element: for `<text><txt1>…</txt1><pron>they</pron><txt2>…</txt2></text>`, a Winograd
                schema, its three parts and the sentence
JSON            every string, and the strings of each object and list as one text; a file of JSON lines likewise
CSV, TSV        the cells, and each row as one text
Parquet         as JSON
others          plain text: the lines, and each paragraph as one text

A sentence that is broken over lines, cells or elements is thus found whole. Texts across the border of two fields are
read too; ordinary text does not contain them.

XML, JSON and Parquet say their encoding. Of other files a byte order mark does; without one they are in UTF-8, or else
in Windows-1252.
"""

import codecs
import csv
import io
import itertools
import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kosmos_plugin.atomic import atomic_path
from kosmos_plugin.curation.dedup.ngrams import ngram_hashes, normalized_words
from kosmos_plugin.curation.filters.contamination import LONGEST_NGRAM, SHORTEST_NGRAM, SHORTEST_SENTENCE
from kosmos_plugin.curation.pipeline.inputs import READ_ERRORS, InputFile, open_input
from kosmos_plugin.errors import UserError
from kosmos_plugin.image_files import IMAGE_EXTENSIONS

_BYTE_ORDER_MARKS = {  # UTF-32's begins with UTF-16's
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_BLANK = re.compile(r"(?<!\S)_(?!\w)")  # Winogrande: "The trophy does not fit in the case because _ is too large."
_SENTENCE = re.compile(r"\s*[A-Z].*[.!?][\s\"']*", re.DOTALL)
_MOST_FIELDS = 32  # of a record with a blank; a larger object is a table
_LONGEST_CELL = 2**31 - 1


def write_ngrams(evaluation_files: Iterable[InputFile], target: Path) -> None:
    """Write the hashes of the n-grams of evaluation files, for `ContaminationFilter`, to a .npz file.

    Images among the files hold no text, and are not read. A file without a text of SHORTEST_NGRAM words, which removes
    nothing, is named on standard error.

    Raises:
        UserError: A file cannot be read.
    """
    found: dict[int, set[int]] = {n: set() for n in range(SHORTEST_SENTENCE, LONGEST_NGRAM + 1)}
    for file in evaluation_files:
        if file.format in IMAGE_EXTENSIONS:
            continue
        is_used = False
        for text in evaluation_texts(file):
            words = normalized_words(text)
            n = min(len(words), LONGEST_NGRAM)
            if n >= (SHORTEST_SENTENCE if _SENTENCE.fullmatch(text) else SHORTEST_NGRAM):
                found[n].update(ngram_hashes(words, n).tolist())
                is_used = True
        if not is_used:
            shortest = f"no text of {SHORTEST_NGRAM} words and no sentence of {SHORTEST_SENTENCE}"
            print(f"{file.path} has {shortest}: it removes nothing.", file=sys.stderr)
    hashes: dict[str, Any] = {str(n): np.array(sorted(hashes), np.uint64) for n, hashes in found.items() if hashes}
    with atomic_path(target) as path, path.open("wb") as archive:
        np.savez(archive, **hashes)


def evaluation_texts(file: InputFile) -> Iterator[str]:
    """The texts of an evaluation file, parts of them repeated. UserError if it cannot be read."""
    try:
        with open_input(file.path) as stream:
            data = stream.read()
        if file.format == "xml":
            yield from _in_xml(ElementTree.fromstring(data))
        elif file.format in ("json", "jsonl", "ndjson"):
            for value in _json_values(_decoded(data)):
                yield from _in_json(value)
        elif file.format == "parquet":
            yield from _in_parquet(data)
        elif file.format == "csv":
            yield from _in_csv(_decoded(data))
        else:
            yield from _in_lines(_decoded(data))
    except UserError:
        raise
    except (*READ_ERRORS, RecursionError, ElementTree.ParseError, csv.Error) as error:
        raise UserError(f"Cannot read the evaluation file {file.path}: {error}.") from None


def _decoded(data: bytes) -> str:
    mark = next((mark for mark in _BYTE_ORDER_MARKS if data.startswith(mark)), b"")
    try:
        text = data.decode(_BYTE_ORDER_MARKS.get(mark, "utf-8"))
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")
    if "\0" in text:
        raise ValueError("it is not a text")
    return text


def _joined(parts: Iterable[str]) -> Iterator[str]:
    """Each part, and all of them as one text."""
    parts = list(parts)
    yield from parts
    if len(parts) > 1:
        yield " ".join(parts)


def _in_xml(root: ElementTree.Element) -> Iterator[str]:
    for element in root.iter():
        is_mixed = any((child.tail or "").strip() for child in element)  # such as <p>un<b>real</b></p>
        yield ("" if is_mixed else " ").join(element.itertext())


def _json_values(text: str) -> Iterator[object]:
    """The value of a JSON file, or the values of its lines, whatever its name says."""
    try:
        yield json.loads(text)
        return
    except ValueError as error:
        lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        if len(lines) < 2:
            raise ValueError(f"it is not valid JSON: {error}") from None
    for number, line in lines:
        try:
            yield json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number} is not valid JSON: {error}") from None


def _in_json(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    if not isinstance(value, dict | list):
        return
    parts = list(value.values() if isinstance(value, dict) else value)
    strings = [part for part in parts if isinstance(part, str)]
    yield from _joined(strings)
    if isinstance(value, dict) and len(strings) <= _MOST_FIELDS:
        yield from _filled(strings)
    for part in parts:
        if not isinstance(part, str):
            yield from _in_json(part)


def _filled(fields: list[str]) -> Iterator[str]:
    """Texts with a blank, filled with each other field of their record."""
    for text in fields:
        before, *blank = _BLANK.split(text, maxsplit=1)
        if blank:
            yield from (f"{before}{field}{blank[0]}" for field in fields if field != text)


def _in_parquet(data: bytes) -> Iterator[str]:
    from pyarrow import parquet

    for batch in parquet.ParquetFile(io.BytesIO(data)).iter_batches(batch_size=256):
        for record in batch.to_pylist():
            yield from _in_json(record)


def _in_csv(text: str) -> Iterator[str]:
    csv.field_size_limit(_LONGEST_CELL)
    header = text.partition("\n")[0]
    delimiter = max(",;|\t", key=header.count)
    for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
        yield from _joined(row)


def _in_lines(text: str) -> Iterator[str]:
    paragraphs = itertools.groupby(text.splitlines(), key=lambda line: not line.strip())
    for is_blank, lines in paragraphs:
        if not is_blank:
            for part in _joined(lines):
                yield from _joined(part.split("\t"))
