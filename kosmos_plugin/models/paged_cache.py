"""KV cache in blocks, for sequences that come and go.

All keys and values lie in one store of blocks of BLOCK_SIZE positions. A sequence has a list of blocks in the order of
its positions, and two sequences with a common beginning have the same blocks there. Which sequence has which blocks is
decided elsewhere (`kosmos_plugin.serving.block_pool`); this module writes to them and attends to them.

A step runs the new positions of any number of sequences as one flat sequence of M tokens: one token of each that is
being generated, and pieces of prompts. Queries are grouped so that few attention calls cover them:

    one new token each     rows of similar length, padded to the longest, in one call
    more than one          rows with the same numbers of new and of earlier positions in one call

Shape letters in addition to those of `kosmos_plugin.models`: M, new tokens of all sequences; G, rows of a group; T, new
tokens of each; P, keys of each, earlier and new.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F

BLOCK_SIZE = 16  # positions


class PagedCache:
    """The store of keys and values.

    Args:
        num_layers: Layers of the decoder.
        num_blocks: Blocks of BLOCK_SIZE positions.
        num_heads: H.
        head_dim: D.
        like: A tensor with the device and the dtype of keys and values.
    """

    def __init__(self, num_layers: int, num_blocks: int, num_heads: int, head_dim: int, like: torch.Tensor):
        # Zeros, not empty: a key that is masked has the weight 0, which does not make the NaN of its value vanish.
        self.store = like.new_zeros(num_layers, 2, num_blocks, BLOCK_SIZE, num_heads, head_dim)

    def clear(self, blocks: Sequence[int]) -> None:
        """Zero blocks that begin to hold other positions, for the same reason."""
        if blocks:
            self.store.index_fill_(2, torch.tensor(blocks, device=self.store.device), 0)

    def step(self, spans: Sequence["Span"]) -> "PagedStep":
        """Plan a step over the new positions of some sequences."""
        return PagedStep(self, spans)


class Span(NamedTuple):
    """New positions of one sequence."""

    blocks: Sequence[int]  # of the sequence, in order, with room for the new positions
    start: int  # positions that the blocks hold already
    length: int  # new positions


@dataclass(frozen=True)
class _Group:
    """Rows that attend in one call."""

    token_index: torch.Tensor  # int64 [G·T], of the new tokens in the flat sequence
    rows: int  # G
    blocks: torch.Tensor  # int64 [G·N], of each row, the last one repeated; the mask hides it then
    keys: int  # P
    mask: torch.Tensor | None  # bool [G or 1, 1, T, P], True where a query sees a key; None: all, or as is_causal says
    is_causal: bool = False  # no earlier positions: T = P


class PagedStep:
    """The new positions of some sequences as one flat sequence, for `KosmosDecoder.extend`.

    Args:
        cache: The store.
        spans: The sequences; each has at least one new position.
    """

    def __init__(self, cache: PagedCache, spans: Sequence[Span]):
        self.cache = cache
        self.length = sum(span.length for span in spans)  # M
        device = cache.store.device
        starts, positions, places, offset = [], [], [], 0
        for span in spans:
            starts.append(offset)
            offset += span.length
            position = torch.arange(span.start, span.start + span.length)
            blocks = torch.tensor(span.blocks)
            positions.append(position)
            places.append(blocks[position // BLOCK_SIZE] * BLOCK_SIZE + position % BLOCK_SIZE)
        self.positions = torch.cat(positions).unsqueeze(0).to(device)  # int64 [1, M]
        self.places = torch.cat(places).to(device)  # int64 [M], of the new positions among all of the store
        self.last_index = torch.tensor([start + span.length - 1 for start, span in zip(starts, spans, strict=True)])
        self.groups = [
            _group([spans[i] for i in members], [starts[i] for i in members], device)
            for members in _members_of_groups(spans)
        ]

    def reserve(self, rows: int, length: int, device: torch.device, valid: torch.Tensor | None = None) -> torch.Tensor:
        """Positions of the new tokens in their sequences, int64 [1, M]."""
        assert (rows, length) == (1, self.length) and valid is None
        return self.positions

    def pack(self, x: torch.Tensor) -> torch.Tensor:
        """x itself: a step has no padding."""
        return x

    def unpack(self, x: torch.Tensor) -> torch.Tensor:
        """x itself: a step has no padding."""
        return x

    def layer(self, number: int) -> "PagedLayer":
        """The part of one layer."""
        return PagedLayer(self, number)


class PagedLayer(NamedTuple):
    """One layer's part of a step (an `AttentionContext`)."""

    step: PagedStep
    layer: int

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float) -> torch.Tensor:
        """Store k and v of the new positions; let q attend to its sequence's positions so far; all are [1, M, H, D]."""
        store = self.step.cache.store[self.layer]
        for kind, new in enumerate((k, v)):
            store[kind].flatten(0, 1).index_copy_(0, self.step.places, new[0])
        attended_MHD = torch.empty_like(q[0])
        for group in self.step.groups:
            q_GHTD = q[0].index_select(0, group.token_index).unflatten(0, (group.rows, -1)).transpose(1, 2)
            if group.is_causal:
                k_GHPD, v_GHPD = (
                    x[0].index_select(0, group.token_index).unflatten(0, (group.rows, -1)).transpose(1, 2)
                    for x in (k, v)
                )
            else:
                k_GHPD, v_GHPD = (self._keys(store[kind], group) for kind in range(2))
            attended_GHTD = F.scaled_dot_product_attention(
                q_GHTD, k_GHPD, v_GHPD, group.mask, dropout, is_causal=group.is_causal
            )
            attended_MHD.index_copy_(0, group.token_index, attended_GHTD.transpose(1, 2).flatten(0, 1))
        return attended_MHD.unsqueeze(0)

    @staticmethod
    def _keys(store: torch.Tensor, group: _Group) -> torch.Tensor:
        """Keys or values of a group [G, H, P, D]."""
        blocks = store.index_select(0, group.blocks)
        return blocks.view(group.rows, -1, *store.shape[2:])[:, : group.keys].transpose(1, 2)


