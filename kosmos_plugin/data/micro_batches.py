"""Batches for fairseq's trainer: the micro-batch of (update, rank, accumulation step), made in worker processes.

    update u ─ Mixture ─→ planned rows ─ deal ─→ ranks × update-freq micro-batches ─ read ─ Collator ─→ Batch
    └───────────────── one process plans ──────────────────┘ └── `num_workers` processes read and decode ───┘

The rows of an update depend on the lengths of all its documents, so a rank plans whole updates; it reads only the
documents of its own rows. One process plans, once for each update and ahead of time; it may be any, as a plan is a pure
function of the update's number.
"""

import functools
import pickle
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from kosmos_plugin.data.batch import Batch, Collator
from kosmos_plugin.data.mixture import Mixture, Plan
from kosmos_plugin.data.packing import PackedRow, deal
from kosmos_plugin.errors import UserError


class MicroBatches:
    """The micro-batches of one rank: item `u · update_freq + accumulation_step` belongs to update u.

    Args:
        mixture: The data; it determines the rows of an update.
        collate: Makes a batch from rows.
        rank: This rank, from 0.
        ranks: Number of ranks.
        update_freq: Accumulation steps of an update.
        nodes: Number of machines that the ranks run on.
    """

    def __init__(self, mixture: Mixture, collate: Collator, rank: int, ranks: int, update_freq: int, nodes: int = 1):
        mixture.spread_over(nodes)
        self.mixture = mixture
        self.collate = collate
        self.rank = rank
        self.ranks = ranks
        self.update_freq = update_freq
        self._planned: tuple[int | None, list[Plan]] = (None, [])  # the last update asked for

    def plan(self, update: int, count_skips: bool = True) -> list[Plan]:
        """The rows of each accumulation step of an update on this rank, before anything is read.

        Records known to be unusable are dealt too, so that one rank reads each for its reason.

        Args:
            update: Number of the update, from 0.
            count_skips: Whether to count those that other ranks skip. False for an update that is planned again.
        """
        parts = self.ranks * self.update_freq
        whole = self.mixture.plan(update)
        dealt = [Plan(rows, whole.unusable[part::parts]) for part, rows in enumerate(deal(whole.rows, parts))]
        own = dealt[self.rank :: self.ranks]
        self.mixture.prefetch(update)
        if count_skips:
            self.mixture.skips.count_elsewhere(len(whole.unusable) - sum(len(plan.unusable) for plan in own))
        return own

    def rows(self, item: int) -> list[PackedRow]:
        """The rows of a micro-batch, before any image is read."""
        update, accumulation_step = divmod(item, self.update_freq)
        if self._planned[0] != update:
            self._planned = (update, self.plan(update))
        return self.mixture.read(self._planned[1][accumulation_step])

    def __getitem__(self, item: int) -> Batch:
        return self.collate(self.rows(item))

    def of_updates(
        self, updates: range, num_workers: int, worker_init: Callable[[int], None] | None = None
    ) -> Iterator[Batch]:
        """Make all micro-batches of `updates` in order.

        Args:
            updates: Numbers of the updates.
            num_workers: Processes that decode, in addition to one that plans; 0: both happen in this process.
            worker_init: Called in each of these processes when it starts, with its number.

        Raises:
            UserError: Too many records or images are broken.
        """
        if num_workers == 0:
            for item in range(updates.start * self.update_freq, updates.stop * self.update_freq):
                yield self[item]
            return
        batches = self._from_workers(updates, num_workers, worker_init)
        for batch in batches:
            if isinstance(batch, UserError):
                batches.close()  # ends the workers, which the error's traceback would keep alive
                raise batch
            yield batch

    def _from_workers(
        self, updates: range, num_workers: int, worker_init: Callable[[int], None] | None
    ) -> Generator[Batch | UserError, None, None]:
        plans = self._from_planner(updates, worker_init)
        pin_memory = torch.cuda.is_available()
        yield from _loader(_Decoder(self), plans, num_workers, worker_init, pin_memory)

    def _from_planner(self, updates: range, worker_init: Callable[[int], None] | None) -> Iterator[bytes | UserError]:
        # A generator, so that the planner's process starts only when the decoding loader, already started, asks it.
        for accumulation_steps in _loader(_Plans(self), updates, 1, worker_init):
            yield from accumulation_steps

    def check_fit(self, max_rows: int | None, max_tokens: int | None) -> None:
        """Check that every micro-batch of the first update has work and that none is too large.

        Args:
            max_rows: Maximum rows of a micro-batch (--batch-size); None or 0: no limit.
            max_tokens: Maximum positions of a micro-batch (--max-tokens); None: no limit.

        Raises:
            UserError: One is empty or too large; the message says which options would fit.
        """
        rows = len(self.mixture.plan(0).rows)
        if rows == 0:
            self.mixture.rows(0)  # logs each of them
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


@functools.lru_cache(maxsize=1)  # the same for each validation
def validation_steps(mixture: Mixture, ranks: int, max_rows: int | None, max_tokens: int | None) -> int | None:
    """Micro-batches for each rank and update of a validation: the fewest of which none is too large.

    Args:
        mixture: The split to validate on.
        ranks: Number of ranks.
        max_rows: Maximum rows of a micro-batch (--batch-size-valid); None or 0: no limit.
        max_tokens: Maximum positions of a micro-batch (--max-tokens-valid); None: no limit.

    Returns:
        The number, equal for all ranks and updates; None if there is no limit.

    Raises:
        UserError: One row is too large.
    """
    limits = [max_rows] if max_rows else []
    if max_tokens is not None:
        limits.append(max_tokens // mixture.max_tokens)
    if not limits:
        return None
    if min(limits) < 1:
        raise UserError(
            f"--max-tokens-valid {max_tokens} is less than one row of {mixture.max_tokens:,} tokens: "
            f"use --max-tokens-valid {mixture.max_tokens} or more"
        )
    rows = max(len(mixture.plan(update).rows) for update in range(len(mixture)))
    return max(-(-rows // (ranks * min(limits))), 1)


# A worker returns a UserError as a value: if it raised it, torch would put the worker's traceback into the message.


class _Plans(Dataset[list[bytes | UserError]]):
    """Item u: the plan of each accumulation step of update u, pickled so that the main process only forwards bytes."""

    def __init__(self, micro_batches: MicroBatches):
        self.micro_batches = micro_batches

    def __getitem__(self, update: int) -> list[bytes | UserError]:
        try:
            return [pickle.dumps(plan) for plan in self.micro_batches.plan(update)]
        except UserError as error:
            return [error]


class _Decoder(Dataset[Batch | UserError]):
    """Maps the pickled plan of an accumulation step to its batch."""

    def __init__(self, micro_batches: MicroBatches):
        self.micro_batches = micro_batches

    def __getitem__(self, plan: bytes | UserError) -> Batch | UserError:
        if isinstance(plan, UserError):
            return plan
        try:
            return self.micro_batches.collate(self.micro_batches.mixture.read(pickle.loads(plan)))
        except UserError as error:
            return error


def _loader(
    dataset: Dataset,
    items: Iterable,
    num_workers: int,
    worker_init: Callable[[int], None] | None,
    pin_memory: bool = False,
) -> DataLoader[Any]:
    """Load items of `dataset` in order."""
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=items,
        num_workers=num_workers,
        pin_memory=pin_memory,
        worker_init_fn=worker_init,
        generator=torch.Generator(),  # by default the loader draws from the global one, which is the model's
    )
