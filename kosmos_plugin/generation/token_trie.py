"""Constrained decoding: only some texts can be generated, each to its end."""

from collections.abc import Iterable, Sequence

import torch


class TokenTrie:
    """Token sequences by their beginnings: which tokens may follow what was generated so far.

    No sequence may be empty; one may be the beginning of another. Each should end in `</s>`, which ends generation.
    """

    def __init__(self, sequences: Iterable[Sequence[int]]):
        self._root: dict[int, dict] = {}
        self.longest = 0  # tokens of the longest sequence
        for sequence in sequences:
            assert len(sequence) > 0
            self.longest = max(self.longest, len(sequence))
            node = self._root
            for token in sequence:
                node = node.setdefault(token, {})

    def following(self, tokens: Sequence[int]) -> list[int]:
        """The tokens that may follow `tokens`, which begin a sequence; none if they are a whole one."""
        node = self._root
        for token in tokens:
            node = node[token]
        return list(node)

    def mask(self, log_probs: torch.Tensor, paths: Iterable[Sequence[int]]) -> torch.Tensor:
        """log_probs [R, V] of what follows the R `paths`: −∞ for every token that may not follow."""
        allowed = [self.following(path) for path in paths]
        rows = [row for row, tokens in enumerate(allowed) for _ in tokens]
        places = torch.tensor([rows, [token for tokens in allowed for token in tokens]], device=log_probs.device)
        masked = torch.full_like(log_probs, -torch.inf)
        masked[places[0], places[1]] = log_probs[places[0], places[1]]
        return masked
