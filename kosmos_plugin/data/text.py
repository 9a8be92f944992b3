"""fairseq's binarized text as rows, in either of two packings.

    full_sentences   <s> line</line> line</line> last line</s> line</line>   whole lines, as many as fit
    continuous       …ne</line> last line</s> <s> line</line> line</line> l   the r-th `tokens_per_row` tokens

The first is the paper's: "each input sequence with full sentences that are sampled continuously from one or more
documents". A line ends in `</line>`, a document's last in `</s>`, as `kosmos-prepare text` writes them; an item of
`fairseq-preprocess` (a line of its input) ends in `</s>`. No token is lost, each but `<s>` is a target once, and a row
is found and read without reading other text.
"""

from abc import abstractmethod
from typing import ClassVar

import numpy as np
from torch.utils.data import Dataset

from kosmos_plugin.data.binarized import BinarizedItems, FramedText, check_dictionary, check_tokens
from kosmos_plugin.data.row_starts import RowStarts
from kosmos_plugin.data.samples import Sample
from kosmos_plugin.errors import UserError
from kosmos_plugin.vocabulary import Vocabulary


class TextRows(Dataset[Sample]):
    """The rows of one binarized corpus. Items get `</s>` if the binarization left it out.

    Args:
        prefix: Path of the binarized text: PREFIX.bin and PREFIX.idx.
        vocabulary: The vocabulary that it was binarized with.
        tokens_per_row: T, the tokens of a row.
        cache: Folder for files that cannot be written beside the text; None: the user's cache folder.

    Raises:
        UserError: The files are missing, broken or empty, or were binarized with another dictionary.
    """

    documents_have_bos: ClassVar[bool] = False  # whether each has its own `<s>`

    def __init__(self, prefix: str, vocabulary: Vocabulary, tokens_per_row: int, cache: str | None = None):
        check_dictionary(prefix, vocabulary)
        self.items = BinarizedItems(prefix)
        self.prefix = prefix
        self.vocabulary = vocabulary
        self.tokens_per_row = tokens_per_row
        self.cache = cache
        self.adds_eos = not self.items.end_in(vocabulary.eos)
        before = [vocabulary.bos] if self.documents_have_bos else []
        self.text = FramedText(self.items, before, [vocabulary.eos] if self.adds_eos else [])

    def __reduce__(self) -> tuple[type["TextRows"], tuple[str, Vocabulary, int, str | None]]:
        # a worker process opens the files itself
        return type(self), (self.prefix, self.vocabulary, self.tokens_per_row, self.cache)

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """The tokens of each of `rows`, int64 of the same shape, without reading text."""

    @abstractmethod
    def _row(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and targets of a row, int64."""

    def __getitem__(self, row: int) -> Sample:
        tokens, targets = self._row(row)
        check_tokens(tokens, self.prefix, self.vocabulary)
        check_tokens(targets, self.prefix, self.vocabulary)
        return Sample(f"{self.prefix}/row {row}", tokens, targets, np.zeros(len(tokens), dtype=bool))

    @property
    @abstractmethod
    def num_tokens(self) -> int:
        """Tokens of all rows."""

    @property
    def num_targets(self) -> int:
        """Tokens in the loss: all but `<s>`."""
        return int(self.items.tokens_before(len(self.items))) + len(self.items) * self.adds_eos


class FullSentenceRows(TextRows):
    """Rows of `<s>` and whole lines. The target at a row's last position is `pad`."""

    def __init__(self, prefix: str, vocabulary: Vocabulary, tokens_per_row: int, cache: str | None = None):
        super().__init__(prefix, vocabulary, tokens_per_row, cache)
        if tokens_per_row < 2:
            raise UserError(f"A row of text needs at least 2 tokens, not {tokens_per_row} (--tokens-per-sample).")
        self.starts = RowStarts(self.text, vocabulary, tokens_per_row, cache).open()

    def __len__(self) -> int:
        return len(self.starts) - 1

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        # Where the starts are damaged, reading the row says so.
        return np.clip(self.starts[rows + 1] - self.starts[rows] + 1, 1, self.tokens_per_row)

    def _row(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        start, end = int(self.starts[row]), int(self.starts[row + 1])
        length, longest = end - start, self.tokens_per_row - 1
        lines = (
            self.text.read(start, end)
            if 0 <= start < end <= len(self.text) and length <= longest
            else np.empty(0, np.int64)
        )
        if not len(lines) or (length < longest and lines[-1] not in (self.vocabulary.eos, self.vocabulary.line_end)):
            raise UserError(f"The row starts of {self.prefix} are broken: remove {self.prefix}.full_sentences-*.rows.")
        return np.insert(lines, 0, self.vocabulary.bos), np.append(lines, self.vocabulary.pad)

    @property
    def num_tokens(self) -> int:
        return self.num_targets + len(self)


class ContinuousRows(TextRows):
    """Row r is the r-th `tokens_per_row` tokens of the documents, each of which has `<s>` before it.

    A document goes on in the next row, and the last row may be shorter. The target at a row's last position is the
    token after the row, and the one at a document's `</s>` is `pad`.
    """

    documents_have_bos = True

    def __len__(self) -> int:
        return -(-len(self.text) // self.tokens_per_row)

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        return np.minimum(len(self.text) - rows * self.tokens_per_row, self.tokens_per_row)

    def _row(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        start = row * self.tokens_per_row
        end = min(start + self.tokens_per_row, len(self.text))
        tokens = np.append(self.text.read(start, min(end + 1, len(self.text))), self.vocabulary.pad)
        following = tokens[1 : end - start + 1]
        return tokens[: end - start], np.where(following == self.vocabulary.bos, self.vocabulary.pad, following)

    @property
    def num_tokens(self) -> int:
        return len(self.text)


TEXT_ROWS: dict[str, type[TextRows]] = {"full_sentences": FullSentenceRows, "continuous": ContinuousRows}
