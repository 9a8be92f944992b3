"""fairseq's view of the micro-batches: an epoch iterator whose whole state is how many updates were consumed.

A training resumed with another number of ranks, workers or another --update-freq goes on with the same documents.
"""

from fairseq.data.iterators import CountingIterator, EpochBatchIterating

from kosmos_plugin.data.micro_batches import MicroBatches
from kosmos_plugin.errors import UserError


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
