"""The text streams in the batch format of fairseq's own language models, for `fairseq-eval-lm`."""

from typing import Any

import numpy as np
import torch

from kosmos_plugin.data.mixture import ConcatenatedRows, Mixture
from kosmos_plugin.errors import UserError
from kosmos_plugin.vocabulary import Vocabulary


class ScoringBatches(torch.utils.data.Dataset[dict[str, Any]]):
    """Item i: a text row of this rank, one document (or part of a long one) per line.

    fairseq's scorer wants targets without gaps, so each document is scored without the others in its row. It is read
    after `<s>`, like a prompt, even if in the row it follows another document's `</s>`.

    Args:
        mixture: The split whose text streams are scored.
        vocabulary: For the ids of `<s>`, `</s>` and `<pad>`.
        ranks: Number of ranks.
        rank: This rank, from 0.

    Raises:
        UserError: There is no text stream.
    """

    def __init__(self, mixture: Mixture, vocabulary: Vocabulary, ranks: int, rank: int):
        corpora = [corpus for stream in mixture.streams for corpus in stream.corpora]
        texts = [corpus for corpus in corpora if isinstance(corpus, ConcatenatedRows)]
        if not texts:
            raise UserError("fairseq-eval-lm scores text streams, and the data YAML has none with this split.")
        self.vocabulary = vocabulary
        rows = [(text, row) for text in texts for row in _rows_to_score(text, vocabulary.pad)]
        self.rows = rows[rank::ranks]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: int) -> dict[str, Any]:
        text, number = self.rows[item]
        row = text[number]
        pad, bos = self.vocabulary.pad, self.vocabulary.bos
        ends = row.tokens == self.vocabulary.eos
        after_bos = np.where(ends, bos, row.tokens)  # the target at `</s>`, if any, is the next document's first token
        pieces = np.split(np.stack((after_bos, row.targets)), np.flatnonzero(ends), axis=1)
        pieces = [piece[:, piece[1] != pad] for piece in pieces]
        pieces = [piece for piece in pieces if piece.shape[1] > 0]
        tokens, targets = (
            torch.nn.utils.rnn.pad_sequence(
                [torch.from_numpy(piece[which]) for piece in pieces], batch_first=True, padding_value=pad
            )
            for which in (0, 1)
        )
        return {
            "id": torch.arange(len(pieces)) + item * 1_000_000,
            "nsentences": len(pieces),
            "ntokens": sum(piece.shape[1] for piece in pieces),
            "net_input": {"tokens": tokens, "document_ids": tokens.ne(pad).long()},
            "target": targets,
        }


def _rows_to_score(text: ConcatenatedRows, pad: int) -> list[int]:
    """All rows except a text's last one if it holds only `</s>`."""
    last = {size - 1 for size in text.cumulative_sizes}
    return [row for row in range(len(text)) if row not in last or (text[row].targets != pad).any()]
