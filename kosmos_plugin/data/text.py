"""fairseq's binarized text as rows: row r of a corpus is the r-th `tokens_per_row` tokens of its documents in order.

This is the paper's "full-sentence" packing: each row is filled with consecutive text of one or more documents, and a
document continues in the next row. An item of the dataset (a line given to `fairseq-preprocess`) is a document; it gets
`<s>` before it, and `</s>` after it if the binarization left that out. Finding a row is a binary search in the
dataset's own index on disk, so every row costs the same and nothing is held in memory.
"""

import bisect
import os
import struct

import numpy as np
from torch.utils.data import Dataset

from kosmos_plugin.data.samples import Sample
from kosmos_plugin.errors import UserError
from kosmos_plugin.vocabulary import DICTIONARY_FILE, Vocabulary

_MAGIC = b"MMIDIDX\x00\x00"
_TOKEN_TYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16, 9: np.uint32}


class TextRows(Dataset[Sample]):
    """The rows of one binarized corpus; the last one may be shorter.

    A row's targets are its tokens shifted by one, and the last target is the token after the row. The target at a
    document's `</s>` is `pad`.

    Args:
        prefix: Path of the binarized text: PREFIX.bin and PREFIX.idx.
        vocabulary: The vocabulary that it was binarized with.
        tokens_per_row: T, the tokens of a row.

    Raises:
        UserError: The files are missing, broken or empty, or were binarized with another dictionary.
    """

    def __init__(self, prefix: str, vocabulary: Vocabulary, tokens_per_row: int):
        for path in (f"{prefix}.idx", f"{prefix}.bin"):
            if not os.path.isfile(path):
                raise UserError(
                    f"The binarized text {path} does not exist (fairseq-preprocess --dataset-impl mmap writes "
                    f"{prefix}.bin and .idx)."
                )
        _check_dictionary(prefix, vocabulary)
        self.items = BinarizedItems(prefix)
        self.prefix = prefix
        self.vocabulary = vocabulary
        self.tokens_per_row = tokens_per_row
        first = next(self.items[item] for item, size in enumerate(self.items.sizes) if size)
        self.ends_in_eos = int(first[-1]) == vocabulary.eos
        self._start = _FramedStarts(self.items, frame=1 if self.ends_in_eos else 2)

    def __reduce__(self) -> tuple[type["TextRows"], tuple[str, Vocabulary, int]]:
        # a worker process opens the files itself
        return TextRows, (self.prefix, self.vocabulary, self.tokens_per_row)

    def __len__(self) -> int:
        return -(-self._start[len(self.items)] // self.tokens_per_row)

    def __getitem__(self, row: int) -> Sample:
        pad, bos = self.vocabulary.pad, self.vocabulary.bos
        start = row * self.tokens_per_row
        tokens = self._tokens(start, start + self.tokens_per_row + 1)
        if tokens.max() >= len(self.vocabulary):
            raise UserError(
                f"The binarized text {self.prefix} has the token {tokens.max()}, and the vocabulary only "
                f"{len(self.vocabulary):,} tokens: it was binarized with another dictionary."
            )
        following = np.append(tokens, pad)[1 : self.tokens_per_row + 1]
        tokens = tokens[: self.tokens_per_row]
        targets = np.where(following == bos, pad, following)[: len(tokens)]
        return Sample(f"{self.prefix}/row {row}", tokens, targets, np.zeros(len(tokens), dtype=bool))

    def _tokens(self, start: int, end: int) -> np.ndarray:
        """Tokens start … end − 1 of the concatenated framed documents (fewer at the end of the corpus), int64."""
        end = min(end, self._start[len(self.items)])
        item = bisect.bisect_right(self._start, start) - 1
        pieces, skip, length = [], start - self._start[item], 0
        while length < end - start + skip:
            pieces.append(self._framed(item))
            length += len(pieces[-1])
            item += 1
        return np.concatenate(pieces)[skip : skip + end - start]

    def _framed(self, item: int) -> np.ndarray:
        eos = [] if self.ends_in_eos else [self.vocabulary.eos]
        return np.concatenate(([self.vocabulary.bos], self.items[item], eos)).astype(np.int64)


class BinarizedItems:
    """The items of fairseq's mmap format (`MMapIndexedDataset`), opened without reading either file as a whole.

    PREFIX.idx: a magic word, version 1, the code of the token type, the number of items n, n sizes (int32, in tokens)
    and n pointers (int64, in bytes). PREFIX.bin: the items' tokens, one after the other.

    Args:
        prefix: Path of the two files, without their extension.

    Raises:
        UserError: A file is broken or cut short, or holds no tokens.
    """

    def __init__(self, prefix: str):
        index = f"{prefix}.idx"
        header = struct.Struct(f"<{len(_MAGIC)}sQBQ")
        with open(index, "rb") as file:
            head = file.read(header.size)
        if len(head) < header.size or not head.startswith(_MAGIC):
            raise UserError(
                f"{index} is not an index of fairseq's mmap format (fairseq-preprocess --dataset-impl mmap)."
            )
        _, version, code, count = header.unpack(head)
        if version != 1 or code not in _TOKEN_TYPES:
            raise UserError(f"{index} has version {version} and token type {code}, which fairseq does not write.")
        if count == 0:
            raise UserError(f"The binarized text {prefix} is empty.")
        if os.path.getsize(index) < header.size + count * 12:
            raise UserError(f"{index} is cut short: it declares {count:,} items; binarize the text again.")
        self.sizes = np.memmap(index, np.int32, "r", header.size, (count,))
        self.pointers = np.memmap(index, np.int64, "r", header.size + count * 4, (count,))
        dtype = np.dtype(_TOKEN_TYPES[code])
        end = int(self.pointers[-1]) + int(self.sizes[-1]) * dtype.itemsize
        if end == 0:
            raise UserError(f"The binarized text {prefix} is empty.")
        if end > os.path.getsize(f"{prefix}.bin"):
            raise UserError(f"{prefix}.bin is cut short: its index declares {end // dtype.itemsize:,} tokens.")
        self.tokens = np.memmap(f"{prefix}.bin", dtype, "r", shape=(end // dtype.itemsize,))

    def __len__(self) -> int:
        return len(self.sizes)

    def tokens_before(self, item: int) -> int:
        """Number of tokens before `item`; all tokens for `item == len(self)`."""
        if item == len(self):
            return self.tokens_before(item - 1) + int(self.sizes[item - 1])
        return int(self.pointers[item]) // self.tokens.itemsize

    def __getitem__(self, item: int) -> np.ndarray:
        return np.asarray(self.tokens[self.tokens_before(item) : self.tokens_before(item + 1)])


class _FramedStarts:
    """Position of each document's first token when every item has `frame` more tokens, for `bisect`."""

    def __init__(self, items: BinarizedItems, frame: int):
        self.items, self.frame = items, frame

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, item: int) -> int:
        return self.items.tokens_before(item) + item * self.frame


def _check_dictionary(prefix: str, vocabulary: Vocabulary) -> None:
    """Raise UserError if the binarization left a dict.txt beside its data that is not the vocabulary's."""
    path = os.path.join(os.path.dirname(prefix), DICTIONARY_FILE)
    if not os.path.isfile(path):
        return
    first = vocabulary.dictionary.nspecial
    # Not Dictionary.load: it cannot load what fairseq-preprocess writes for a piece `<pad>`.
    with open(path, encoding="utf-8", errors="replace") as file:
        symbols = [line.removesuffix(" #fairseq:overwrite\n").rsplit(" ", 1)[0] for line in file]
    if symbols != vocabulary.dictionary.symbols[first : first + len(symbols)]:
        raise UserError(
            f"{path} is not the vocabulary's dictionary: the text was binarized with another one. "
            "Binarize it again with the vocabulary's dict.txt (fairseq-preprocess --srcdict)."
        )
