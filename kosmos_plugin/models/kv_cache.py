"""KV cache shared by sequences with a common prefix.

Levels form a chain (few-shot prefix → prompt → beam); row b continues row `parents[b]` of the level above, whose keys
and values are never copied. Rows with a common prefix row attend to it together: their queries [B, H, T, D] are grouped
by prefix row, [A, H, C·T, D], for one matrix product with that level's keys [A, H, P, D]. The scores of all levels
share one softmax, so the result is that of plain attention over the whole sequence.

Shape letters in addition to those of `kosmos_plugin.models`: A, the rows of a level above the last; C, the maximum
number of rows that share one of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F

SMALLEST_CAPACITY = 16  # positions


@dataclass
class Level:
    """The positions of B rows since they branched off the level above."""

    parents: list[int]  # the row of the level above that each row continues; unused in the first level
    next_position: torch.Tensor  # int64 [B], position of each row's next token in its whole sequence
    length: int = 0  # positions, padding included
    valid: torch.Tensor | None = None  # bool [B, length], False at padding; None: there is none
    store: torch.Tensor | None = None  # [layers, 2, B, H, capacity, D], keys and values; it grows geometrically

    @property
    def rows(self) -> int:
        return len(self.parents)

    def select(self, rows: Sequence[int]) -> "Level":
        """A copy with the given rows, in that order; rows may repeat."""
        index = torch.tensor(rows, device=self.next_position.device)
        return Level(
            [self.parents[row] for row in rows],
            self.next_position[index],
            self.length,
            None if self.valid is None else self.valid[index],
            None if self.store is None else self.store.index_select(2, index),
        )

    def write(self, layer: int, num_layers: int, k_BHTD: torch.Tensor, v_BHTD: torch.Tensor) -> None:
        """Store one layer's keys and values of the last T positions."""
        rows, heads, new, head_dim = k_BHTD.shape
        past = self.length - new
        if self.store is None or self.store.size(4) < self.length:
            capacity = max(self.length, 2 * (0 if self.store is None else self.store.size(4)), SMALLEST_CAPACITY)
            store = k_BHTD.new_empty(num_layers, 2, rows, heads, capacity, head_dim)
            if self.store is not None:
                store[..., :past, :] = self.store[..., :past, :]
            self.store = store
        self.store[layer, 0, :, :, past : self.length] = k_BHTD
        self.store[layer, 1, :, :, past : self.length] = v_BHTD

    def keys_and_values(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """One layer's keys and values, [B, H, length, D] each."""
        assert self.store is not None, "nothing was written"
        return self.store[layer, 0, :, :, : self.length], self.store[layer, 1, :, :, : self.length]


class QueryGrouping:
    """Groups queries whose rows share a prefix row, so that they attend to it in one matmul.

    Args:
        ancestors: For each of the last level's B rows, the row of a level above that it continues.
        num_ancestors: A, the rows of that level.
        device: The device of the tensors to group.
    """

    def __init__(self, ancestors: Sequence[int], num_ancestors: int, device: torch.device):
        self.ancestors = torch.tensor(ancestors, device=device)
        self.num_ancestors = num_ancestors
        counts = [0] * num_ancestors
        rank = []  # of each row among those with its ancestor
        for ancestor in ancestors:
            rank.append(counts[ancestor])
            counts[ancestor] += 1
        self.largest = max(counts)
        slots = [ancestor * self.largest + number for ancestor, number in zip(ancestors, rank, strict=True)]
        # int64 [B], each row's index among A·C slots; None if rows are in order, with C rows to each ancestor.
        in_order = slots == list(range(num_ancestors * self.largest))
        self.slots = None if in_order else torch.tensor(slots, device=device)

    def group(self, x: torch.Tensor) -> torch.Tensor:
        """[B, H, T, …] → [A, H, C·T, …]"""
        if self.slots is not None:
            x = x.new_zeros(self.num_ancestors * self.largest, *x.shape[1:]).index_copy(0, self.slots, x)
        return x.unflatten(0, (self.num_ancestors, self.largest)).transpose(1, 2).flatten(2, 3)

    def ungroup(self, x: torch.Tensor) -> torch.Tensor:
        """[A, H, C·T, …] → [B, H, T, …]"""
        x = x.unflatten(2, (self.largest, -1)).transpose(1, 2).flatten(0, 1)
        return x if self.slots is None else x[self.slots]


class LayerCache(NamedTuple):
    """One layer's part of a KV cache (an `AttentionContext`)."""

    cache: "KeyValueCache"
    layer: int

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float) -> torch.Tensor:
        """Store k and v of the reserved positions; let q attend to all positions of its rows so far.

        All tensors are [B, T, H, D], or [1, M, H, D] if there is padding (see `KeyValueCache.pack`).
        """
        q_BHTD, k_BHTD, v_BHTD = (self.cache.unpack(x).transpose(1, 2) for x in (q, k, v))
        attended_BHTD = self.cache.attend(self.layer, q_BHTD, k_BHTD, v_BHTD, dropout)
        return self.cache.pack(attended_BHTD.transpose(1, 2))