def _members_of_groups(spans: Sequence[Span]) -> list[list[int]]:
    """Numbers of the sequences that attend in one call."""
    groups: dict[tuple[int, int], list[int]] = {}
    for number, span in enumerate(spans):
        # one token each: at most twice as many keys as the row with the fewest
        earlier = span.start if span.length > 1 else (span.start // BLOCK_SIZE).bit_length()
        groups.setdefault((span.length, earlier), []).append(number)
    return list(groups.values())


def _group(spans: Sequence[Span], starts: Sequence[int], device: torch.device) -> _Group:
    """The group of some sequences whose new tokens begin at `starts` in the flat sequence."""
    new = spans[0].length
    lengths = [span.start + span.length for span in spans]
    longest = max(lengths)
    num_blocks = -(-longest // BLOCK_SIZE)
    blocks = torch.empty(len(spans), num_blocks, dtype=torch.int64)
    for row, (span, length) in enumerate(zip(spans, lengths, strict=True)):
        used = torch.tensor(span.blocks[: -(-length // BLOCK_SIZE)])
        blocks[row, : len(used)] = used
        blocks[row, len(used) :] = used[-1]  # one of its own: if its values overflow, no other row sees them
    token_index = (torch.tensor(starts).unsqueeze(1) + torch.arange(new)).flatten()
    mask = None
    if new == 1 and min(lengths) < longest:
        mask = (torch.arange(longest) < torch.tensor(lengths).unsqueeze(1)).view(len(spans), 1, 1, longest).to(device)
    elif new > 1 and spans[0].start > 0:
        mask = torch.ones(new, longest, dtype=torch.bool, device=device).tril(spans[0].start).view(1, 1, new, longest)
    is_causal = new > 1 and spans[0].start == 0
    return _Group(token_index.to(device), len(spans), blocks.flatten().to(device), longest, mask, is_causal)
