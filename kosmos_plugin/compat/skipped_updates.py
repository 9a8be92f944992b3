"""fairseq ends a training at the first NaN, and does not count an update whose gradients overflow in 16 bits.

Its trainer raises an error where the norm of the gradients is not finite: the weights at that moment are saved, but not
the position in the data, and a report names the module of the model, not the data. Where --fp16's loss scale was too
high it goes on to the next batches without counting the update, so that from then on the number of updates and the
position in the data differ; and it saves, validates and logs by that number twice.

With this patch a task decides what becomes of an update: one with `update_checks`
(`fairseq_modules.update_checks.UpdateChecks`) gets the norm and what the ranks logged, before the optimizer's step. An
update whose step is skipped is counted as any other. Other tasks keep fairseq's behavior.
"""

import functools
from typing import Any

import torch
from fairseq.trainer import Trainer

_clip_grad_norm = Trainer.clip_grad_norm
_aggregate_logging_outputs = Trainer._aggregate_logging_outputs
_reduce_and_log_stats = Trainer._reduce_and_log_stats


def is_needed() -> bool:
    """Return True: fairseq's trainer always decides by itself."""
    return True


def apply() -> None:
    """Replace three methods of fairseq's trainer."""
    Trainer.clip_grad_norm = clip_grad_norm
    Trainer._aggregate_logging_outputs = aggregate_logging_outputs
    Trainer._reduce_and_log_stats = reduce_and_log_stats


def clip_grad_norm(self: Trainer, clip_norm: float) -> torch.Tensor:
    """Clip the gradients; the norm that is returned is finite, or fairseq would raise an error."""
    compute = functools.partial(_clip_grad_norm, self, clip_norm)
    checks = getattr(self.task, "update_checks", None)
    return compute() if checks is None else checks.grad_norm(self, compute)


def aggregate_logging_outputs(
    self: Trainer, logging_outputs: list[dict[str, Any]], *extra_stats_to_sum: Any, ignore: bool = False
) -> tuple[list[dict[str, Any]], list[Any]]:
    """Sum over the ranks; called before `clip_grad_norm` if there are several."""
    summed, extra = _aggregate_logging_outputs(self, logging_outputs, *extra_stats_to_sum, ignore=ignore)
    checks = getattr(self.task, "update_checks", None)
    if checks is not None:
        checks.logging_outputs = summed
    return summed, extra


def reduce_and_log_stats(
    self: Trainer, logging_outputs: list[dict[str, Any]], sample_size: Any, grad_norm: torch.Tensor | None = None
) -> dict[str, Any]:
    """Log an update, or a validation, which has no norm; one that was not finite is not averaged with the others."""
    checks = getattr(self.task, "update_checks", None)
    if checks is not None and not checks.is_finite:
        grad_norm = None
    return _reduce_and_log_stats(self, logging_outputs, sample_size, grad_norm)
