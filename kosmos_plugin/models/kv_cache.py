"""What the decoder has read, kept in levels: rotated keys and values, and attention over them.

A row of a level goes on where a row of the level above it ends: prompts after what all of them begin with, beams or
candidates after their prompt. Keys and values of a level are never copied to the rows that go on from it. Those rows
ask them together: with C rows to each of B, their queries are folded, [B, H, C·T, D] against the level's [B, H, S, D].
The scores over all levels go through one softmax, so the result is that of plain attention over the whole row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F

SMALLEST_CAPACITY = 16


@dataclass
class Level:
    """R rows with `length` places each.

    `parents`: the row of the level above after which each row goes on (of the first level: of no meaning).
    `positions`: int64 [R], where each row's next token stands, the levels above counted.
    `seen`: bool [R, length], False where a place is padding; None if nowhere.
    `store`: [layers, 2, R, H, capacity, D], keys and values of all layers; it grows geometrically.
    """

    parents: list[int]
    positions: torch.Tensor
    length: int = 0
    seen: torch.Tensor | None = None
    store: torch.Tensor | None = None

    @property
    def rows(self) -> int:
        return len(self.parents)

    def select(self, rows: Sequence[int]) -> "Level":
        """The level of the rows `rows`, in that order; a row may come several times."""
        index = torch.tensor(rows, device=self.positions.device)
        return Level(
            [self.parents[row] for row in rows],
            self.positions[index],
            self.length,
            None if self.seen is None else self.seen[index],
            None if self.store is None else self.store.index_select(2, index),
        )

    def write(self, layer: int, layers: int, k: torch.Tensor, v: torch.Tensor) -> None:
        """Put one of `layers` layers' k, v [R, H, T, D] in the last T of the `length` places."""
        rows, heads, new, head_dim = k.shape
        past = self.length - new
        capacity = 0 if self.store is None else self.store.size(4)
        if capacity < self.length:
            capacity = max(self.length, 2 * capacity, SMALLEST_CAPACITY)
            store = k.new_empty(layers, 2, rows, heads, capacity, head_dim)
            if self.store is not None:
                store[..., :past, :] = self.store[..., :past, :]
            self.store = store
        self.store[layer, 0, :, :, past : self.length] = k
        self.store[layer, 1, :, :, past : self.length] = v

    def keys_and_values(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """[R, H, length, D] each"""
        return self.store[layer, 0, :, :, : self.length], self.store[layer, 1, :, :, : self.length]


class Fold:
    """The last level's R rows gathered by their `ancestors` among the B rows of a level: R ⇄ B·C, C the most of one."""

    def __init__(self, ancestors: Sequence[int], rows: int, device: torch.device):
        self.ancestors = torch.tensor(ancestors, device=device)
        self.rows = rows
        counts = [0] * rows
        siblings = []
        for ancestor in ancestors:
            siblings.append(counts[ancestor])
            counts[ancestor] += 1
        self.most = max(counts)
        places = [ancestor * self.most + sibling for ancestor, sibling in zip(ancestors, siblings, strict=True)]
        # None if the rows stand in their places already: C to each, in order.
        self.places = None if places == list(range(rows * self.most)) else torch.tensor(places, device=device)

    def fold(self, x: torch.Tensor) -> torch.Tensor:
        """[R, H, T, …] → [B, H, C·T, …]"""
        if self.places is not None:
            x = x.new_zeros(self.rows * self.most, *x.shape[1:]).index_copy(0, self.places, x)
        return x.unflatten(0, (self.rows, self.most)).transpose(1, 2).flatten(2, 3)

    def unfold(self, x: torch.Tensor) -> torch.Tensor:
        """[B, H, C·T, …] → [R, H, T, …]"""
        x = x.unflatten(2, (self.most, -1)).transpose(1, 2).flatten(0, 1)
        return x if self.places is None else x[self.places]


class LayerCache(NamedTuple):
    """One layer's view of the cache, for the layer's attention."""

    cache: "KeyValueCache"
    layer: int

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float = 0.0) -> torch.Tensor:
        """q, k, v of the new places, rotated → attention over all that their rows have read.

        All are [R, H, T, D], or [1, H, N, D] of the N places without padding (`KeyValueCache.pack`).
        """
        if self.cache.places is None:
            return self.cache.attend(self.layer, q, k, v, dropout)
        q, k, v = (self.cache.unpack(x.transpose(1, 2)).transpose(1, 2) for x in (q, k, v))
        attended = self.cache.attend(self.layer, q, k, v, dropout)
        return self.cache.pack(attended.transpose(1, 2)).transpose(1, 2)


