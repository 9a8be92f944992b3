"""`--profile-updates A-B`: a trace of these updates by torch's profiler, a file for each rank in the save directory."""

import logging
import re
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from kosmos_plugin.errors import UserError

logger = logging.getLogger(__name__)


class UpdateProfiler:
    """Profiles a range of updates, from the forward pass of the first to the optimizer step of the last.

    Args:
        updates: "A-B" or "A", numbers from 1 as in fairseq's log.

    Raises:
        UserError: `updates` is something else.
    """

    def __init__(self, updates: str):
        match = re.fullmatch(r"([1-9]\d*)(?:-([1-9]\d*))?", updates)
        self.first, self.last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if self.first > self.last:
            raise UserError(f"--profile-updates must be two numbers of updates such as 20-25, not {updates!r}.")
        self._profile: profile | None = None

    def before(self, update: int) -> None:
        """Call before each forward pass of an update. A resumed training profiles what is left of the range."""
        if self._profile is None and self.first <= update <= self.last:
            activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
            self._profile = profile(activities=activities, acc_events=True)
            self._profile.start()

    def after(self, update: int, folder: Path, rank: int) -> None:
        """Call after the optimizer step of an update. Writes the trace after the last."""
        if self._profile is None or update < self.last:
            return
        self._profile.stop()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"profile_{self.first}-{self.last}_rank{rank}.json.gz"
        self._profile.export_chrome_trace(str(path))
        self._profile, self.last = None, 0
        logger.info(f"wrote {path}: open it in https://ui.perfetto.dev or chrome://tracing")
