"""fairseq's view of the micro-batches: an epoch iterator whose position is the number of updates consumed.

A run resumed with another number of ranks or workers, or another --update-freq, continues with the same documents.
"""

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from fairseq.data.iterators import CountingIterator, EpochBatchIterating

from kosmos_plugin.data.batch import Batch
from kosmos_plugin.data.micro_batches import MicroBatches
from kosmos_plugin.errors import UserError
from kosmos_plugin.fairseq_modules.stall_watch import WAITING_FOR_DATA, Progress
from kosmos_plugin.fairseq_modules.stop_signals import ignore_in_worker
from kosmos_plugin.fairseq_modules.throughput import MeasuredBatches
from kosmos_plugin.vocabulary import ENCODING_FILE, LINE_END

if TYPE_CHECKING:
    from kosmos_plugin.fairseq_modules.update_checks import UpdateChecks


class EpochIterator(EpochBatchIterating):
    """Epochs of a fixed number of updates, resumable in the middle of one.

    Args:
        micro_batches: The micro-batches of this rank.
        updates: Updates per epoch.
        num_workers: Processes that decode images; see `MicroBatches.of_updates`.
        epoch: Number of the first epoch, from 1.
        endless: Whether epochs continue through the data's order, as in training. Otherwise each starts again.
        progress: Is told when batches are waited for.
    """

    def __init__(
        self,
        micro_batches: MicroBatches,
        updates: int,
        num_workers: int,
        epoch: int,
        endless: bool,
        progress: Progress | None = None,
    ):
        self.micro_batches = micro_batches
        self.updates = updates
        self.num_workers = num_workers
        self.endless = endless
        self.epoch = max(epoch, 1)
        self.progress = progress or Progress()
        self.update_checks: UpdateChecks | None = None  # whose state is saved with the position, in training
        self.measured = MeasuredBatches(micro_batches.collate.vocabulary.pad)
        self._resume_at = 0  # updates of the epoch that were consumed before the run was resumed
        self._iterator: CountingIterator | None = None

    def __len__(self) -> int:
        """Micro-batches of an epoch."""
        return self.updates * self.micro_batches.update_freq

    @property
    def next_epoch_idx(self) -> int:
        """Number of the epoch that `next_epoch_itr` returns."""
        return self.epoch + 1 if self._iterator is not None and self.end_of_epoch() else self.epoch

    def next_epoch_itr(
        self, shuffle: bool = True, fix_batches_to_gpus: bool = False, set_dataset_epoch: bool = True
    ) -> CountingIterator:
        """The rest of the current epoch, or the next one. The order is the data's own: the arguments change nothing."""
        self.epoch = self.next_epoch_idx
        start, self._resume_at = self._resume_at, 0
        first = (self.epoch - 1) * self.updates if self.endless else 0
        updates = range(first + start, first + self.updates)
        batches = self.micro_batches.of_updates(updates, self.num_workers, ignore_in_worker)
        self._iterator = CountingIterator(
            self.measured(_marked(batches, self.progress)),
            start=start * self.micro_batches.update_freq,
            total=len(self),
        )
        return self._iterator

    def end_of_epoch(self) -> bool:
        """Whether all of the current epoch has been consumed."""
        assert self._iterator is not None
        return not self._iterator.has_next()

    @property
    def iterations_in_epoch(self) -> int:
        """Micro-batches of the current epoch that have been consumed."""
        return self._iterator.n if self._iterator is not None else self._resume_at * self.micro_batches.update_freq

    @property
    def updates_done(self) -> int:
        """Updates consumed since the start of training."""
        return (self.epoch - 1) * self.updates + self.iterations_in_epoch // self.micro_batches.update_freq

    def state_dict(self) -> dict[str, Any]:
        """The position, under fairseq's keys, of which only those that count epochs and updates are read again."""
        epoch = self.next_epoch_idx
        iterations = self.iterations_in_epoch if epoch == self.epoch else 0
        checks = {} if self.update_checks is None else {"update_checks": self.update_checks.state_dict()}
        return {
            **checks,
            "version": 2,
            "epoch": epoch,
            "iterations_in_epoch": iterations,
            "shuffle": True,
            "updates_in_epoch": iterations // self.micro_batches.update_freq,
            "updates_per_epoch": self.updates,
            "packing": self.micro_batches.mixture.packing,
            "newlines": self.micro_batches.collate.vocabulary.newlines,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the updates that `state` counts, even if the epoch's length has changed since.

        Raises:
            UserError: A text stream is packed or text is encoded in another way now, so that the data would be others.
        """
        done = (state["epoch"] - 1) * state["updates_per_epoch"] + state["updates_in_epoch"]
        if done:
            self._check_same_data(state)
        if self.update_checks is not None and "update_checks" in state:
            self.update_checks.load_state_dict(state["update_checks"])
        self.epoch, self._resume_at = done // self.updates + 1, done % self.updates
        self._iterator = None

    def _check_same_data(self, state: dict[str, Any]) -> None:
        anew = "or give --reset-dataloader to begin with the data anew."
        for stream, packing in self.micro_batches.mixture.packing.items():
            before = state.get("packing", {}).get(stream, "continuous")  # the only packing of version 0.1
            if before != packing:
                raise UserError(
                    f"The checkpoint was trained with rows of the text stream {stream} that are now others. To resume, "
                    f"set packing: {before} for it in the data YAML (it is {packing}); {anew}"
                )
        if state.get("newlines", False) != self.micro_batches.collate.vocabulary.newlines:
            before = json.dumps({"newline": LINE_END if state.get("newlines", False) else None})
            raise UserError(
                "The checkpoint was trained with another encoding of newlines. To resume, set it in the vocabulary's "
                f"{ENCODING_FILE}: {before}; {anew}"
            )


def _marked(batches: Iterable[Batch], progress: Progress) -> Iterator[Batch]:
    """Pass batches on, and tell `progress` before and after each is waited for."""
    iterator = iter(batches)
    while True:
        progress.mark(WAITING_FOR_DATA)
        batch = next(iterator, None)
        progress.mark()
        if batch is None:
            return
        yield batch
