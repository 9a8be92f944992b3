"""Undoes HTTP's Content-Encoding, of at most as many bytes as are asked for."""

import contextlib
import io
import zlib
from collections.abc import Callable, Generator, Iterator

import brotli
import zstandard

_CHUNK = 2**16  # bytes
_ERRORS = (zlib.error, brotli.error, zstandard.ZstdError, EOFError)


def decode_content(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Decode a body.

    Args:
        body: The bytes that were sent.
        encoding: The value of Content-Encoding: encodings in the order in which they were applied. Unknown ones, such
            as "none" or "utf-8", stand for nothing.
        max_bytes: The decoded bytes that are of interest.

    Returns:
        At most `max_bytes` + 1 bytes: of a body that is cut short or broken, what comes before; of a body that is not
        in its encoding, the body.
    """
    for name in reversed(encoding.lower().split(",")):
        decode = _DECODERS.get(name.partition(";")[0].strip())
        if decode is not None:
            body = _first_bytes(decode(body), max_bytes + 1) or body
    return body[: max_bytes + 1]


def _first_bytes(parts: Iterator[bytes], most: int) -> bytes:
    found = bytearray()
    with contextlib.suppress(*_ERRORS):
        for part in parts:
            found += part
            if len(found) >= most:
                break
    return bytes(found[:most])


def _gzip(body: bytes) -> Iterator[bytes]:
    """gzip may have several members; what follows the last one is ignored."""
    while body:
        body = yield from _inflate(body, 31)


def _deflate(body: bytes) -> Iterator[bytes]:
    """The standard says zlib's format, and some servers send it without zlib's header."""
    has_header = len(body) > 1 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0
    yield from _inflate(body, 15 if has_header else -15)


def _inflate(body: bytes, format: int) -> Generator[bytes, None, bytes]:
    """The parts of a body; returns what follows it. `format` is the `wbits` of zlib."""
    decoder = zlib.decompressobj(format)
    for start in range(0, len(body), _CHUNK):
        chunk = body[start : start + _CHUNK]
        while chunk and not decoder.eof:
            yield decoder.decompress(chunk, _CHUNK)
            chunk = decoder.unconsumed_tail
        if decoder.eof:
            return decoder.unused_data + body[start + _CHUNK :]
    yield decoder.flush()
    return b""


def _brotli(body: bytes) -> Iterator[bytes]:
    decoder = brotli.Decompressor()
    yield decoder.process(body, output_buffer_limit=_CHUNK)
    while not decoder.is_finished():
        part = decoder.process(b"", output_buffer_limit=_CHUNK)
        if not part:
            return
        yield part


def _zstd(body: bytes) -> Iterator[bytes]:
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(body), read_across_frames=True) as reader:
        yield from iter(lambda: reader.read(_CHUNK), b"")


_DECODERS: dict[str, Callable[[bytes], Iterator[bytes]]] = {
    **dict.fromkeys(("gzip", "x-gzip"), _gzip),
    **dict.fromkeys(("deflate", "x-deflate"), _deflate),
    "br": _brotli,
    "zstd": _zstd,
}
