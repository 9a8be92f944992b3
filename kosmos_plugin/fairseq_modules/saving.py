"""How fairseq writes checkpoints for this task: `--async-save`, errors that say what is missing, safe deletion.

fairseq's `save_checkpoint` decides which files to write. Here it only says so, to a stand-in for its trainer:

    wait for the write in flight → fairseq's `save_checkpoint` → state in host memory, names of files
        → write under the first name, copy to the others, delete old ones       at once, or in a thread (--async-save)
"""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from fairseq import checkpoint_utils, utils
from fairseq.file_io import PathManager

from kosmos_plugin.checkpoints import background
from kosmos_plugin.checkpoints.snapshot import snapshot
from kosmos_plugin.checkpoints.writing import write_checkpoint
from kosmos_plugin.fairseq_modules.retention import delete_old

logger = logging.getLogger(__name__)

_save_checkpoint = checkpoint_utils.save_checkpoint


def apply() -> None:
    """Make fairseq save with `save_checkpoint`."""
    checkpoint_utils.save_checkpoint = save_checkpoint


def save_checkpoint(cfg: Any, trainer: Any, epoch_itr: Any, val_loss: float | None) -> str | None:
    """fairseq's function of this name, which all ranks call.

    Returns:
        The path of the first file on a rank that writes, which with --async-save is not there yet; else None.

    Raises:
        UserError: This or, with --async-save, an earlier checkpoint could not be written.
    """
    background.wait()  # also so that there is one snapshot in memory at a time
    in_background = getattr(trainer.task.cfg, "async_save", False)
    divided = getattr(trainer.task.cfg, "fully_shard", False)
    recorder = _Recorder(trainer, snapshot if in_background or divided else utils.move_to_cpu, divided)
    begin = time.perf_counter()
    with recorder.in_use():
        path = _save_checkpoint(_deleting_nothing(cfg), recorder, epoch_itr, val_loss)
    if divided and not cfg.no_save and not recorder.has_state:
        recorder.state_dict()  # nothing is to be written, which the other ranks do not know
    if not recorder.paths:  # another rank writes, or nothing is to be written
        return path
    updates, end_of_epoch = trainer.get_num_updates(), epoch_itr.end_of_epoch()
    about = f"(epoch {epoch_itr.epoch} @ {updates} updates, score {val_loss})"
    suffix, options = trainer.checkpoint_suffix, SimpleNamespace(**cfg)
    state, paths = recorder.state, recorder.paths

    def write() -> None:
        write_checkpoint(state, paths)
        logger.info(f"Saved checkpoint {paths[0]} {about} (writing took {time.perf_counter() - begin} seconds)")
        delete_old(options, suffix, end_of_epoch, paths)

    if in_background:
        logger.info(
            f"Writing checkpoint {path} {about} (the training paused for {time.perf_counter() - begin} seconds)"
        )
        background.start(write)
    else:
        write()
    return path


def _deleting_nothing(cfg: Any) -> SimpleNamespace:
    """fairseq's options without those that delete by number. Of the best it deletes none before there is one more."""
    return SimpleNamespace(**{**cfg, "keep_interval_updates": -1, "keep_last_epochs": -1})


class _Recorder:
    """Stands for the trainer in fairseq's function, and notes what that would write.

    Args:
        trainer: fairseq's trainer.
        to_host: Takes the trainer's state to host memory.
        divided: Whether weights are divided among the ranks, so that those that do not write give their parts.
    """

    def __init__(self, trainer: Any, to_host: Any, divided: bool):
        self._trainer, self._to_host = trainer, to_host
        self.always_call_state_dict_during_save_checkpoint = divided
        self.has_state = False  # whether this rank has collected the state, or given its parts
        self.state: dict[str, Any] = {}
        self.paths: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trainer, name)

    def state_dict(self) -> None:
        """Give the writing rank this one's parts of the state."""
        snapshot(self._trainer.state_dict(), keep=False)
        self.has_state = True

    def save_checkpoint(self, filename: str, extra_state: dict[str, Any]) -> str:
        """Note a checkpoint's content and its first file."""
        self.state, self.paths = self._to_host(self._trainer.state_dict()), [filename]
        self.state["extra_state"].update(extra_state)
        self.has_state = True
        return os.path.abspath(filename)

    def copy(self, src_path: str, dst_path: str, overwrite: bool = False) -> bool:
        """Note a further file."""
        self.paths.append(dst_path)
        return True

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Note copies, and leave out fairseq's message that it has saved."""
        copy, PathManager.copy = PathManager.copy, self.copy
        checkpoint_utils.logger.addFilter(_is_not_about_the_end)
        try:
            yield
        finally:
            PathManager.copy = copy
            checkpoint_utils.logger.removeFilter(_is_not_about_the_end)


def _is_not_about_the_end(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Saved checkpoint")
