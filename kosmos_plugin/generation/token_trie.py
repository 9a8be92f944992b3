"""Constrained decoding: only the given token sequences can be generated, each to its end."""

from collections.abc import Iterable, Sequence

import torch


class TokenTrie:
    """A prefix tree of token sequences: which tokens may follow a prefix.

    A sequence has at least one token and may be a prefix of another. Each should end in `</s>`, which ends generation.
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

    def next_tokens(self, prefix: Sequence[int]) -> list[int]:
        """The tokens that may follow `prefix`, which must be in the trie; none if no sequence is longer."""
        node = self._root
        for token in prefix:
            node = node[token]
        return list(node)

    def mask(self, log_probs: torch.Tensor, prefixes: Iterable[Sequence[int]]) -> torch.Tensor:
        """`log_probs` [R, V] with −∞ for every token that may not follow the prefix of its row."""
        allowed = [self.next_tokens(prefix) for prefix in prefixes]
        rows = [row for row, tokens in enumerate(allowed) for _ in tokens]
        index = torch.tensor([rows, [token for tokens in allowed for token in tokens]], device=log_probs.device)
        masked = torch.full_like(log_probs, -torch.inf)
        masked[index[0], index[1]] = log_probs[index[0], index[1]]
        return masked
