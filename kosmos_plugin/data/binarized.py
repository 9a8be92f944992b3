"""fairseq's binarized text: its items, and all of them as one sequence of tokens."""

import bisect
import os
import struct
from collections.abc import Sequence

import numpy as np

from kosmos_plugin.errors import UserError
from kosmos_plugin.vocabulary import DICTIONARY_FILE, Vocabulary

_MAGIC = b"MMIDIDX\x00\x00"
_TOKEN_TYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16, 9: np.uint32}
_BLOCK = 1 << 20  # items of an index that are looked at together


class BinarizedItems:
    """The items of fairseq's mmap format (`MMapIndexedDataset`), opened without reading either file as a whole.

    PREFIX.idx: a magic word, version 1, the code of the token type, the number of items n, n sizes (int32, in tokens)
    and n pointers (int64, in bytes). PREFIX.bin: the items' tokens, one after the other.

    Args:
        prefix: Path of the two files, without their extension.

    Raises:
        UserError: A file is missing, broken or cut short, or holds no tokens.
    """

    def __init__(self, prefix: str):
        for path in (f"{prefix}.idx", f"{prefix}.bin"):
            if not os.path.isfile(path):
                raise UserError(
                    f"The binarized text {path} does not exist (fairseq-preprocess --dataset-impl mmap writes "
                    f"{prefix}.bin and .idx)."
                )
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
        if os.path.getsize(index) > header.size + count * 12:
            raise UserError(
                f"{index} is damaged, or of Megatron-LM, whose files look alike but hold other numbers: binarize the "
                "text with kosmos-prepare text or fairseq-preprocess."
            )
        self.prefix = prefix
        self.sizes = np.memmap(index, np.int32, "r", header.size, (count,))
        self.pointers = np.memmap(index, np.int64, "r", header.size + count * 4, (count,))
        dtype = np.dtype(_TOKEN_TYPES[code])
        last, size = int(self.pointers[-1]), int(self.sizes[-1])
        end, found = last + size * dtype.itemsize, os.path.getsize(f"{prefix}.bin")
        if self.pointers[0] != 0 or not 0 <= last <= end or last % dtype.itemsize:
            raise self.damaged()
        if end == 0:
            raise UserError(f"The binarized text {prefix} is empty.")
        if end != found:
            problem = "is cut short" if end > found else "is longer than its index says, or not of the same run"
            raise UserError(
                f"{prefix}.bin {problem}: the index declares {end:,} bytes, and it has {found:,}; binarize the text "
                "again."
            )
        self.tokens = np.memmap(f"{prefix}.bin", dtype, "r", shape=(end // dtype.itemsize,))

    def __len__(self) -> int:
        return len(self.sizes)

    def tokens_before(self, item: int) -> int:
        """Number of tokens before `item`; all tokens for `item == len(self)`."""
        if item == len(self):
            return self.tokens_before(item - 1) + int(self.sizes[item - 1])
        return int(self.pointers[item]) // self.tokens.itemsize

    def ends(self, first: int, last: int) -> np.ndarray:
        """Number of tokens up to and including each of the items first … last − 1, int64."""
        return self.pointers[first:last] // self.tokens.itemsize + self.sizes[first:last]

    def span(self, item: int) -> tuple[int, int]:
        """Positions of an item's first token, and after its last.

        Raises:
            UserError: The index is damaged there: its size and its place do not go together.
        """
        start, end = self.tokens_before(item), self.tokens_before(item + 1)
        if not 0 <= start <= end <= len(self.tokens) or end - start != self.sizes[item]:
            raise self.damaged(item)
        return start, end

    def __getitem__(self, item: int) -> np.ndarray:
        start, end = self.span(item)
        return np.asarray(self.tokens[start:end])

    def end_in(self, token: int) -> bool:
        """Whether the first item that is not empty ends in `token`."""
        for first in range(0, len(self), _BLOCK):
            filled = np.flatnonzero(self.sizes[first : first + _BLOCK])
            if len(filled):
                return int(self[first + int(filled[0])][-1]) == token
        raise self.damaged()  # there are tokens, but in no item

    def check(self) -> None:
        """Read the whole index, in blocks, and raise UserError unless the items lie one after the other."""
        for first in range(0, len(self), _BLOCK):
            after = min(first + _BLOCK, len(self))
            sizes, pointers = self.sizes[first:after], self.pointers[first:after]
            following = np.append(pointers[1:], self.pointers[after] if after < len(self) else self.tokens.nbytes)
            wrong = (sizes < 0) | (following - pointers != sizes.astype(np.int64) * self.tokens.itemsize)
            if wrong.any():
                raise self.damaged(first + int(wrong.argmax()))

    def damaged(self, item: int = 0) -> UserError:
        """The error for an index whose `item` is not where it should be."""
        return UserError(
            f"{self.prefix}.idx is damaged: its item {item:,} does not begin where the one before it ends; binarize "
            "the text again."
        )


class FramedText:
    """All items as one sequence, each with the same tokens added before and after it.

    Args:
        items: The items.
        before: Tokens to add before each.
        after: Tokens to add after each.
    """

    def __init__(self, items: BinarizedItems, before: Sequence[int] = (), after: Sequence[int] = ()):
        self.items = items
        self.before = np.array(before, dtype=np.int64)
        self.after = np.array(after, dtype=np.int64)

    def __len__(self) -> int:
        """Number of tokens."""
        return self.start(len(self.items))

    def start(self, item: int) -> int:
        """Position of an item's first token, added ones included; all tokens for `item == len(items)`."""
        return self.items.tokens_before(item) + item * (len(self.before) + len(self.after))

    def read(self, start: int, end: int) -> np.ndarray:
        """Tokens start … end − 1, int64. Reads no other tokens."""
        if not len(self.before) and not len(self.after):
            return self.items.tokens[start:end].astype(np.int64)
        item = bisect.bisect_right(range(len(self.items)), start, key=self.start) - 1
        pieces = []
        while start < end:
            before, after_own = self.items.span(item)
            first, after = self.start(item), self.start(item + 1)
            if not first <= start < after:  # found by bisection among pointers that are not in order
                raise self.items.damaged(item)
            skip, stop = start - first, min(end, after) - first
            own, offset = after_own - before, before - len(self.before)
            inner = slice(max(skip, len(self.before)), min(stop, len(self.before) + own))
            pieces.append(self.before[skip:stop])
            pieces.append(self.items.tokens[offset + inner.start : max(offset + inner.stop, offset + inner.start)])
            pieces.append(self.after[max(skip - len(self.before) - own, 0) : max(stop - len(self.before) - own, 0)])
            start, item = min(end, after), item + 1
        return np.concatenate(pieces).astype(np.int64)


def check_dictionary(prefix: str, vocabulary: Vocabulary) -> None:
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


def check_tokens(tokens: np.ndarray, prefix: str, vocabulary: Vocabulary) -> None:
    """Raise UserError if tokens of a binarized text are not in the vocabulary."""
    if len(tokens) and not 0 <= tokens.min() <= tokens.max() < len(vocabulary):
        wrong = tokens.max() if tokens.max() >= len(vocabulary) else tokens.min()
        raise UserError(
            f"The binarized text {prefix} has the token {wrong}, and the vocabulary only {len(vocabulary):,} tokens: "
            "it was binarized with another dictionary."
        )
