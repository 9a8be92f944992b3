"""One step of decoding, shared by all search strategies.

hidden states [R, E] → logits [R, V] → log-probabilities → penalties → the likeliest tokens of each row, or a drawn one
  → the strategy chooses rows and tokens → hidden states [R', E] of the rows with one more token
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from kosmos_plugin.generation.decoding_state import DecodingState
from kosmos_plugin.generation.options import SearchOptions
from kosmos_plugin.generation.penalties import penalize
from kosmos_plugin.generation.results import TokenProbs
from kosmos_plugin.generation.sampling import Choice
from kosmos_plugin.generation.token_trie import TokenTrie
from kosmos_plugin.models.decoder import KosmosDecoder
from kosmos_plugin.vocabulary import Vocabulary

# Up to this many rows, MKL computes V × E · E × R in about half the time of R × E · E × V (at 64,007 × 768).
FEW_ROWS = 6


class Row(NamedTuple):
    """A row of a step: a sequence that is being generated."""

    sequence: int  # which, of all
    prompt: int  # which it continues
    tokens: Sequence[int]  # generated so far


class Stepper:
    """The rows that are being generated, and the model's predictions for them.

    Args:
        state: The prefilled state of the prompts, which is not changed.
        last: The hidden states [B, E] that predict the prompts' next tokens.
        vocabulary: The model's vocabulary.
        options: Penalties, and the log-probabilities to give.
        prompts: The tokens of each prompt, for the penalties; image slots are negative.
        copies: Rows that begin with each prompt.
        allowed: The only sequences that may be generated; None: any.
        in_place: Extend the state itself, of one row, by the tokens that are appended.
    """

    def __init__(
        self,
        state: DecodingState,
        last: torch.Tensor,
        vocabulary: Vocabulary,
        options: SearchOptions,
        prompts: Sequence[np.ndarray] = (),
        copies: int = 1,
        allowed: TokenTrie | None = None,
        in_place: bool = False,
    ):
        branched = [prompt for prompt in range(len(last)) for _ in range(copies)]
        self.state = state if in_place else state.branch(branched)
        self.vocabulary = vocabulary
        self.options = options
        self.prompts = prompts
        self.allowed = allowed
        log_probs, normalizers = log_probabilities(state.model.decoder, last, vocabulary.pad)
        self.log_probs = log_probs.repeat_interleave(copies, dim=0)  # [R, V]
        self.normalizers = normalizers.repeat_interleave(copies, dim=0)  # [R, 1]; logits are their sum

    def likeliest(self, count: int, rows: Sequence[Row]) -> tuple[list[list[float]], list[list[int]]]:
        """The likeliest next tokens of each row, best first.

        Args:
            count: Number of tokens per row.
            rows: The R rows.

        Returns:
            Log-probabilities after penalties [R][count], −∞ for tokens that are not allowed, and the tokens [R][count].
        """
        scores = self._allowed(self._penalized(self.log_probs, rows), rows)
        return read(*scores.topk(min(count, scores.size(-1))))

    def measure(self, tokens: Sequence[Sequence[int]]) -> list[list[TokenProbs]]:
        """The model's log-probabilities of some next tokens [R][count] of each row, before penalties."""
        index = torch.tensor(tokens, device=self.log_probs.device)
        values, found = read(*with_likeliest(self.log_probs, index, self.options.top_logprobs))
        count = index.size(1)
        return [
            [(value, tuple(zip(row_tokens[count:], row_values[count:], strict=True))) for value in row_values[:count]]
            for row_values, row_tokens in zip(values, found, strict=True)
        ]

    def choose(self, choice: Choice, rows: Sequence[Row], limit: int) -> list[list[tuple[int, TokenProbs]]]:
        """Choose one next token for each row, in one or more steps.

        Args:
            choice: The rule.
            rows: The R rows, all with equally many tokens.
            limit: How many tokens they may have in the end.

        Returns:
            For each step the token of each row, with its log-probability. The last tokens are not appended yet.
        """
        scores = self.log_probs
        if self.options.repetition_penalty != 1:  # of logits, whose sign counts
            scores = scores + self.normalizers
        scores = self._allowed(self._penalized(scores, rows), rows)
        sequences = torch.tensor([row.sequence for row in rows], device=scores.device)
        tokens = choice(scores, sequences, len(rows[0].tokens)).unsqueeze(1)
        return [described(*read(*with_likeliest(self.log_probs, tokens, self.options.top_logprobs)))]

    def advance(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Keep the given rows, in their order, and append one token to each. A row may be repeated."""
        self.state.select(rows)
        hidden = self.state.extend(torch.tensor(tokens, device=self.log_probs.device).unsqueeze(1))[:, -1]
        self.log_probs, self.normalizers = log_probabilities(self.state.model.decoder, hidden, self.vocabulary.pad)

    def finish(self) -> None:
        """Extend the state by what was appended, if that was asked for: here it is already."""

    def _penalized(self, scores: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
        if not self.options.looks_back:
            return scores
        histories = [np.concatenate((self.prompts[row.prompt], np.array(row.tokens, np.int64))) for row in rows]
        return penalize(scores, histories, [self.options] * len(rows))

    def _allowed(self, scores: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
        return scores if self.allowed is None else self.allowed.mask(scores, [row.tokens for row in rows])


def with_likeliest(log_probs: torch.Tensor, tokens: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and tokens [R, C + count]: of the given tokens [R, C], then of the likeliest `count`."""
    values = log_probs.gather(1, tokens)
    if count == 0:
        return values, tokens
    top = log_probs.topk(min(count, log_probs.size(-1)))
    return torch.cat((values, top.values), dim=1), torch.cat((tokens, top.indices), dim=1)


def described(values: list[list[float]], tokens: list[list[int]]) -> list[tuple[int, TokenProbs]]:
    """The chosen token of each row, with its log-probability and the likeliest tokens in its place."""
    return [
        (row_tokens[0], (row_values[0], tuple(zip(row_tokens[1:], row_values[1:], strict=True))))
        for row_values, row_tokens in zip(values, tokens, strict=True)
    ]


def log_probabilities(decoder: KosmosDecoder, hidden: torch.Tensor, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Predict the next tokens.

    Args:
        decoder: The decoder.
        hidden: Hidden states [R, E].
        pad: The id of `<pad>`.

    Returns:
        Log-probabilities, float32 [R, V], −∞ for `pad`; and what makes them logits when added, [R, 1].
    """
    logits = _logits(decoder, hidden).float()
    log_probs = logits.log_softmax(dim=-1)
    normalizers = logits[:, :1] - log_probs[:, :1]
    log_probs[:, pad].fill_(-torch.inf)
    return log_probs, normalizers


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
