"""The training objective (§2.3): next-token cross-entropy, weighted per token."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask
from fairseq.utils import get_perplexity

from kosmos_plugin.data.batch import Batch

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
        targets = sample["targets"]
        loss, nll = model(
            tokens=sample["tokens"],
            document_ids=sample["document_ids"],
            image_slots=sample["image_slots"],
            images=sample["images"],
            targets=targets,
        )
        stream_of_target = sample["streams"].unsqueeze(1).expand_as(targets)[targets.ne(self.padding_idx)]
        stream_loss = torch.zeros(len(self.streams), device=nll.device).index_add_(0, stream_of_target, nll)
        stream_count = torch.bincount(stream_of_target, minlength=len(self.streams))
        num_targets = len(nll)
        logging_output = {
            "loss": loss.detach(),
            "ntokens": num_targets,
            "nsentences": len(targets),
            "sample_size": num_targets,
            "images": len(sample["images"]),
            "positions": int(sample["document_ids"].ne(0).sum()),  # that are not padding
            "capacity": targets.numel(),
        }
        for number, name in enumerate(self.streams):
            logging_output[f"loss_{name}"] = stream_loss[number]
            logging_output[f"targets_{name}"] = stream_count[number]
        return loss, num_targets, logging_output

    @classmethod
    def reduce_metrics(cls, logging_outputs: Sequence[Mapping[str, Any]]) -> None:
        """Log over micro-batches and ranks: losses in bits, perplexities, speeds, and packing efficiency."""

        def total(key: str) -> float:
            return sum(float(log.get(key, 0)) for log in logging_outputs)

        targets = total("sample_size")
        # Even without a target: fairseq averages a missing total as -1, with the weight of one target.
        _log_loss("", total("loss"), targets)
        streams = [key.removeprefix("loss_") for key in logging_outputs[0] if key.startswith("loss_")]
        for name in streams:
            if count := total(f"targets_{name}"):
                _log_loss(f"_{name}", total(f"loss_{name}"), count)
            else:
                _forget_empty_meters(f"loss_{name}", f"ppl_{name}")
        metrics.log_speed("targets_per_second", targets, round=0)
        metrics.log_speed("images_per_second", total("images"), round=1)
        if capacity := total("capacity"):
            metrics.log_scalar("packing_efficiency", total("positions") / capacity, capacity, round=3)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True


def _log_loss(suffix: str, nll: float, targets: float) -> None:
    """Log the mean over `targets` targets in bits, and its perplexity."""
    loss = f"loss{suffix}"
    metrics.log_scalar(loss, nll / targets / math.log(2) if targets else math.nan, targets, round=3)
    metrics.log_derived(f"ppl{suffix}", lambda values: get_perplexity(values[loss].avg))


def _forget_empty_meters(loss: str, perplexity: str) -> None:
    """Remove the meters of a stream that has had no target in a log interval; otherwise fairseq prints None for them.

    It keeps the meters of the last interval, without their values.
    """
    for aggregator in metrics.get_active_aggregators():
        if loss in aggregator and not aggregator[loss].count:
            for name in {loss, perplexity} & aggregator.keys():
                del aggregator[name]
            aggregator.priorities = [entry for entry in aggregator.priorities if entry[2] in aggregator]
