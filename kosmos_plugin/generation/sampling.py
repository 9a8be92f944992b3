"""The next token of each row: the likeliest, or one drawn from the model's distribution.

scores [R, V], in falling order, ÷ temperature → softmax → top-k → top-p → min-p → the token at a uniform number's place
in the cumulative distribution

The order and the borders are those of transformers. Each row has its own options and its own uniform numbers, so what
it draws does not depend on the rows beside it. All of it happens on the device, with shapes that depend on nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch

from kosmos_plugin.generation.options import SearchOptions

_SMALLEST = torch.finfo(torch.float32).tiny


class Choice(Protocol):
    """A rule for the next token of each row."""

    def __call__(self, scores: torch.Tensor, sequences: torch.Tensor, step: int) -> torch.Tensor:
        """Choose.

        Args:
            scores: Float32 [R, V], logits or log-probabilities.
            sequences: int64 [R], which of all sequences each row is.
            step: How many tokens they have.

        Returns:
            Tokens int64 [R].
        """
        ...


def likeliest_token(scores: torch.Tensor, sequences: torch.Tensor, step: int) -> torch.Tensor:
    """The choice of greedy search."""
    return scores.argmax(dim=-1)


class Filters(NamedTuple):
    """What is drawn from, for each of R rows."""

    temperature: torch.Tensor  # float32 [R, 1]; 0: the likeliest token
    top_k: torch.Tensor  # int64 [R, 1]; 0: all
    top_p: torch.Tensor  # float64 [R, 1]
    min_p: torch.Tensor  # float64 [R, 1]

    @classmethod
    def of(cls, options: Sequence[SearchOptions], device: torch.device) -> "Filters":
        """The filters of rows with these options."""
        rows = [(one.temperature if one.samples else 0.0, one.top_k, one.top_p, one.min_p) for one in options]
        temperature, top_k, top_p, min_p = torch.tensor(rows, dtype=torch.float64).to(device).split(1, dim=1)
        return cls(temperature.float(), top_k.long(), top_p, min_p)

    def select(self, rows: torch.Tensor) -> "Filters":
        """The filters of the given rows, int64 [R']."""
        return Filters(*(values.index_select(0, rows) for values in self))


class Sampler:
    """The choice of sampling, for sequences each of which has its own options and seed.

    Args:
        options: The options of each sequence.
        numbers: For each, which of its prompt's `n` it is, from 0.
        device: The device of the scores.
    """

    def __init__(self, options: Sequence[SearchOptions], numbers: Sequence[int], device: torch.device):
        self.filters = Filters.of(options, device)
        steps = max(one.max_new_tokens for one in options)
        drawn = [uniform_numbers(one, number).random(steps) for one, number in zip(options, numbers, strict=True)]
        self.uniform = torch.from_numpy(np.stack(drawn)).to(device)  # float64 [sequences, steps]

    def __call__(self, scores: torch.Tensor, sequences: torch.Tensor, step: int) -> torch.Tensor:
        """See Choice."""
        return draw(scores, self.filters.select(sequences), self.uniform[:, step].index_select(0, sequences))


def uniform_numbers(options: SearchOptions, number: int = 0) -> np.random.Generator:
    """The random numbers of a sequence: `random()` gives that of its next token.

    They depend on the seed and on which of the prompt's `n` texts it is. Without a seed they depend on torch's.

    Args:
        options: The options, with the seed.
        number: Which of the prompt's `n` texts it is, from 0.
    """
    seed = int(torch.randint(2**63 - 1, ())) if options.seed is None else options.seed
    return np.random.Generator(np.random.Philox(key=[seed % 2**64, number]))


def draw(scores: torch.Tensor, filters: Filters, uniform: torch.Tensor) -> torch.Tensor:
    """Draw a token for each row.

    Args:
        scores: Float32 [R, V], logits or log-probabilities.
        filters: Of the R rows.
        uniform: Float64 [R], from 0 to below 1.

    Returns:
        Tokens int64 [R]; the likeliest where the temperature is 0.
    """
    tokens, probs = kept_tokens(scores, filters)
    cumulative = probs.cumsum(dim=-1)
    place = torch.searchsorted(cumulative, uniform.unsqueeze(1) * cumulative[:, -1:], right=True)
    last = (probs > 0).sum(dim=-1, keepdim=True) - 1  # if the product was rounded up
    return tokens.gather(1, torch.minimum(place, last)).squeeze(1)


def kept_tokens(scores: torch.Tensor, filters: Filters) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens to draw from, and how likely each is.

    Args:
        scores: Float32 [R, V], logits or log-probabilities.
        filters: Of the R rows.

    Returns:
        Tokens int64 [R, V], likeliest first, and their probabilities float64 [R, V], 0 for those that are left out;
        they do not add up to 1.
    """
    scores, tokens = scores.sort(dim=-1, descending=True, stable=True)
    likeliest = scores[:, :1]  # taken away so that no temperature makes all of them −∞
    probs = ((scores - likeliest) / filters.temperature.clamp(min=_SMALLEST)).softmax(dim=-1).double()
    size = scores.size(-1)
    last = (filters.top_k.where(filters.top_k > 0, size) - 1).clamp(max=size - 1)
    probs = probs.where(scores >= scores.gather(1, last), 0)  # also those that are as likely as the last of them
    likelier = probs.cumsum(dim=-1) - probs  # the probability of all that are likelier than a token
    keep = (likelier < filters.top_p * probs.sum(dim=-1, keepdim=True)) | (filters.top_p >= 1)
    keep &= probs >= filters.min_p * probs[:, :1]
    keep &= filters.temperature > 0
    keep[:, 0].fill_(True)
    return tokens, probs.where(keep, 0)
