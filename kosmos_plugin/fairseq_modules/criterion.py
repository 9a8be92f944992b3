"""The training objective (§2.3): next-token cross-entropy on the targets that count, weighted per token."""

import math
from dataclasses import dataclass

import torch
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import meters, metrics

from kosmos_plugin.data.batch import Batch


@dataclass
class MultimodalCrossEntropyConfig(FairseqDataclass):
    """No options: the loss is the sum of nll over counted targets divided by their number over all ranks."""


@register_criterion("multimodal_cross_entropy", dataclass=MultimodalCrossEntropyConfig)
class MultimodalCrossEntropyCriterion(FairseqCriterion):
    """Sum of nll over the targets that are not `pad`; fairseq divides by their number over all ranks (sample size).

    The model makes logits at those positions alone, some at a time. Each stream's loss is logged over that stream's own
    targets, in bits.
    """

    def __init__(self, task):
        super().__init__(task)
        self.streams = task.stream_names

    def forward(self, model, sample: Batch, reduce: bool = True) -> tuple[torch.Tensor, int, dict]:
        """(summed loss, number of counted targets, logging output): fairseq's contract."""
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
            "positions": int(sample["document_ids"].ne(0).sum()),
            "capacity": targets.numel(),
        }
        for number, name in enumerate(self.streams):
            logging_output[f"loss_{name}"] = stream_loss[number]
            logging_output[f"targets_{name}"] = stream_count[number]
        return loss, num_targets, logging_output

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict]) -> None:
        """Aggregate over micro-batches and ranks: losses in bits, perplexities base 2, speeds."""

        def total(key):
            return sum(float(log.get(key, 0)) for log in logging_outputs)

        targets = total("sample_size")
        if targets:
            metrics.log_scalar("loss", total("loss") / targets / math.log(2), targets, round=3)
            metrics.log_derived("ppl", lambda values: meters.safe_round(2 ** values["loss"].avg, 2))
        streams = [key.removeprefix("loss_") for key in logging_outputs[0] if key.startswith("loss_")]
        for name in streams:
            if count := total(f"targets_{name}"):
                metrics.log_scalar(f"loss_{name}", total(f"loss_{name}") / count / math.log(2), count, round=3)
                metrics.log_derived(f"ppl_{name}", _perplexity(f"loss_{name}"))
        metrics.log_speed("targets_per_second", targets, round=0)
        metrics.log_speed("images_per_second", total("images"), round=1)
        if capacity := total("capacity"):
            metrics.log_scalar("filled", total("positions") / capacity, capacity, round=3)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True


def _perplexity(loss: str):
    return lambda values: meters.safe_round(2 ** values[loss].avg, 2)
