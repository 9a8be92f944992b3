"""Batches for fairseq's trainer: the micro-batch of (update, rank, turn), made in worker processes.

    update u ─ Mixture ─→ rows ─ deal ─→ ranks × update-freq micro-batches ─ Collator ─→ Batch
    └──────────── one process plans ───────────┘   └────── `num_workers` processes decode ───┘

What an update's rows are depends on the lengths of all its documents, so a rank plans whole updates. One process does
that, once for each and ahead of time; the others decode the images of the rank's own rows.

fairseq sees an epoch iterator (`EpochBatchIterating`). Its whole state is how many updates were consumed: a training
resumed with another number of ranks, workers or another --update-freq goes on with the same documents.
"""

import itertools
import pickle
from collections.abc import Iterator

import torch
from fairseq.data.iterators import CountingIterator, EpochBatchIterating

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


class EpochIterator(EpochBatchIterating):
    """fairseq's view of the micro-batches: epochs of `updates` updates, resumable in the middle of one."""

    def __init__(self, micro_batches: MicroBatches, updates: int, num_workers: int, epoch: int, endless: bool):
        self.micro_batches = micro_batches
        self.updates = updates
        self.num_workers = num_workers
        self.endless = endless  # training goes on through the order; validation begins again
        self.epoch = max(epoch, 1)
        self._resume_at = 0  # updates of the epoch that were consumed before
        self._iterator: CountingIterator | None = None

    def __len__(self) -> int:
        return self.updates * self.micro_batches.update_freq

    @property
    def next_epoch_idx(self) -> int:
        return self.epoch + 1 if self._iterator is not None and self.end_of_epoch() else self.epoch

    def next_epoch_itr(self, shuffle=True, fix_batches_to_gpus=False, set_dataset_epoch=True) -> CountingIterator:
        """The rest of the current epoch, or the next one. The order is the data's own: the arguments change nothing."""
        self.epoch = self.next_epoch_idx
        start, self._resume_at = self._resume_at, 0
        first = (self.epoch - 1) * self.updates if self.endless else 0
        batches = self.micro_batches.of_updates(range(first + start, first + self.updates), self.num_workers)
        self._iterator = CountingIterator(
            _plain_errors(batches), start=start * self.micro_batches.update_freq, total=len(self)
        )
        return self._iterator

    def end_of_epoch(self) -> bool:
        return not self._iterator.has_next()

    @property
    def iterations_in_epoch(self) -> int:
        return self._iterator.n if self._iterator is not None else self._resume_at * self.micro_batches.update_freq

    @property
    def updates_done(self) -> int:
        """Updates consumed since the beginning of the training's data."""
        return (self.epoch - 1) * self.updates + self.iterations_in_epoch // self.micro_batches.update_freq

    def state_dict(self) -> dict:
        """fairseq's keys; `updates_in_epoch` alone is what the position is restored from."""
        ended = self._iterator is not None and self.end_of_epoch()
        iterations = 0 if ended else self.iterations_in_epoch
        return {
            "version": 2,
            "epoch": self.epoch + 1 if ended else self.epoch,
            "iterations_in_epoch": iterations,
            "shuffle": True,
            "updates_in_epoch": iterations // self.micro_batches.update_freq,
            "updates_per_epoch": self.updates,
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on after the updates that `state` counts, even if the epoch's length has changed since."""
        done = (state["epoch"] - 1) * state["updates_per_epoch"] + state["updates_in_epoch"]
        self.epoch, self._resume_at = done // self.updates + 1, done % self.updates
        self._iterator = None


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


def _plain_errors(batches):
    """A worker's UserError arrives with the worker's traceback in its message: keep the message alone."""
    message = None
    try:
        yield from batches
    except UserError as error:
        message = str(error).rpartition("UserError: ")[2].strip()
        error.__traceback__ = None  # its frames would keep the worker processes, and shutting down would wait for them
    if message is not None:
        raise UserError(message)