class KeyValueCache:
    """Keys and values of all layers, in levels. Rows grow in the last level.

    A step is a call of `reserve`, which appends positions, then each layer's `attend`, which fills them.

    Args:
        num_layers: Layers of the decoder.
        levels: The levels to start from; none for an empty cache.
    """

    def __init__(self, num_layers: int, levels: Sequence[Level] = ()):
        self.num_layers = num_layers
        self.levels = list(levels)
        self.groupings: list[QueryGrouping] | None = None  # for each level but the last; None until they are needed
        # Of the reserved positions:
        self.shape = (0, 0)  # [B, T]
        self.token_index: torch.Tensor | None = None  # int64 [M], which of the B·T are not padding; None: all
        self.mask: torch.Tensor | None = None  # bool [B, 1, T, P], the keys that each sees in all levels; None: all
        self.is_causal = False  # plain causal attention, without a mask

    def branch(self, parents: Sequence[int]) -> "KeyValueCache":
        """Start a level whose row b continues row `parents[b]`, without a copy.

        The new cache shares this cache's levels and is valid until this one is extended.
        """
        above = self.levels[-1]
        index = torch.tensor(parents, device=above.next_position.device)
        branch = KeyValueCache(self.num_layers, [*self.levels, Level(list(parents), above.next_position[index])])
        branch._drop_unused()
        return branch

    def select(self, rows: Sequence[int]) -> None:
        """Rearrange the rows according to a new batch order, as beam search does. Rows may repeat."""
        last = self.levels[-1]
        if list(rows) == list(range(last.rows)):
            return
        self.levels[-1] = last.select(rows)
        if self.levels[-1].parents != last.parents:
            self.groupings = None
            self._drop_unused()

    def append(self, keys_and_values: torch.Tensor) -> None:
        """Append positions of one row that were computed elsewhere, [layers, 2, 1, H, T, D]."""
        self.reserve(1, keys_and_values.size(4), keys_and_values.device)
        for layer, (k_BHTD, v_BHTD) in enumerate(keys_and_values):
            self.levels[-1].write(layer, self.num_layers, k_BHTD, v_BHTD)

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` positions, of one row without padding and without branches."""
        [level] = self.levels
        assert level.rows == 1 and level.valid is None and length <= level.length
        level.next_position = level.next_position - (level.length - length)
        level.length = length

    def _drop_unused(self) -> None:
        """Drop unused rows of each level in which at most half the rows are continued, so that copies stay rare."""
        for number in reversed(range(len(self.levels) - 1)):
            above, below = self.levels[number : number + 2]
            used = sorted(set(below.parents))
            if 2 * len(used) <= above.rows:
                new_row = {row: new for new, row in enumerate(used)}
                self.levels[number] = above.select(used)
                self.levels[number + 1] = replace(below, parents=[new_row[parent] for parent in below.parents])

    def reserve(self, rows: int, length: int, device: torch.device, valid: torch.Tensor | None = None) -> torch.Tensor:
        """Append positions to each row, for the layers' `attend` to fill.

        Args:
            rows: B.
            length: T, positions per row, padding included.
            device: The device of the positions.
            valid: bool [B, T], False at padding, which no token sees and which advances no position; None: no padding.

        Returns:
            Positions in their rows' sequences, int64 [B, T].
        """
        if not self.levels:
            self.levels.append(Level([0] * rows, torch.zeros(rows, dtype=torch.int64, device=device)))
        last = self.levels[-1]
        assert rows == last.rows, f"{rows} rows after {last.rows}"
        self.shape = (rows, length)
        self.token_index = None if valid is None else valid.flatten().nonzero().squeeze(1)
        tokens = torch.arange(1, length + 1, device=device).expand(rows, -1) if valid is None else valid.cumsum(dim=1)
        positions = (last.next_position.unsqueeze(1) + tokens - 1).clamp(min=0)
        last.next_position = last.next_position + tokens[:, -1]
        if valid is not None or last.valid is not None:
            all_valid = torch.ones(rows, max(length, last.length), dtype=torch.bool, device=device)
            before = all_valid[:, : last.length] if last.valid is None else last.valid
            last.valid = torch.cat((before, all_valid[:, :length] if valid is None else valid), dim=1)
        last.length += length
        if self.groupings is None:
            self.groupings = self._group_rows()
        self.mask, self.is_causal = self._mask(length, self.groupings)
        return positions

    def pack(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T, …] → [1, M, …] without padding; x itself if there is none."""
        return x if self.token_index is None else x.flatten(0, 1)[self.token_index].unsqueeze(0)

    def unpack(self, x: torch.Tensor) -> torch.Tensor:
        """[1, M, …] → [B, T, …], zero at padding; x itself if there is none."""
        if self.token_index is None:
            return x
        rows, length = self.shape
        return x.new_zeros(rows * length, *x.shape[2:]).index_copy(0, self.token_index, x[0]).unflatten(0, self.shape)

    def ancestors(self) -> list[list[int]]:
        """For each level, the row that each of the last level's rows continues; in the last level, the row itself."""
        found = [list(range(self.levels[-1].rows))]
        for below in self.levels[:0:-1]:
            found.insert(0, [below.parents[row] for row in found[0]])
        return found

    def _group_rows(self) -> list[QueryGrouping]:
        """For each level but the last, the last level's rows grouped by the row that they continue."""
        return [
            QueryGrouping(rows, level.rows, level.next_position.device)
            for level, rows in zip(self.levels[:-1], self.ancestors()[:-1], strict=True)
        ]

    def _mask(self, length: int, groupings: list[QueryGrouping]) -> tuple[torch.Tensor | None, bool]:
        """`mask` and `is_causal` for the last `length` positions."""
        *above, last = self.levels
        no_padding = all(level.valid is None for level in self.levels)
        if no_padding and not above and length == last.length:
            return None, True
        if no_padding and length == 1:
            return None, False
        device = last.next_position.device
        causal = torch.ones(length, last.length, dtype=torch.bool, device=device).tril(last.length - length)
        # Padding may see no key at all; the result there is NaN, and `pack` drops it.
        visible_last = causal.expand(last.rows, -1, -1) if last.valid is None else last.valid.unsqueeze(1) & causal
        visible = []
        for level, grouping in zip(above, groupings, strict=True):
            if level.valid is None:
                keys = torch.ones(1, level.length, dtype=torch.bool, device=device).expand(last.rows, -1)
            else:
                keys = level.valid[grouping.ancestors]
            visible.append(keys.unsqueeze(1).expand(-1, length, -1))
        return torch.cat((*visible, visible_last), dim=2).unsqueeze(1), False

    def layer(self, number: int) -> LayerCache:
        """The part of one layer."""
        return LayerCache(self, number)

    def attend(
        self, layer: int, q_BHTD: torch.Tensor, k_BHTD: torch.Tensor, v_BHTD: torch.Tensor, dropout: float
    ) -> torch.Tensor:
        """Store one layer's k and v of the reserved positions; attention of q over all levels, [B, H, T, D]."""
        last = self.levels[-1]
        last.write(layer, self.num_layers, k_BHTD, v_BHTD)
        if len(self.levels) > 1:
            return self._attend_to_levels(layer, q_BHTD, dropout)
        k_BHPD, v_BHPD = last.keys_and_values(layer)
        return F.scaled_dot_product_attention(
            q_BHTD, k_BHPD, v_BHPD, attn_mask=self.mask, dropout_p=dropout, is_causal=self.is_causal
        )

    def _attend_to_levels(self, layer: int, q_BHTD: torch.Tensor, dropout: float) -> torch.Tensor:
        """Scores against each level's keys, one softmax over all of them, and the sum over each level's values."""
        assert self.groupings is not None, "reserve comes first"
        *above, (k_BHPD, v_BHPD) = [level.keys_and_values(layer) for level in self.levels]
        q_BHTD = q_BHTD * q_BHTD.size(-1) ** -0.5
        scores = [
            grouping.ungroup(grouping.group(q_BHTD) @ k_AHPD.transpose(-2, -1))
            for grouping, (k_AHPD, _) in zip(self.groupings, above, strict=True)
        ]
        scores_BHTP = torch.cat((*scores, q_BHTD @ k_BHPD.transpose(-2, -1)), dim=-1)
        del scores  # as large as their concatenation
        if self.mask is not None:
            scores_BHTP = scores_BHTP.masked_fill_(~self.mask, -torch.inf)
        weights_BHTP = scores_BHTP.softmax(dim=-1, dtype=torch.float32).to(v_BHPD.dtype)
        if dropout:
            weights_BHTP = F.dropout(weights_BHTP, dropout)
        *weights_above, weights_last = weights_BHTP.split([level.length for level in self.levels], dim=-1)
        attended_BHTD = weights_last @ v_BHPD
        for grouping, weights, (_, v_AHPD) in zip(self.groupings, weights_above, above, strict=True):
            attended_BHTD = attended_BHTD + grouping.ungroup(grouping.group(weights) @ v_AHPD)
        return attended_BHTD
