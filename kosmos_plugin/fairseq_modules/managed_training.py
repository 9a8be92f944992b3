"""fairseq's `main` of a training, and around it what keeps a long one going.

- SIGTERM, SIGUSR1 or Ctrl-C on any rank: all ranks end after the same update, with a checkpoint and without validation.
  The request travels with the statistics that fairseq sums over the ranks in every update and validation step.
- A training in which nothing moves any more ends (`stall_watch`).
- The process ends when its last checkpoint is written (--async-save).
- A training that is complete and is started again does nothing; fairseq would train for one more update.

The exit status is 75 (EX_TEMPFAIL: the same command goes on), or 130 after Ctrl-C. Under torchrun, which starts ranks
again that end with another status than 0, it is 0, and the file that KOSMOS_STOPPED_FILE names tells that the training
is not complete.
"""

import functools
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from fairseq import checkpoint_utils
from fairseq.distributed import utils as distributed_utils
from omegaconf import OmegaConf

from kosmos_plugin.errors import UserError, print_user_errors_plainly
from kosmos_plugin.fairseq_modules import stop_signals
from kosmos_plugin.fairseq_modules.stall_watch import BETWEEN_UPDATES, StallWatch

logger = logging.getLogger(__name__)

TASK = "kosmos_multimodal"
STOPPED = 75  # EX_TEMPFAIL of sysexits.h
STOPPED_FILE = "KOSMOS_STOPPED_FILE"


class ValidationStopped(Exception):
    """A signal asked the training to stop while it validated; all ranks raise it in the same step."""


def apply() -> None:
    """Make `call_main`, which starts the ranks of every fairseq command, manage trainings of this task."""
    distributed_utils.call_main = _managing(distributed_utils.call_main)


def _managing(call_main: Any) -> Any:
    @functools.wraps(call_main)
    def wrapper(cfg: Any, main: Any, **kwargs: Any) -> None:
        is_training = "validate_and_save" in getattr(main, "__globals__", {})
        if not is_training or getattr(getattr(cfg, "task", None), "_name", None) != TASK:
            call_main(cfg, main, **kwargs)
            return
        _refuse_fairseqs_asynchronous_writing(cfg)
        training = ManagedTraining(main)
        _report(stopped=False)
        call_main(cfg, training, **kwargs)
        if training.stopped:
            _report(stopped=True)
            if not _under_torchrun():
                raise SystemExit(_exit_status())

    return wrapper


def _refuse_fairseqs_asynchronous_writing(cfg: Any) -> None:
    # Here, as without iopath fairseq ends before it sets up the task, with status 0.
    if OmegaConf.select(cfg, "checkpoint.write_checkpoints_asynchronously"):
        print_user_errors_plainly()
        raise UserError(
            "--write-checkpoints-asynchronously never writes checkpoint_last.pt, from which a training resumes: "
            "give --async-save instead."
        )


@contextmanager
def _writing_completed() -> Iterator[None]:
    """Wait at the end for the checkpoint that is being written. After another error, an error of it is only logged."""
    from kosmos_plugin.checkpoints import background  # imported here: every run of fairseq imports this module

    try:
        yield
    except BaseException:
        try:
            background.wait()
        except UserError as error:
            logger.error(error)
        raise
    background.wait()


def _under_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def _report(stopped: bool) -> None:
    """Create or remove the file that tells that the training stopped before it was complete."""
    path = os.environ.get(STOPPED_FILE)
    if path and os.environ.get("LOCAL_RANK", "0") == "0":
        if stopped:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).touch()
        else:
            Path(path).unlink(missing_ok=True)


def _exit_status() -> int:
    return 128 + signal.SIGINT if stop_signals.received() == signal.SIGINT else STOPPED


class ManagedTraining:
    """Stands in for fairseq's `main` of a training, on each rank.

    Args:
        main: `fairseq_cli.train.main`. The functions it calls are replaced in its module while it runs: that is another
            module if it was started as `python -m fairseq_cli.train`.

    Attributes:
        stopped: Whether it was asked to stop and did, before it was complete.
    """

    def __init__(self, main: Callable[..., None]):
        self.main = main
        self.stopped = False
        self._watch: StallWatch | None = None

    def __call__(self, cfg: Any, **kwargs: Any) -> None:
        functions = self.main.__globals__
        replaced = {name: functions[name] for name in ("train", "validate_and_save")}
        functions["train"] = functools.partial(self._train, replaced["train"])
        functions["validate_and_save"] = functools.partial(self._validate_and_save, replaced["validate_and_save"])
        try:
            with stop_signals.listening(), _writing_completed():
                self.main(cfg, **kwargs)
        finally:
            if self._watch is not None:
                self._watch.close()
            functions.update(replaced)
        if self.stopped and multiprocessing.parent_process() is not None:  # fairseq started it, one process per GPU
            raise SystemExit(_exit_status())

    def _train(self, train: Any, cfg: Any, trainer: Any, task: Any, epoch_itr: Any) -> tuple[list[float | None], bool]:
        """fairseq's function of this name: train for an epoch."""
        if _is_complete(cfg, trainer):
            logger.info(f"The training is complete: it has reached --max-update {cfg.optimization.max_update}.")
            return [None], True
        if self._watch is None and task.cfg.stall_timeout > 0:
            self._watch = _started_watch(cfg, task)
        return train(cfg, trainer, task, epoch_itr)

    def _validate_and_save(
        self,
        validate_and_save: Any,
        cfg: Any,
        trainer: Any,
        task: Any,
        epoch_itr: Any,
        valid_subsets: list[str],
        end_of_epoch: bool,
    ) -> tuple[list[float | None], bool]:
        """fairseq's function of this name, called after each update."""
        task.progress.mark(BETWEEN_UPDATES)
        if not task.stop_agreed:
            try:
                return validate_and_save(cfg, trainer, task, epoch_itr, valid_subsets, end_of_epoch)
            except ValidationStopped:
                task.progress.mark(BETWEEN_UPDATES)
        received = stop_signals.received()
        reason = received.name if received is not None else "a signal to another rank"
        logger.info(f"Stopping after update {trainer.get_num_updates()}: {reason}")
        self.stopped = not _is_complete(cfg, trainer)
        options = OmegaConf.merge(cfg.checkpoint, {"no_last_checkpoints": False})  # where the next start goes on
        checkpoint_utils.save_checkpoint(options, trainer, epoch_itr, None)
        return [None], True


def _is_complete(cfg: Any, trainer: Any) -> bool:
    return 0 < cfg.optimization.max_update <= trainer.get_num_updates()


def _started_watch(cfg: Any, task: Any) -> StallWatch:
    options = cfg.distributed_training
    ranks, timeout = distributed_utils.get_global_world_size(), task.cfg.stall_timeout
    if ranks > 1:
        # A collective operation that times out names no rank, so it must not before the watch does.
        for group in (dist.group.WORLD, distributed_utils.get_global_group()):
            dist.distributed_c10d._set_pg_timeout(timedelta(seconds=timeout + 300), group)
    watch = StallWatch(
        task.progress, timeout, distributed_utils.get_global_rank(), ranks, options.distributed_init_method or ""
    )
    watch.start()
    return watch
