"""Where the rows of a full-sentence text begin: an array on disk, mapped into memory.

A row holds as many whole lines as fit after its `<s>`; a line that does not fit begins the next row, and one longer
than a row fills it and goes on in the next. So where a row begins depends on all lines before it. That is computed
once, in one pass over the text:

    PREFIX.full_sentences-2048-1a2b3c4d.rows    for rows of 2,048 tokens, and the vocabulary with this fingerprint

`kosmos-prepare text` writes the file with the text. Otherwise it is made when the text is first opened, beside it or,
if that folder is read-only, in a cache folder. It holds a header of 64 bytes and int64 positions: of each row's first
token after `<s>`, and the end of the last row.
"""

import bisect
import hashlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kosmos_plugin.atomic import atomic_path
from kosmos_plugin.data.binarized import BinarizedItems, FramedText, check_tokens
from kosmos_plugin.data.derived_files import DerivedFile
from kosmos_plugin.errors import UserError
from kosmos_plugin.vocabulary import Vocabulary

_VERSION = 1
_HEADER = struct.Struct("<8sI4xQ16s24x")  # magic word, version, number of rows, digest of what the rows depend on
_MAGIC = b"KOSMROWS"
_BLOCK = 1 << 22  # tokens that are read at once
_SAMPLES, _SAMPLE_BYTES = 16, 4096  # parts of each file in the digest


class RowStarts:
    """Makes and opens the row starts of one text.

    Args:
        text: The text, with `</s>` after each item.
        vocabulary: Its vocabulary.
        tokens_per_row: Tokens of a row, including its `<s>`.
        cache: Folder to write to where the text's own is read-only; None: the user's cache folder.
    """

    def __init__(self, text: FramedText, vocabulary: Vocabulary, tokens_per_row: int, cache: str | None = None):
        self.text = text
        self.prefix = text.items.prefix
        self.vocabulary = vocabulary
        self.tokens_per_row = tokens_per_row
        self.file = DerivedFile.of(self.prefix, rows_name(vocabulary, tokens_per_row), cache)
        self.digest = self._digest()

    def open(self) -> np.ndarray:
        """The row starts, int64 [rows + 1] in ascending order. They are made if there are none of this very text.

        One process of a machine makes them, and others that ask meanwhile wait for it.

        Raises:
            UserError: They cannot be written, or the text's items are not all of one kind.
        """
        return self.file.open(self._read, self.write, f"where the rows of {self.prefix} begin")

    def write(self, path: Path | None = None) -> None:
        """Compute the row starts and write them to `path` (default: beside the text)."""
        with atomic_path(path or self.file.beside) as temporary, open(temporary, "wb") as file:
            file.write(bytes(_HEADER.size))
            positions = 0
            for starts in self._starts():
                file.write(starts.tobytes())
                positions += len(starts)
            file.seek(0)
            file.write(_HEADER.pack(_MAGIC, _VERSION, positions - 1, self.digest))

    def _read(self, path: Path) -> np.ndarray | None:
        """The row starts in a file; None if it is missing, broken, or of another text or version."""
        try:
            with open(path, "rb") as file:
                head = file.read(_HEADER.size)
            size = path.stat().st_size
        except OSError:
            return None
        if len(head) < _HEADER.size:
            return None
        magic, version, rows, digest = _HEADER.unpack(head)
        if (magic, version, digest) != (_MAGIC, _VERSION, self.digest) or size != _HEADER.size + 8 * (rows + 1):
            return None
        return np.memmap(path, np.int64, "r", _HEADER.size, (rows + 1,))

    def _digest(self) -> bytes:
        """Digest of all that the rows depend on; of the files themselves only their sizes and parts are read."""
        counts = (self.tokens_per_row, len(self.text.after), len(self.text.items), len(self.text))
        digest = hashlib.blake2b(f"{self.vocabulary.fingerprint} {counts}".encode(), digest_size=16)
        for suffix in (".idx", ".bin"):
            with open(f"{self.prefix}{suffix}", "rb") as file:
                size = file.seek(0, os.SEEK_END)
                digest.update(f" {size}".encode())
                for sample in range(_SAMPLES):
                    file.seek(sample * max(size - _SAMPLE_BYTES, 0) // (_SAMPLES - 1))
                    digest.update(file.read(_SAMPLE_BYTES))
        return digest.digest()

    def _starts(self) -> Iterator[np.ndarray]:
        """The row starts in blocks; the end of the last row is among them."""
        room = self.tokens_per_row - 1
        start, known = 0, 0
        ends = np.empty(0, np.int64)  # of lines: the position after each one's last token
        yield np.zeros(1, np.int64)
        for found, known in self._line_ends():
            ends = np.concatenate((ends, found))
            starts = []
            while start + room <= known:
                last = int(ends.searchsorted(start + room, "right")) - 1
                end = int(ends[last]) if last >= 0 else 0
                start = end if end > start else start + room
                starts.append(start)
            ends = ends[ends.searchsorted(start, "right") :]
            yield np.array(starts, np.int64)
        if start < known:
            yield np.array([known], np.int64)

    def _line_ends(self) -> Iterator[tuple[np.ndarray, int]]:
        """Block by block, the ends of its lines in ascending order, and the position up to which all ends are known."""
        from tqdm import tqdm

        items, eos, line_end = self.text.items, self.vocabulary.eos, self.vocabulary.line_end
        adds_eos = len(self.text.after) > 0
        items.check()
        done = 0  # items that end before the block
        total = len(items.tokens)
        with tqdm(total=total, desc=f"rows of {self.prefix}", unit=" tokens", unit_scale=True, delay=1) as bar:
            for first in range(0, total, _BLOCK):
                block = np.asarray(items.tokens[first : first + _BLOCK])
                check_tokens(block, self.prefix, self.vocabulary)
                after = first + len(block)
                ended = bisect.bisect_right(range(len(items)), after, done, key=lambda i: items.tokens_before(i + 1))
                item_ends = items.ends(done, ended)
                whole = item_ends[items.sizes[done:ended] > 0]
                _check_ends(block[whole - first - 1] == eos, not adds_eos, items)
                ends = np.flatnonzero((block == eos) | (block == line_end)) + first
                if adds_eos:
                    ends += done + np.searchsorted(item_ends, ends, "right")
                    ends = np.sort(np.concatenate((ends, item_ends + np.arange(done, ended))))
                done = ended
                yield ends + 1, after + (done if adds_eos else 0)
                bar.update(len(block))


def rows_name(vocabulary: Vocabulary, tokens_per_row: int) -> str:
    """The end of the file's name."""
    return f"full_sentences-{tokens_per_row}-{vocabulary.fingerprint}.rows"


def _check_ends(ends_in_eos: np.ndarray, expected: bool, items: BinarizedItems) -> None:
    if (ends_in_eos != expected).any():
        raise UserError(
            f"Some items of the binarized text {items.prefix} end in </s> and others do not. Binarize it again with "
            "kosmos-prepare text or fairseq-preprocess, or set `packing: continuous` for its stream."
        )
