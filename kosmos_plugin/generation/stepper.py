"""One step of decoding, shared by all search strategies.

hidden states [R, E] → logits [R, V] → log-probabilities → the likeliest tokens of each row
  → the strategy chooses rows and tokens → hidden states [R', E] of the rows with one more token
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from kosmos_plugin.generation.decoding_state import DecodingState
from kosmos_plugin.generation.sampling import Choice
from kosmos_plugin.generation.token_trie import TokenTrie
from kosmos_plugin.models.decoder import KosmosDecoder
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
        self.log_probs = log_probabilities(state.model.decoder, last, vocabulary.pad)  # [R, V]
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
        log_probs = self.log_probs
        if self.allowed is not None:
            log_probs = self.allowed.mask(log_probs, prefixes)
        return read(*log_probs.topk(min(count, log_probs.size(-1))))

    def choose(
        self, choice: Choice, prefixes: Sequence[Sequence[int]], first: int, limit: int
    ) -> list[tuple[list[float], list[int]]]:
        """Choose one next token for each row, in one or more steps.

        Args:
            choice: The rule.
            prefixes: The tokens generated so far in each of the R rows.
            first: The number of the first step.
            limit: The number of the step to end before.

        Returns:
            For each step, log-probabilities [R] and tokens [R]. The last tokens are not appended yet.
        """
        log_probs = self.log_probs
        if self.allowed is not None:
            log_probs = self.allowed.mask(log_probs, prefixes)
        return [read(*chosen(choice, log_probs, first))]

    def advance(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Keep the given rows, in their order, and append one token to each. A row may be repeated."""
        self.state.select(rows)
        hidden = self.state.extend(torch.tensor(tokens, device=self.log_probs.device).unsqueeze(1))[:, -1]
        self.log_probs = log_probabilities(self.state.model.decoder, hidden, self.vocabulary.pad)

    def is_end(self, tokens: Sequence[int]) -> bool:
        """Whether generation ends after `tokens`."""
        # At `<image>` too: an image would follow, and the model does not generate images.
        if tokens[-1] in (self.vocabulary.eos, self.vocabulary.image_begin):
            return True
        return bool(self.stop) and any(mark in self.vocabulary.decode(tokens) for mark in self.stop)


def chosen(choice: Choice, log_probs: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities [R] and tokens [R] of one step."""
    tokens = choice(log_probs, step)
    return log_probs.gather(1, tokens.unsqueeze(1)).squeeze(1), tokens


def log_probabilities(decoder: KosmosDecoder, hidden: torch.Tensor, pad: int) -> torch.Tensor:
    """hidden [R, E] → log-probabilities of the next tokens, float32 [R, V], −∞ for `pad`."""
    log_probs = _logits(decoder, hidden).float().log_softmax(dim=-1)
    log_probs[:, pad].fill_(-torch.inf)
    return log_probs


def _logits(decoder: KosmosDecoder, hidden: torch.Tensor) -> torch.Tensor:
    """hidden [R, E] → logits [R, V]"""
    weight = decoder.output_projection.weight
    if hidden.is_cuda:
        # V is odd: only as the result's first dimension does it not keep the GPU from its fast kernels.
        return (weight @ F.pad(hidden, (0, 0, 0, -len(hidden) % 8)).t()).t()[: len(hidden)]
    if hidden.dtype == torch.float32 and len(hidden) <= FEW_ROWS:
        return (weight @ hidden.t()).t().contiguous()
    return decoder.output_layer(hidden)


def read(values: torch.Tensor, tokens: torch.Tensor) -> tuple[list, list]:
    """Values, float32, and tokens, int64 of the same shape, as lists, by one transfer from the device."""
    both = torch.stack((values.view(torch.int32), tokens.int())).cpu()
    return both[0].view(torch.float32).tolist(), both[1].tolist()
