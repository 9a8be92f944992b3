"""One step of decoding, shared by all search strategies.

hidden states [R, E] → logits [R, V] → log-probabilities → the likeliest tokens of each row
  → the strategy chooses rows and tokens → hidden states [R', E] of the rows with one more token
"""

from collections.abc import Sequence

import torch

from kosmos_plugin.generation.decoding_state import DecodingState
from kosmos_plugin.generation.token_trie import TokenTrie
from kosmos_plugin.models.kosmos import Kosmos
from kosmos_plugin.vocabulary import Vocabulary

# Up to this many rows, MKL computes V × E · E × R in about half the time of R × E · E × V (at 64,007 × 768).
FEW_ROWS = 6


class Stepper:
    """The rows that are being generated, and the model's predictions for them.

    Args:
        state: The prefilled state of the prompts, which is not changed.
        last: The hidden states [B, E] that predict the prompts' next tokens.
        vocabulary: The model's vocabulary.
        stop: Text that ends generation, as `</s>` does.
        allowed: The only sequences that may be generated; None: any.
    """

    def __init__(
        self,
        state: DecodingState,
        last: torch.Tensor,
        vocabulary: Vocabulary,
        stop: Sequence[str] = (),
        allowed: TokenTrie | None = None,
    ):
        self.state = state.branch(range(len(last)))
        self.hidden = last
        self.vocabulary = vocabulary
        self.stop = [vocabulary.as_decoded(mark) for mark in stop]
        self.allowed = allowed

    def likeliest(self, count: int, prefixes: Sequence[Sequence[int]]) -> tuple[list[list[float]], list[list[int]]]:
        """The likeliest next tokens of each row, best first.

        Args:
            count: Number of tokens per row.
            prefixes: The tokens generated so far in each of the R rows.

        Returns:
            Log-probabilities [R][count], −∞ for tokens that are not allowed, and the tokens [R][count].
        """
        log_probs = _logits(self.state.model, self.hidden).float().log_softmax(dim=-1)
        log_probs[:, self.vocabulary.pad] = -torch.inf
        if self.allowed is not None:
            log_probs = self.allowed.mask(log_probs, prefixes)
        values, tokens = log_probs.topk(min(count, log_probs.size(-1)))
        return values.tolist(), tokens.tolist()

    def advance(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Keep the given rows, in their order, and append one token to each. A row may be repeated."""
        self.state.select(rows)
        self.hidden = self.state.extend(torch.tensor(tokens, device=self.hidden.device).unsqueeze(1))[:, -1]

    def is_end(self, tokens: Sequence[int]) -> bool:
        """Whether generation ends after `tokens`."""
        # At `<image>` too: an image would follow, and the model does not generate images.
        if tokens[-1] in (self.vocabulary.eos, self.vocabulary.image_begin):
            return True
        return bool(self.stop) and any(mark in self.vocabulary.decode(tokens) for mark in self.stop)


def _logits(model: Kosmos, hidden: torch.Tensor) -> torch.Tensor:
    """hidden [R, E] → logits [R, V]"""
    if hidden.device.type == "cpu" and hidden.dtype == torch.float32 and len(hidden) <= FEW_ROWS:
        return (model.decoder.output_projection.weight @ hidden.t()).t().contiguous()
    return model.decoder.output_layer(hidden)
