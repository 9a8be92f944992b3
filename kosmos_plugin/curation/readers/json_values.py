"""Reads JSON that may be broken, huge or nested too deep."""

import json
from collections.abc import Iterator
from typing import IO, Any

from kosmos_plugin.data.shard_index import Record

# A longer line of JSON, or a longer plain text, is a mistake or meant to exhaust the memory.
MAX_BYTES = 64 * 1024 * 1024


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
