"""Decides whether the optimizer takes a step: not with NaN or infinite numbers, and not at a spike where that is asked.

    the update's loss over all ranks ─┬─→ finite? ─→ no spike? ─→ step
    the norm of its gradients ────────┘      └────────────┴─────→ no step, but the update counts

Both are the same on all ranks, so all of them decide alike and none waits for another. They are read from the device
together with all else that is logged, before the step instead of after it: an update still reads the device twice.
"""

import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from fairseq.distributed.utils import get_global_rank
from fairseq.logging import metrics
from fairseq.optim import AMPOptimizer
from fairseq.trainer import Trainer

from kosmos_plugin.errors import UserError
from kosmos_plugin.fairseq_modules.criterion import forget_empty_meters, read_at_once
from kosmos_plugin.fairseq_modules.spikes import SpikeDetector

logger = logging.getLogger(__name__)

TO_GO_ON = (
    "To go on, take the cause out of the data, or start from an earlier checkpoint, with a lower --lr if the loss was "
    "growing"
)


class UpdateChecks:
    """The checks of a training's updates. Its state belongs to a checkpoint, so that a resumed run decides the same.

    Args:
        max_skipped: Updates with NaN or infinite numbers after which training stops.
        window: Updates that a spike is compared with.
        deviations: A spike is so many standard deviations above their mean.
        skip_spikes: Whether there is no step at a spike, either of the loss or of the norm.

    Attributes:
        skipped: Updates that had NaN or infinite numbers.
        spikes: Updates with a spike.
        logging_outputs: What this update's micro-batches log, of all ranks.
        skip_step: Whether this update has no step.
        is_finite: Whether this update's loss and norm are finite.

    Raises:
        UserError: A number is too small.
    """

    def __init__(self, max_skipped: int, window: int, deviations: float, skip_spikes: bool):
        if max_skipped < 0:
            raise UserError(f"--max-skipped-updates must be at least 0, not {max_skipped}.")
        if window < 2:
            raise UserError(f"--spike-window must be at least 2, not {window}.")
        if not deviations > 0:
            raise UserError(f"--spike-deviations must be above 0, not {deviations:g}.")
        self.max_skipped = max_skipped
        self.skip_spikes = skip_spikes
        self.detectors = {name: SpikeDetector(window, deviations) for name in ("loss", "gradient norm")}
        self.skipped = self.spikes = 0
        self.logging_outputs: list[dict[str, Any]] = []
        self.skip_step, self.is_finite = False, True

    def grad_norm(self, trainer: Trainer, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Check an update before its step.

        Args:
            trainer: The trainer.
            compute: Computes the norm of the gradients, and clips them. Loss scalers of fairseq raise OverflowError
                when they lower their scale, and FloatingPointError when it cannot be lower.

        Returns:
            The norm on the CPU, or 0 if the update is not finite.

        Raises:
            UserError: Too many updates had NaN or infinite numbers, or the loss scale is at its minimum.
        """
        update, overflow, at_minimum = trainer.get_num_updates() + 1, "", False
        try:
            norm = compute().cpu()
        except OverflowError as error:
            norm, overflow = torch.tensor(math.inf), f": {error}"
        except FloatingPointError:
            norm, at_minimum = torch.tensor(math.inf), True
        loss = self._take_loss()
        loss_is_finite = math.isfinite(loss)
        self.is_finite = loss_is_finite and math.isfinite(norm)
        if self.is_finite:
            self.skip_step = self._has_spike(update, loss, float(norm)) and self.skip_spikes
            return norm
        self.skip_step = True
        if at_minimum:
            raise UserError(
                f"Update {update}: gradients are NaN or infinite even with the lowest loss scale, --min-loss-scale. "
                + self._explain(trainer, "Without a scale they are finite: give a lower --min-loss-scale.")
                + f"\n{TO_GO_ON}, or give --bf16: with --fp16 numbers above 65,504 are infinite."
            )
        if loss_is_finite and (overflow or _lowers_scale(trainer.optimizer)):
            logger.info(f"Update {update} is skipped: gradients overflow{overflow}")
        else:
            self._skip(trainer, update, loss, float(norm))
        return torch.zeros(())

    def skip(self, optimizer: Any) -> None:
        """Do what remains of a skipped step, so that the next update starts as any other."""
        if isinstance(optimizer, AMPOptimizer):
            optimizer.scaler.update()  # lowers the scale after an overflow
        elif hasattr(optimizer, "_multiply_factor"):
            optimizer._multiply_factor = 1.0  # of --bf16: only a step resets it

    def log_counts(self) -> None:
        """Log how many updates were skipped and had spikes, if any; and no norm where there was none."""
        if not self.is_finite:
            forget_empty_meters("gnorm", "clip")
        for name, count in (("skipped_updates", self.skipped), ("spikes", self.spikes)):
            if count:
                metrics.log_scalar(name, count, weight=0, round=0, priority=1610)

    def state_dict(self) -> dict[str, Any]:
        """The state, of plain numbers."""
        last = {name: list(detector.values) for name, detector in self.detectors.items()}
        return {"skipped": self.skipped, "spikes": self.spikes, "last": last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint; with a smaller window, the last values count."""
        self.skipped, self.spikes = state["skipped"], state["spikes"]
        for name, detector in self.detectors.items():
            detector.values.clear()
            detector.values.extend(state["last"][name])

    def _take_loss(self) -> float:
        """The mean loss over the update's targets, in bits, which turns all that is logged into numbers.

        If it is not finite, it is taken from what is logged, where one NaN would make the means of an epoch NaN.
        """
        logs, self.logging_outputs = self.logging_outputs, []
        for log, numbers in zip(logs, read_at_once(logs), strict=True):
            log.update(numbers)  # in place: fairseq logs these dictionaries
        loss, targets = (sum(log[key] for log in logs) for key in ("loss", "sample_size"))
        if not math.isfinite(loss):
            for log in logs:
                log.update({key: 0 for key in log if key.startswith(("loss", "targets_", "sample_size"))})
        return loss / targets / math.log(2) if targets else 0.0

    def _has_spike(self, update: int, loss: float, norm: float) -> bool:
        spikes = {
            name: spike
            for (name, detector), value in zip(self.detectors.items(), (loss, norm), strict=True)
            if (spike := detector.check(value))
        }
        self.spikes += bool(spikes)
        if spikes and get_global_rank() == 0:
            consequence = "is skipped" if self.skip_spikes else "has a spike (--skip-spikes would skip it)"
            logger.warning(
                f"Update {update} {consequence}: {'; '.join(f'its {name} {spike}' for name, spike in spikes.items())}"
            )
        return bool(spikes)

    def _skip(self, trainer: Trainer, update: int, loss: float, norm: float) -> None:
        self.skipped += 1
        what = f"its loss is {loss}" if not math.isfinite(loss) else f"the norm of its gradients is {norm}"
        cause = self._explain(
            trainer, "Run again, it gives finite numbers: only the sum overflows, or a device computes wrongly."
        )
        if self.skipped > self.max_skipped:
            raise UserError(
                f"Update {update}: {what}, and --max-skipped-updates {self.max_skipped} allows no more such updates. "
                f"{cause}\n{TO_GO_ON}, or raise --max-skipped-updates."
            )
        if get_global_rank() == 0:
            logger.warning(
                f"Update {update} is skipped: {what} ({self.skipped} of --max-skipped-updates {self.max_skipped}). "
                f"{cause}"
            )

    @staticmethod
    def _explain(trainer: Trainer, otherwise: str) -> str:
        """The causes that are found in this update's data, and `otherwise` if there are none."""
        from kosmos_plugin.fairseq_modules.bad_documents import causes  # late: only bad updates need it

        batches = trainer.task.training_batches
        found = causes(trainer, batches.micro_batches, batches.updates_done - 1)
        return "\n  ".join(["Causes:", *found]) if found else otherwise


def _lowers_scale(optimizer: Any) -> bool:
    """Whether torch's loss scaler (--amp) answers gradients that are not finite."""
    return isinstance(optimizer, AMPOptimizer) and optimizer.scaler.is_enabled()
