"""What a rank gets through, in fairseq's log: tokens and images per second, MFU, waiting for data, and memory.

    mfu                         useful operations (models.flops) per second / the GPU's peak in bf16
    tokens_per_second_per_rank  positions that are not padding, image embeddings included
    images_per_second_per_rank
    data_wait                   fraction of the time that the training waited for its next batch
    peak_memory_gib             the largest allocation since the start of the run (GPUs)

A rank is one GPU, or one process on CPUs. Rank 0 logs its own share; ranks have nearly equal work. The rates are over
all of the time, with validation and checkpoints, as are fairseq's own (wps, ups). MFU needs the peak of the GPU, so it
is not logged on CPUs and on GPUs that `gpus` does not list.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from fairseq.logging import metrics

from kosmos_plugin.data.batch import Batch
from kosmos_plugin.models.config import KosmosConfig

if TYPE_CHECKING:
    from kosmos_plugin.models.flops import UnitFlops

logger = logging.getLogger(__name__)

GIB = 2**30


@dataclass
class Work:
    """What was taken from the data."""

    seconds_waited: float = 0.0
    positions: int = 0  # that are not padding
    pairs: int = 0  # of a position with itself or an earlier one of its document
    targets: int = 0
    image_slots: int = 0


class MeasuredBatches:
    """Passes batches on, and counts their work and the time that the training waits for them.

    Args:
        pad: Marks positions of `targets` that are not in the loss.
    """

    def __init__(self, pad: int):
        self.pad = pad
        self._work = Work()

    def __call__(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        iterator = iter(batches)
        while True:
            start = time.perf_counter()
            batch = next(iterator, None)
            self._work.seconds_waited += time.perf_counter() - start
            if batch is None:
                return
            self._work.positions += int(torch.count_nonzero(batch["document_ids"]))
            self._work.pairs += attention_pairs(batch["document_ids"])
            self._work.targets += int(batch["targets"].ne(self.pad).sum())
            self._work.image_slots += int(batch["image_slots"].sum())
            yield batch

    def take(self) -> Work:
        """The work since the last call."""
        work, self._work = self._work, Work()
        return work


def attention_pairs(document_ids: torch.Tensor) -> int:
    """The number of pairs of a position with itself or an earlier one of its document, for ids int64 [B, T]."""
    rows = torch.arange(len(document_ids)).unsqueeze(1)
    unique = document_ids + rows * (document_ids.max() + 1)
    lengths = unique[document_ids > 0].bincount()
    return int((lengths * (lengths + 1) // 2).sum())


class Throughput:
    """Logs what a rank gets through.

    Args:
        config: The model.
        vocabulary_size: V.
        pad: The id of `<pad>`.
        peak_flops: Operations per second at most; None: by the name of the GPU.
    """

    def __init__(self, config: KosmosConfig, vocabulary_size: int, pad: int, peak_flops: float | None = None):
        self.config, self.vocabulary_size, self.pad = config, vocabulary_size, pad
        self._peak_flops = peak_flops
        self._flops: UnitFlops | None = None
        self._memory = 0  # bytes
        self._device: torch.device | None = None

    def update_done(self, device: torch.device) -> None:
        """Call after each optimizer step: fairseq resets torch's peak of memory before it logs."""
        if device.type == "cuda":
            self._memory = max(self._memory, torch.cuda.max_memory_allocated(device))
        if self._device is None:
            self._device = device
            self._find_peak(device)

    def _find_peak(self, device: torch.device) -> None:
        from kosmos_plugin.gpus import find_gpu  # late: every run of fairseq imports this module
        from kosmos_plugin.models.flops import unit_flops, without_weights

        if device.type == "cuda" and self._peak_flops is None:
            name = torch.cuda.get_device_name(device)
            if gpu := find_gpu(name):
                self._peak_flops = gpu.tflops * 1e12
            else:
                logger.info(f"mfu is not logged, as the peak speed of {name} is unknown (kosmos_plugin.gpus)")
        if self._peak_flops is not None:
            self._flops = unit_flops(without_weights(self.config, self.vocabulary_size, self.pad))

    def log(self, work: Work) -> None:
        """Log the work since the last call."""
        images = work.image_slots // self.config.image_tokens
        metrics.log_speed("tokens_per_second_per_rank", work.positions, priority=1510, round=0)
        metrics.log_speed("images_per_second_per_rank", images, priority=1520, round=1)
        metrics.log_speed("data_wait", work.seconds_waited, priority=1530, round=3)
        if self._memory:
            metrics.log_scalar("peak_memory_gib", self._memory / GIB, weight=0, priority=1540, round=1)
        if self._flops is not None and (peak := self._peak_flops) is not None:
            flops = self._flops.total(work.positions, work.pairs, work.targets, images)
            metrics.log_speed("mfu", flops / peak, priority=1500, round=3)
