"""What comes before and after fairseq's `main`: an option that it must not see, and waiting for the last checkpoint."""

import functools
import logging
from collections.abc import Callable
from typing import Any

from fairseq.distributed import utils as distributed_utils
from omegaconf import OmegaConf

from kosmos_plugin.errors import UserError, print_user_errors_plainly

logger = logging.getLogger(__name__)

_call_main = distributed_utils.call_main


def apply() -> None:
    """Make fairseq's commands call `run` in each of their processes."""
    distributed_utils.call_main = call_main


def call_main(cfg: Any, main: Callable[..., Any], **arguments: Any) -> None:
    """fairseq's function of this name, which starts `main` on every rank."""
    _call_main(cfg, functools.partial(run, main), **arguments)


def run(main: Callable[..., Any], cfg: Any, **arguments: Any) -> None:
    """Run fairseq's `main` on this rank until its last checkpoint is written.

    Raises:
        UserError: The training asks for fairseq's asynchronous writing, or its last checkpoint could not be written.
    """
    _refuse_fairseqs_asynchronous_writing(cfg)
    try:
        main(cfg, **arguments)
    except BaseException:
        try:
            _wait_for_checkpoint()
        except UserError as error:
            logger.error(error)
        raise
    _wait_for_checkpoint()


def _wait_for_checkpoint() -> None:
    from kosmos_plugin.checkpoints import background  # imported here: every run of fairseq imports this module

    background.wait()


def _refuse_fairseqs_asynchronous_writing(cfg: Any) -> None:
    # Here, as without iopath fairseq ends before it sets up the task, with status 0.
    if OmegaConf.select(cfg, "task._name") != "kosmos_multimodal":
        return
    if OmegaConf.select(cfg, "checkpoint.write_checkpoints_asynchronously"):
        print_user_errors_plainly()
        raise UserError(
            "--write-checkpoints-asynchronously never writes checkpoint_last.pt, from which a training resumes: "
            "give --async-save instead."
        )
