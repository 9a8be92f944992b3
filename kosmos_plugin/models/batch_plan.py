"""What the model must know of a packed batch before it computes: sizes, and where everything is in the flat sequence.

All of it is computed on the CPU, in training by the processes that load data. Forward and backward pass then never wait
for the GPU to tell a number or an index. With `varlen` attention, sizes that vary from batch to batch are padded to one
of a few, and the padding has no weight: loss and gradients stay the same.
"""

from dataclasses import dataclass
from typing import Any, TypedDict

import torch
import torch.nn.functional as F

from kosmos_plugin.models.attention_plan import padded_size, plan_packed_attention


class BatchPlan(TypedDict):
    """Tensors, and numbers known to Python. M is the length of the flat sequence, n the number of targets."""

    attention: dict[str, Any]  # AttentionPlan.to_dict()
    slot_index: torch.Tensor  # int64 [N·K], the image slots' indices in the flat sequence; M for an image of padding
    target_index: torch.Tensor  # int64 [n], indices of the positions in the loss
    targets: torch.Tensor  # int64 [n], the next token at each
    target_streams: torch.Tensor  # int64 [n], the stream of each
    stream_targets: tuple[int, ...]  # number of targets of each stream, up to the last stream with any
    num_targets: int  # without padding, which comes last
    num_images: int  # without padding, which comes last
    num_positions: int  # of the batch, without padding


@dataclass(frozen=True)
class BatchPlanner:
    """Plans batches, whose tensors are on the CPU.

    Args:
        attention: "varlen", "documents" or "masked"; see `attention_plan`.
        pad: The id of `<pad>`.
        image_tokens: K; 0 if the model reads no images.
    """

    attention: str
    pad: int
    image_tokens: int

    def padded_images(self, num_images: int) -> int:
        """The number of images to which a batch is padded, with blank ones."""
        if self.attention != "varlen" or self.image_tokens == 0:
            return num_images
        return padded_size(num_images, 2)

    def __call__(
        self,
        document_ids: torch.Tensor,
        num_images: int,
        image_slots: torch.Tensor | None = None,
        targets: torch.Tensor | None = None,
        streams: torch.Tensor | None = None,
    ) -> BatchPlan:
        """Plan a batch from the tensors of `data.batch.Batch`.

        Args:
            document_ids: int64 [B, T].
            num_images: N, without padding.
            image_slots: bool [B, T]; None: no images.
            targets: int64 [B, T]; None: no loss.
            streams: int64 [B]; None: all rows are of stream 0.
        """
        attention = plan_packed_attention(document_ids, self.attention)
        length = len(attention.positions)
        none = torch.empty(0, dtype=torch.int64)
        slot_index = none if image_slots is None else attention.pack(image_slots)[0].nonzero().flatten()
        blank = (self.padded_images(num_images) - num_images) * self.image_tokens
        target_index = target_ids = target_streams = none
        if targets is not None:
            targets_M = attention.pack(targets)[0]
            target_index = targets_M.ne(self.pad).nonzero().flatten()
            target_ids = targets_M[target_index]
            if streams is not None:
                target_streams = attention.pack(streams.unsqueeze(1).expand_as(targets))[0, target_index]
            else:
                target_streams = torch.zeros_like(target_index)
        num_targets = len(target_index)
        if self.attention == "varlen":
            padding = padded_size(num_targets, 128) - num_targets
            # Indices that differ: their gradients, which are zero, are added to as many places.
            target_index = torch.cat((target_index, torch.arange(padding) % length))
            target_ids, target_streams = (F.pad(x, (0, padding)) for x in (target_ids, target_streams))
        return BatchPlan(
            attention=attention.to_dict(),
            slot_index=torch.cat((slot_index, slot_index.new_full((blank,), length))),
            target_index=target_index,
            targets=target_ids,
            target_streams=target_streams,
            stream_targets=tuple(torch.bincount(target_streams[:num_targets]).tolist()),
            num_targets=num_targets,
            num_images=num_images,
            num_positions=int(document_ids.ne(0).sum()),
        )
