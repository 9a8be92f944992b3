"""The training objective (§2.3): next-token cross-entropy, weighted per token."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask
from fairseq.utils import get_perplexity

from kosmos_plugin.data.batch import Batch
from kosmos_plugin.fairseq_modules import stop_signals

if TYPE_CHECKING:
    from kosmos_plugin.models.batch_plan import BatchPlan

CRITERION = "multimodal_cross_entropy"


@dataclass
class MultimodalCrossEntropyConfig(FairseqDataclass):
    """The criterion has no options."""


@register_criterion(CRITERION, dataclass=MultimodalCrossEntropyConfig)
class MultimodalCrossEntropyCriterion(FairseqCriterion):
    """Sum of the negative log-likelihoods (nll) of all targets that are not `pad`.

    fairseq divides it by the number of those targets over all ranks (the sample size). The model computes logits at
    their positions only, in chunks. Each stream's loss is logged too, per target of that stream, in bits.
    """

    def __init__(self, task: FairseqTask):
        super().__init__(task)
        self.streams: list[str] = task.stream_names

    def forward(
        self, model: torch.nn.Module, sample: Batch, reduce: bool = True
    ) -> tuple[torch.Tensor, int, dict[str, Any]]:
        """Compute the loss of a micro-batch; called by fairseq. `reduce` has no effect.

        Returns:
            The summed loss, the number of tokens in the loss, and what to log.
        """
        inputs = {name: sample[name] for name in ("tokens", "document_ids", "image_slots", "images", "targets")}
        plan = sample.get("plan") or self._plan(sample)
        loss, nll = model(**inputs, plan=plan)
        stream_losses = torch.zeros(len(self.streams), device=nll.device).index_add_(0, plan["target_streams"], nll)
        targets = sample["targets"]
        logging_output = {
            "loss": loss.detach(),
            "ntokens": plan["num_targets"],
            "nsentences": len(targets),
            "sample_size": plan["num_targets"],
            "images": plan["num_images"],
            "positions": plan["num_positions"],
            "capacity": targets.numel(),
            "stop_requests": int(stop_signals.received() is not None),  # the sum over the ranks tells all of them
        }
        counts = itertools.chain(plan["stream_targets"], itertools.repeat(0))
        for name, stream_loss, count in zip(self.streams, stream_losses, counts, strict=False):
            logging_output[f"loss_{name}"] = stream_loss
            logging_output[f"targets_{name}"] = count
        # The gradient of an infinite loss can be finite. Made NaN, it tells all ranks, and no GPU is waited for.
        loss = loss * torch.where(logging_output["loss"].isfinite(), 1.0, math.nan)
        return loss, plan["num_targets"], logging_output

    def _plan(self, sample: Batch) -> "BatchPlan":
        """The plan of a batch that came without one."""
        from kosmos_plugin.models.attention_plan import moved
        from kosmos_plugin.models.batch_plan import BatchPlanner

        planner = BatchPlanner("documents", self.padding_idx, image_tokens=0)
        plan = planner(
            sample["document_ids"].cpu(),
            len(sample["images"]),
            sample["image_slots"].cpu(),
            sample["targets"].cpu(),
            sample["streams"].cpu(),
        )
        return moved(plan, sample["tokens"].device)

    @classmethod
    def reduce_metrics(cls, logging_outputs: Sequence[Mapping[str, Any]]) -> None:
        """Log over micro-batches and ranks: losses in bits, perplexities, speeds, and packing efficiency."""
        logging_outputs = read_at_once(logging_outputs)

        def total(key: str) -> float:
            return sum(log.get(key, 0) for log in logging_outputs)

        targets = total("sample_size")
        # Even without a target: fairseq averages a missing total as -1, with the weight of one target.
        _log_loss("", total("loss"), targets)
        streams = [key.removeprefix("loss_") for key in logging_outputs[0] if key.startswith("loss_")]
        for name in streams:
            if count := total(f"targets_{name}"):
                _log_loss(f"_{name}", total(f"loss_{name}"), count)
            else:
                forget_empty_meters(f"loss_{name}", f"ppl_{name}")
        metrics.log_speed("targets_per_second", targets, round=0)
        metrics.log_speed("images_per_second", total("images"), round=1)
        if capacity := total("capacity"):
            metrics.log_scalar("packing_efficiency", total("positions") / capacity, capacity, round=3)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True


def read_at_once(logging_outputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Turn all tensors, which have one element each, into numbers, waiting for the device once."""
    tensors = [value for log in logging_outputs for value in log.values() if isinstance(value, torch.Tensor)]
    numbers = iter(torch.stack([tensor.double() for tensor in tensors]).tolist() if tensors else [])
    return [
        {key: next(numbers) if isinstance(value, torch.Tensor) else value for key, value in log.items()}
        for log in logging_outputs
    ]


def _log_loss(suffix: str, nll: float, targets: float) -> None:
    """Log the mean over `targets` targets in bits, and its perplexity."""
    loss = f"loss{suffix}"
    metrics.log_scalar(loss, nll / targets / math.log(2) if targets else math.nan, targets, round=3)
    metrics.log_derived(f"ppl{suffix}", lambda values: get_perplexity(values[loss].avg))


def forget_empty_meters(mean: str, *derived: str) -> None:
    """Remove the meter of a mean that has had no value in a log interval, and those that follow from it.

    fairseq keeps the meters of the last interval, without their values, and would print None for them.
    """
    for aggregator in metrics.get_active_aggregators():
        if mean in aggregator and not aggregator[mean].count:
            for name in {mean, *derived} & aggregator.keys():
                del aggregator[name]
            aggregator.priorities = [entry for entry in aggregator.priorities if entry[2] in aggregator]
