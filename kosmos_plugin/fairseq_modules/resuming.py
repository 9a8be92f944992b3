"""`--resume-newest-whole`: a training whose last checkpoint is damaged goes on from the newest whole one.

Rank 0 puts that in the place of the last one before any rank reads it, so that all ranks do the same, and a later start
without the option too.
"""

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from fairseq import checkpoint_utils
from fairseq.distributed import utils as distributed_utils
from fairseq.file_io import PathManager

from kosmos_plugin.checkpoints.newest import newest_whole, problem_of
from kosmos_plugin.errors import UserError

logger = logging.getLogger(__name__)

_load_checkpoint = checkpoint_utils.load_checkpoint


def apply() -> None:
    """Make fairseq resume with `load_checkpoint`."""
    checkpoint_utils.load_checkpoint = load_checkpoint


def load_checkpoint(cfg: Any, trainer: Any, **arguments: Any) -> Any:
    """fairseq's function of this name, which all ranks call.

    Raises:
        UserError: With --resume-newest-whole, the last checkpoint is damaged and no other is whole.
    """
    if getattr(trainer.task.cfg, "resume_newest_whole", False) and cfg.restore_file == "checkpoint_last.pt":
        problem = None
        if trainer.data_parallel_rank == 0:
            try:
                replace_if_damaged(Path(cfg.save_dir) / f"checkpoint_last{trainer.checkpoint_suffix}.pt")
            except UserError as error:
                problem = str(error)
        if trainer.data_parallel_world_size > 1:
            group, device = trainer.data_parallel_process_group, trainer.device
            problem = distributed_utils.broadcast_object(problem, src_rank=0, group=group, dist_device=device)
        if problem is not None:
            raise UserError(problem)
    return _load_checkpoint(cfg, trainer, **arguments)


def replace_if_damaged(last: Path) -> None:
    """Copy the newest whole checkpoint over the last one, if that is damaged, and log it.

    Damaged ones keep their content under another name, so that `--keep-interval-updates` and its like do not count
    them.

    Raises:
        UserError: There is no whole one, or it cannot be copied.
    """
    if not last.is_file() or (problem := problem_of(last)) is None:
        return
    found = newest_whole(last)
    if found is None:
        raise UserError(f"{problem} {no_whole_one(last)}")
    logger.warning(f"{problem} Going on from {found.path}, of update {found.updates:,} (--resume-newest-whole).")
    with suppress(OSError):  # a file system without links: then it is only replaced
        _aside(last).unlink(missing_ok=True)
        os.link(last, _aside(last))
    try:
        PathManager.copy(str(found.path), str(last), overwrite=True)
    except OSError as error:
        raise UserError(f"{found.path} could not be copied to {last}: {error.strerror}.") from None
    for path, problem in found.damaged.items():
        os.replace(path, _aside(path))
        logger.warning(f"{problem} Its name is now {_aside(path).name}.")


def no_whole_one(last: Path) -> str:
    """What to do if no checkpoint is whole."""
    return f"There is no whole checkpoint beside it: remove {last} to start anew."


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.damaged")
