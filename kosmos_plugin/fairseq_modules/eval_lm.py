"""The text streams in the batch format of fairseq's own language models, for `fairseq-eval-lm`."""

import numpy as np
import torch

from kosmos_plugin.data.mixture import ConcatenatedRows, Mixture
from kosmos_plugin.errors import UserError
from kosmos_plugin.vocabulary import Vocabulary


class ScoringBatches(torch.utils.data.Dataset):
    """Item i: the documents (or parts of long ones) of a text row, one a line, for rank `rank` of `ranks`.

    fairseq's scorer wants targets without gaps, so documents are scored apart, without what precedes them in the row.
    """

    def __init__(self, mixture: Mixture, vocabulary: Vocabulary, ranks: int, rank: int):
        corpora = [corpus for stream in mixture.streams if stream.config.kind == "text" for corpus in stream.corpora]
        if not corpora:
            raise UserError("fairseq-eval-lm scores text streams, and the data YAML has none with this split.")
        self.vocabulary = vocabulary
        rows = [(corpus, row) for corpus in corpora for row in _rows_to_score(corpus, vocabulary.pad)]
        self.rows = rows[rank::ranks]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: int) -> dict:
        corpus, number = self.rows[item]
        row = corpus[number]
        pad, bos = self.vocabulary.pad, self.vocabulary.bos
        begins = np.flatnonzero(row.tokens == bos)
        pieces = np.split(np.stack((row.tokens, row.targets)), begins[begins > 0], axis=1)
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


def _rows_to_score(corpus: ConcatenatedRows, pad: int) -> list[int]:
    """All rows but those of `</s>` alone, in which a text may end."""
    last = set((corpus.ends - 1).tolist())
    return [row for row in range(len(corpus)) if row not in last or (corpus[row].targets != pad).any()]
