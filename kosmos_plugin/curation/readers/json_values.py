"""Reads JSON that may be broken, huge or nested too deep."""

import codecs
import json
import re
from collections.abc import Iterator
from typing import IO, Any

from kosmos_plugin.data.shard_index import Record

# A longer line or value of JSON, or a longer plain text, is a mistake or meant to exhaust the memory.
MAX_BYTES = 64 * 1024 * 1024
_CHUNK = 2**20
_BETWEEN_VALUES = re.compile(r"[\s,]*")
_AFTER_VALUE = re.compile(r"\s*[,\]]")


def json_lines(stream: IO[bytes]) -> Iterator[object]:
    """The values of JSON lines; None for a line that is invalid or as long as MAX_BYTES."""
    for line in lines_of(stream, MAX_BYTES):
        if line is None or not line.isspace():
            yield None if line is None else json_value(line)


def lines_of(stream: IO[bytes], max_bytes: int) -> Iterator[bytes | None]:
    """The lines of a file; None for one of `max_bytes` or more, of which no more than that is held in memory."""
    while line := stream.readline(max_bytes):
        if len(line) < max_bytes:
            yield line
            continue
        while not line.endswith(b"\n") and (line := stream.readline(max_bytes)):
            pass
        yield None


def json_array(stream: IO[bytes]) -> Iterator[object]:
    """The values of a file that is one JSON array, of any length; one value at a time is held in memory.

    Raises:
        ValueError: The array is cut short or broken, or a value is longer than MAX_BYTES.
    """
    decode = json.JSONDecoder().raw_decode
    pieces = _decoded_pieces(stream)
    text, position = next(filter(None, map(str.lstrip, pieces)), "").removeprefix("["), 0
    while True:
        start = _BETWEEN_VALUES.match(text, position).end()  # type: ignore[union-attr]  # it matches ""
        if text.startswith("]", start):
            if text[start + 1 :].strip() or any(map(str.strip, pieces)):
                raise ValueError("more after the end of a JSON array")
            return
        try:
            value, end = decode(text, start)
        except ValueError:
            end = len(text)  # the value may go on in the next piece
        except RecursionError:
            raise ValueError("JSON that is nested too deep") from None
        if _AFTER_VALUE.match(text, end):
            yield value
            position = end
            continue
        text, position = text[start:], 0
        if len(text) > MAX_BYTES or not (more := _next_pieces(pieces, len(text))):
            raise ValueError("a JSON array that is cut short or broken")
        text += more


def _decoded_pieces(stream: IO[bytes]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    while data := stream.read(_CHUNK):
        if piece := decoder.decode(data):  # not the first half of a character
            yield piece


def _next_pieces(pieces: Iterator[str], length: int) -> str:
    """The next pieces, together at least `length` characters, so that a long value is not decoded again and again."""
    joined = next(pieces, "")
    while len(joined) < length and (piece := next(pieces, "")):
        joined += piece
    return joined


def json_value(data: Any) -> object:
    """Parse JSON; None if it is not valid."""
    try:
        return json.loads(data)
    except (TypeError, ValueError, RecursionError):
        return None


def json_object(data: Any) -> dict[str, Any]:
    """Parse a JSON object; {} if it is not valid or another value."""
    value = json_value(data)
    return value if isinstance(value, dict) else {}


def record_metadata(record: Record) -> dict[str, Any]:
    """The JSON of a tar's record; {} if it is missing or invalid."""
    return json_object(record.read("json")) if "json" in record.members else {}
