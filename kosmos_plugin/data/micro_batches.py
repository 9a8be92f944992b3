"""Batches for fairseq's trainer: the micro-batch of (update, rank, turn), made in worker processes.

    update u ─ Mixture ─→ rows ─ deal ─→ ranks × update-freq micro-batches ─ Collator ─→ Batch
    └──────────── one process plans ───────────┘   └────── `num_workers` processes decode ───┘

What an update's rows are depends on the lengths of all its documents, so a rank plans whole updates. One process does
that, once for each and ahead of time; the others decode the images of the rank's own rows.
"""

import itertools
import pickle
from collections.abc import Iterator

import torch

from kosmos_plugin.data.batch import Batch, Collator
from kosmos_plugin.data.mixture import Mixture
from kosmos_plugin.data.packing import PackedRow, deal
from kosmos_plugin.errors import UserError


class MicroBatches:
    """The micro-batches of one rank: item `u · update_freq + turn` is the one of update u and that turn."""

    def __init__(self, mixture: Mixture, collate: Collator, rank: int, ranks: int, update_freq: int):
        self.mixture = mixture
        self.collate = collate
        self.rank = rank
        self.ranks = ranks
        self.update_freq = update_freq
        self._planned: tuple[int | None, list[list[PackedRow]]] = (None, [])  # the last update asked for

    def plan(self, update: int) -> list[list[PackedRow]]:
        """The rows of each turn of an update, before any image is read."""
        dealt = deal(self.mixture.rows(update), self.ranks * self.update_freq)
        return dealt[self.rank :: self.ranks]

    def rows(self, item: int) -> list[PackedRow]:
        """The rows of a micro-batch, before any image is read."""
        update, turn = divmod(item, self.update_freq)
        if self._planned[0] != update:
            self._planned = (update, self.plan(update))
        return self._planned[1][turn]

    def __getitem__(self, item: int) -> Batch:
        return self.collate(self.rows(item))

    def of_updates(self, updates: range, num_workers: int) -> Iterator[Batch]:
        """All items of `updates`, made in `num_workers` processes and one that plans; 0: in this one."""
        if num_workers == 0:
            items = range(updates.start * self.update_freq, updates.stop * self.update_freq)
            yield from (self[item] for item in items)
        else:
            plans = itertools.chain.from_iterable(_begun_when_asked(_loader(_Plans(self), updates, 1)))
            yield from _loader(_Decoder(self.collate), plans, num_workers, pin_memory=torch.cuda.is_available())

    def check_fit(self, max_rows: int | None, max_tokens: int | None) -> None:
        """UserError if the first update cannot be dealt so that every micro-batch has work and none is too large."""
        rows = len(self.mixture.rows(0, count_skips=False))
        if rows == 0:
            self.mixture.rows(0)  # warns of each
            raise UserError("Every record of the first update is broken: see the warnings.")
        parts = self.ranks * self.update_freq
        how = f"An update has {rows} rows of {self.mixture.max_tokens:,} tokens"
        if rows < parts:
            raise UserError(
                f"{how}, too few for {self.ranks} ranks × --update-freq {self.update_freq} = {parts} micro-batches: "
                f"use --update-freq {rows // self.ranks} or less"
                if rows >= self.ranks
                else f"{how}, too few for {self.ranks} ranks: use {rows} ranks or raise sequences_per_update"
            )
        limit = min(
            max_rows if max_rows else rows, max_tokens // self.mixture.max_tokens if max_tokens is not None else rows
        )
        if limit < 1:
            raise UserError(
                f"--max-tokens {max_tokens} is less than one row of {self.mixture.max_tokens:,} tokens: "
                f"use --max-tokens {self.mixture.max_tokens} or more"
            )
        if -(-rows // parts) > limit:
            update_freq = -(-rows // (limit * self.ranks))
            advice = f"use --update-freq {update_freq}"
            if update_freq * self.ranks > rows:  # then some micro-batches would have no row
                update_freq = rows // self.ranks
                most = -(-rows // (update_freq * self.ranks))
                advice = f"use --update-freq {update_freq}"
                advice += f" --batch-size {most}" if max_rows else ""
                advice += f" --max-tokens {most * self.mixture.max_tokens}" if max_tokens is not None else ""
            raise UserError(
                f"{how}: {-(-rows // parts)} a micro-batch with {self.ranks} ranks × --update-freq {self.update_freq}, "
                f"but --batch-size and --max-tokens allow {limit}: {advice}"
            )


class _Plans(torch.utils.data.Dataset):
    """Item u: the rows of each turn of update u. They are pickled, so that the main process passes on mere bytes."""

    def __init__(self, micro_batches: MicroBatches):
        self.micro_batches = micro_batches

    def __getitem__(self, update: int) -> list[bytes]:
        return [pickle.dumps(rows) for rows in self.micro_batches.plan(update)]


class _Decoder(torch.utils.data.Dataset):
    """Item `rows`, as `_Plans` gives them: their batch."""

    def __init__(self, collate: Collator):
        self.collate = collate

    def __getitem__(self, rows: bytes) -> Batch:
        return self.collate(pickle.loads(rows))


def _loader(dataset, items, num_workers: int, pin_memory: bool = False) -> torch.utils.data.DataLoader:
    """Items of `dataset` in order. The generator: else a loader draws from torch's global one, which is the model's."""
    return torch.utils.data.DataLoader(
        dataset,
        batch_size=None,
        sampler=items,
        num_workers=num_workers,
        pin_memory=pin_memory,
        generator=torch.Generator(),
    )


def _begun_when_asked(loader):
    """So that the planner's process is begun by the decoding loader, after its own."""
    yield from loader
