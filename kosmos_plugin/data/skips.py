"""Broken records and images in training data: skipped, counted over all workers and logged; too many are an error."""

import logging
import multiprocessing

from kosmos_plugin.errors import UserError

logger = logging.getLogger(__name__)

# Records and images before a rate means anything: one broken image among the first ten is not a reason to stop.
_MIN_SEEN = 200


class SkipCounter:
    """Counts the records and images that were read, and those that were skipped, in all workers of this rank.

    Args:
        max_rate: Skipped fraction above which training stops.
    """

    def __init__(self, max_rate: float):
        self.max_rate = max_rate
        self._seen = multiprocessing.Value("q", 0)
        self._skipped = multiprocessing.Value("q", 0)
        self._elsewhere = multiprocessing.Value("q", 0)

    @property
    def skipped(self) -> int:
        """Records and images skipped so far; of other ranks only the records that were known to be unusable."""
        return self._skipped.value + self._elsewhere.value

    def count_elsewhere(self, skipped: int) -> None:
        """Count `skipped` records that another rank skips."""
        with self._elsewhere:
            self._elsewhere.value += skipped

    def count(self, seen: int) -> None:
        """Count `seen` more records or images as read, broken ones included."""
        with self._seen:
            self._seen.value += seen

    def skip(self, name: str, reason: Exception) -> None:
        """Count and log that the record `name` is skipped.

        Raises:
            UserError: More than `max_rate` of all were skipped.
        """
        with self._skipped:
            self._skipped.value += 1
        seen, skipped = self._seen.value, self._skipped.value
        logger.warning("skipped %s: %s (%d of %d so far)", name, reason, skipped, seen)
        if seen >= _MIN_SEEN and skipped > self.max_rate * seen:
            raise UserError(
                f"{skipped:,} of {seen:,} records and images are broken, more than --max-skipped-rate "
                f"{self.max_rate:g} allows; the last is {name}: {reason}"
            )
