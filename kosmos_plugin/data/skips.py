"""Broken records and images of training data: skipped, counted over all workers, logged, and in the end fatal."""

import logging
import multiprocessing

from kosmos_plugin.errors import UserError

logger = logging.getLogger(__name__)

# Below this many, a rate says little: one broken image among the first ten is no reason to stop.
_MIN_SEEN = 200


class SkipCounter:
    """Counts what was read and what was skipped; `max_rate` is the share of skipped ones that ends the training."""

    def __init__(self, max_rate: float):
        self.max_rate = max_rate
        self._seen = multiprocessing.Value("q", 0)
        self._skipped = multiprocessing.Value("q", 0)

    @property
    def skipped(self) -> int:
        """How many records and images were skipped so far, in all worker processes of this rank."""
        return self._skipped.value

    def count(self, seen: int) -> None:
        """Note that `seen` more records or images were read (broken ones included)."""
        with self._seen:
            self._seen.value += seen

    def skip(self, name: str, reason: Exception) -> None:
        """Note and log one that is skipped. Raises UserError once too many are."""
        with self._skipped:
            self._skipped.value += 1
        seen, skipped = self._seen.value, self._skipped.value
        logger.warning("skipped %s: %s (%d of %d so far)", name, reason, skipped, seen)
        if seen >= _MIN_SEEN and skipped > self.max_rate * seen:
            raise UserError(
                f"{skipped:,} of {seen:,} records and images are broken, more than --max-skipped-rate "
                f"{self.max_rate:g} allows; the last is {name}: {reason}"
            )
