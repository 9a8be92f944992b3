"""Rows → Batch: the tensors that pass from data to model, and nothing else."""

import math
from typing import Any, Protocol, TypedDict, cast

import numpy as np
import torch
from typing_extensions import NotRequired

from kosmos_plugin.data.packing import PackedRow
from kosmos_plugin.data.samples import Sample
from kosmos_plugin.data.skips import SkipCounter
from kosmos_plugin.errors import UnusableData
from kosmos_plugin.images import decode_image
from kosmos_plugin.vocabulary import Vocabulary


class Batch(TypedDict):
    """B rows of T positions, with N images of S × S pixels."""

    tokens: torch.Tensor  # int64 [B, T]: token ids; at image slots an id whose value never matters
    targets: torch.Tensor  # int64 [B, T]: the next token, or `pad` where it is not in the loss
    document_ids: torch.Tensor  # int64 [B, T]: positions attend to each other only where equal; 0 is padding
    image_slots: torch.Tensor  # bool [B, T]: whether an image embedding replaces the token's
    images: torch.Tensor  # uint8 [N, 3, S, S]: row-major in the order of their slots, `image_tokens` slots each
    streams: torch.Tensor  # int64 [B]: the stream of each row, by its index in the data YAML
    # What the model computes from these before a device has them (`models.batch_plan`). If there is a planner:
    plan: NotRequired[dict[str, Any]]


class Planner(Protocol):
    """Plans a batch for a model (`models.batch_plan.BatchPlanner`)."""

    def padded_images(self, num_images: int) -> int:
        """The number of images to which a batch is padded, with blank ones."""
        ...

    def __call__(
        self,
        document_ids: torch.Tensor,
        num_images: int,
        image_slots: torch.Tensor,
        targets: torch.Tensor,
        streams: torch.Tensor,
    ) -> Any:
        """A dictionary of tensors, numbers, and tuples and dictionaries of these."""
        ...


class Collator:
    """Decodes the images of rows, and lays the rows out as tensors.

    Args:
        vocabulary: For the ids of `</s>` and `<pad>`.
        tokens_per_row: T, the positions of a row.
        image_size: S, the side of an image in pixels.
        skips: Counts broken images.
        image_fit: How an image is made square; see `decode_image`.
        image_decoding: How exactly it is decoded; see `decode_image`.
        planner: Plans the batches for a model; None: they come without a plan, and no image is added.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        tokens_per_row: int,
        image_size: int,
        skips: SkipCounter,
        image_fit: str = "crop",
        image_decoding: str = "draft",
        planner: Planner | None = None,
    ):
        self.vocabulary = vocabulary
        self.tokens_per_row = tokens_per_row
        self.image_size = image_size
        self.skips = skips
        self.image_fit = image_fit
        self.image_decoding = image_decoding
        self.planner = planner

    def __call__(self, rows: list[PackedRow]) -> Batch:
        """Make the batch of `rows`. A sample with a broken image is left out, and the row is padded instead.

        Without rows, the batch is one row of padding, so that a rank without work still takes part in the update.
        """
        row_shape = (max(len(rows), 1), self.tokens_per_row)
        num_images = self._padded_images(sum(row.num_images for row in rows))
        image_shape = (num_images, 3, self.image_size, self.image_size)
        tensors = _empty_in_one_storage(
            tokens=(torch.int64, row_shape),
            targets=(torch.int64, row_shape),
            document_ids=(torch.int64, row_shape),
            streams=(torch.int64, row_shape[:1]),
            image_slots=(torch.bool, row_shape),
            images=(torch.uint8, image_shape),
        )
        tokens, targets, document_ids, image_slots = (
            tensors[name].numpy() for name in ("tokens", "targets", "document_ids", "image_slots")
        )
        tokens[:] = targets[:] = self.vocabulary.pad
        document_ids[:] = image_slots[:] = 0
        tensors["streams"][:] = torch.tensor([row.stream for row in rows] or [0])
        count = 0
        for b, row in enumerate(rows):
            end = 0
            for sample in row.samples:
                if not self._decode(sample, tensors["images"][count : count + len(sample.images)]):
                    continue
                count += len(sample.images)
                start, end = end, end + len(sample)
                tokens[b, start:end] = sample.tokens
                targets[b, start:end] = sample.targets
                image_slots[b, start:end] = sample.image_slots
                document_ids[b, start:end] = 1
            if not row.cross_document_attention:
                ends = tokens[b, :end] == self.vocabulary.eos
                document_ids[b, :end] += np.cumsum(ends) - ends
        tensors["images"] = tensors["images"][: self._padded_images(count)]
        tensors["images"][count:] = 0
        if self.planner is None:
            return cast(Batch, tensors)
        inputs = {name: tensors[name] for name in ("document_ids", "image_slots", "targets", "streams")}
        return cast(Batch, {**tensors, "plan": self.planner(num_images=count, **inputs)})

    def _padded_images(self, num_images: int) -> int:
        return num_images if self.planner is None else self.planner.padded_images(num_images)

    def _decode(self, sample: Sample, images: torch.Tensor) -> bool:
        """Decode the sample's images into `images` [n, 3, S, S]; False if one is broken."""
        if sample.images:
            self.skips.count(len(sample.images))
        try:
            for image, out in zip(sample.images, images, strict=True):
                out.copy_(decode_image(image.read(), self.image_size, self.image_fit, self.image_decoding))
        except UnusableData as error:  # a broken image, or a remote shard that is not available
            self.skips.skip(sample.id, error)
            return False
        return True


def _empty_in_one_storage(**tensors: tuple[torch.dtype, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Allocate all tensors in one storage. Those with the largest elements come first, so that all are aligned.

    In a worker process this is shared memory, and each separate block would cost a file-descriptor transfer.

    Args:
        tensors: The dtype and shape of each.
    """
    sizes = {name: dtype.itemsize * math.prod(shape) for name, (dtype, shape) in tensors.items()}
    in_worker = torch.utils.data.get_worker_info() is not None
    total = sum(sizes.values())
    storage = torch.UntypedStorage._new_shared(total) if in_worker else torch.UntypedStorage(total)
    batch, start = {}, 0
    for name, (dtype, shape) in tensors.items():
        empty = torch.empty(0, dtype=dtype)
        batch[name] = empty.set_(storage, start // dtype.itemsize, shape)  # type: ignore[call-overload]  # no strides
        start += sizes[name]
    return batch