class KeyValueCache:
    """Keys and values of `layers` layers in levels. The last level is the one that is read into."""

    def __init__(self, layers: int, levels: Sequence[Level] = ()):
        self.layers = layers
        self.levels = list(levels)
        self.folds: list[Fold] | None = None  # of each level but the last; None until they are needed
        # Of the places that are being read: [R, T], which of the R·T are no padding (None: all), and what they see.
        self.shape = (0, 0)
        self.places: torch.Tensor | None = None
        self.mask: torch.Tensor | None = None
        self.is_causal = False

    def branch(self, parents: Sequence[int]) -> "KeyValueCache":
        """A cache whose rows go on after the rows `parents`, without copying them.

        It shares its levels with this one, and holds until this one reads on.
        """
        above = self.levels[-1]
        index = torch.tensor(parents, device=above.positions.device)
        branch = KeyValueCache(self.layers, [*self.levels, Level(list(parents), above.positions[index])])
        branch._drop_unused()
        return branch

    def select(self, rows: Sequence[int]) -> None:
        """Keep the rows `rows` of the last level, in that order; a row may be kept several times."""
        last = self.levels[-1]
        if list(rows) == list(range(last.rows)):
            return
        self.levels[-1] = last.select(rows)
        if self.levels[-1].parents != last.parents:
            self.folds = None
            self._drop_unused()

    def _drop_unused(self) -> None:
        """Shrink levels of which no more than half the rows are still gone on from: each shrinking halves, at least."""
        for number in reversed(range(len(self.levels) - 1)):
            above, below = self.levels[number : number + 2]
            used = sorted(set(below.parents))
            if 2 * len(used) <= above.rows:
                place = {row: place for place, row in enumerate(used)}
                self.levels[number] = above.select(used)
                self.levels[number + 1] = replace(below, parents=[place[parent] for parent in below.parents])

    def begin(self, rows: int, length: int, device: torch.device, valid: torch.Tensor | None = None) -> torch.Tensor:
        """Announce `length` more places in each of the rows, which each layer then reads → positions int64 [R, T].

        `valid` (bool [R, T]) is False where a place is padding, which no other place sees and no position counts.
        """
        if not self.levels:
            self.levels.append(Level([0] * rows, torch.zeros(rows, dtype=torch.int64, device=device)))
        last = self.levels[-1]
        assert rows == last.rows, f"{rows} rows after {last.rows}"
        self.shape = (rows, length)
        self.places = None if valid is None else valid.flatten().nonzero().squeeze(1)
        counted = torch.arange(1, length + 1, device=device).expand(rows, -1) if valid is None else valid.cumsum(dim=1)
        positions = (last.positions.unsqueeze(1) + counted - 1).clamp(min=0)
        last.positions = last.positions + counted[:, -1]
        if valid is not None or last.seen is not None:
            everywhere = torch.ones(rows, max(length, last.length), dtype=torch.bool, device=device)
            before = everywhere[:, : last.length] if last.seen is None else last.seen
            last.seen = torch.cat((before, everywhere[:, :length] if valid is None else valid), dim=1)
        last.length += length
        if self.folds is None:
            self.folds = self._folds()
        self._set_mask(length)
        return positions

    def pack(self, x: torch.Tensor) -> torch.Tensor:
        """[R, T, …] → [1, N, …], the N places that are no padding one after the other; as it is if there is none."""
        return x if self.places is None else x.flatten(0, 1)[self.places].unsqueeze(0)

    def unpack(self, x: torch.Tensor) -> torch.Tensor:
        """[1, N, …] → [R, T, …], zero where there is padding; as it is if there is none."""
        if self.places is None:
            return x
        rows, length = self.shape
        return x.new_zeros(rows * length, *x.shape[2:]).index_copy(0, self.places, x[0]).unflatten(0, self.shape)

    def _folds(self) -> list[Fold]:
        """For each level but the last, the last's rows gathered by the rows from which they come."""
        folds, ancestors = [], list(range(self.levels[-1].rows))
        for above, below in zip(self.levels[-2::-1], self.levels[:0:-1], strict=True):
            ancestors = [below.parents[row] for row in ancestors]
            folds.insert(0, Fold(ancestors, above.rows, above.positions.device))
        return folds

    def _set_mask(self, length: int) -> None:
        """What the `length` new places see: bool [R, 1, T, S] over the places of all levels, None if all of it."""
        *above, last = self.levels
        nothing_hidden = all(level.seen is None for level in self.levels)
        # The kernels' own causal mask, where it says all.
        self.is_causal = nothing_hidden and not above and length == last.length
        if nothing_hidden and (length == 1 or self.is_causal):
            self.mask = None
            return
        device = last.positions.device
        causal = torch.ones(length, last.length, dtype=torch.bool, device=device).tril(last.length - length)
        # Where there is padding, some places see nothing, and their results are no numbers: `pack` drops them.
        seen_last = causal.expand(last.rows, -1, -1) if last.seen is None else last.seen.unsqueeze(1) & causal
        seen = []
        for level, fold in zip(above, self.folds, strict=True):
            if level.seen is None:
                of_level = torch.ones(1, level.length, dtype=torch.bool, device=device).expand(last.rows, -1)
            else:
                of_level = level.seen[fold.ancestors]
            seen.append(of_level.unsqueeze(1).expand(-1, length, -1))
        self.mask = torch.cat((*seen, seen_last), dim=2).unsqueeze(1)

    def of_layer(self, layer: int) -> LayerCache:
        return LayerCache(self, layer)

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float = 0.0
    ) -> torch.Tensor:
        """q, k, v [R, H, T, D] of the layer `layer` in the new places → [R, H, T, D]"""
        *above, last = self.levels
        last.write(layer, self.layers, k, v)
        keys, values = last.keys_and_values(layer)
        if not above:
            return F.scaled_dot_product_attention(
                q, keys, values, attn_mask=self.mask, dropout_p=dropout, is_causal=self.is_causal
            )
        cached = [level.keys_and_values(layer) for level in above]
        q = q * q.size(-1) ** -0.5
        scores = [
            fold.unfold(fold.fold(q) @ keys_above.transpose(-2, -1))
            for fold, (keys_above, _) in zip(self.folds, cached, strict=True)
        ]
        scores = torch.cat((*scores, q @ keys.transpose(-2, -1)), dim=-1)
        if self.mask is not None:
            scores = scores.masked_fill_(~self.mask, -torch.inf)
        weights = scores.softmax(dim=-1, dtype=torch.float32).to(v.dtype)
        if dropout:
            weights = F.dropout(weights, dropout)
        *weights_above, weights_last = weights.split([level.length for level in self.levels], dim=-1)
        attended = weights_last @ values
        for fold, weight, (_, values_above) in zip(self.folds, weights_above, cached, strict=True):
            attended = attended + fold.unfold(fold.fold(weight) @ values_above)
        return attended
