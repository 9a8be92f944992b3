"""The next token of each row: the likeliest, or one drawn from the model's distribution.

log-probabilities [R, V] ÷ temperature → softmax, in falling order → top-k → top-p → min-p → the token at a uniform
number's place in the cumulative distribution

In the order of transformers. All of it happens on the device, with shapes that depend on nothing.
"""

from typing import Protocol

import torch

from kosmos_plugin.generation.options import SearchOptions


class Choice(Protocol):
    """A rule for the next token of each row."""

    def __call__(self, log_probs: torch.Tensor, step: int) -> torch.Tensor:
        """Log-probabilities float32 [R, V] after `step` tokens → tokens int64 [R]"""
        ...


def likeliest_token(log_probs: torch.Tensor, step: int) -> torch.Tensor:
    """The choice of greedy search."""
    return log_probs.argmax(dim=-1)


class Sampler:
    """The choice of sampling. With a seed, a row draws the same whichever rows it is with.

    Args:
        options: What is sampled from, and the seed.
        device: The device of the log-probabilities.
    """

    def __init__(self, options: SearchOptions, device: torch.device):
        self.options = options
        self.uniform: torch.Tensor | None = None  # float64 [steps], the same for each row; None: without a seed
        if options.seed is not None:
            generator = torch.Generator().manual_seed(options.seed)
            self.uniform = torch.rand(options.max_new_tokens, generator=generator, dtype=torch.float64).to(device)

    def __call__(self, log_probs: torch.Tensor, step: int) -> torch.Tensor:
        """See Choice."""
        tokens, probs = kept_tokens(log_probs, self.options)
        rows = len(log_probs)
        if self.uniform is None:
            uniform = torch.rand(rows, 1, dtype=torch.float64, device=log_probs.device)
        else:
            uniform = self.uniform[step].expand(rows, 1)
        cumulative = probs.cumsum(dim=-1)
        place = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
        last = (probs > 0).sum(dim=-1, keepdim=True) - 1  # if the product was rounded up
        return tokens.gather(1, torch.minimum(place, last)).squeeze(1)


def kept_tokens(log_probs: torch.Tensor, options: SearchOptions) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens to draw from, and how likely each is.

    Args:
        log_probs: float32 [R, V].
        options: Temperature, top-k, top-p and min-p.

    Returns:
        Tokens int64 [R, V'], likeliest first, and their probabilities float64 [R, V'], 0 for those that are left out;
        they do not add up to 1.
    """
    likeliest = log_probs.max(dim=-1, keepdim=True).values  # taken away so that no temperature makes all of them −∞
    probs = ((log_probs - likeliest) / options.temperature).softmax(dim=-1)
    if 0 < options.top_k < probs.size(-1):
        probs, tokens = probs.topk(options.top_k, dim=-1)
    else:
        probs, tokens = probs.sort(dim=-1, descending=True)
    probs = probs.double()
    keep = torch.ones_like(probs, dtype=torch.bool)
    if options.top_p < 1:
        likelier = probs.cumsum(dim=-1) - probs  # the probability of all that are likelier than a token
        keep = likelier < options.top_p * probs.sum(dim=-1, keepdim=True)
    if options.min_p > 0:
        keep &= probs >= options.min_p * probs[:, :1]
    keep[:, 0].fill_(True)
    return tokens, probs.where(keep, 0)
