"""Rows → Batch: the tensors that pass from data to model, and nothing else.

tokens        int64 [B, T]           token ids; image slots hold an id whose value never matters
targets       int64 [B, T]           the next token, `pad` wherever the loss does not count
document_ids  int64 [B, T]           positions see each other only where these are equal; 0 is padding
image_slots   bool  [B, T]           True where an image embedding takes the token's place
images        uint8 [N, 3, S, S]     row-major in the order of the slots: `image_tokens` slots each
streams       int64 [B]              which stream each row is of (its number in the data YAML)
"""

import math
from typing import TypedDict

import numpy as np
import torch

from kosmos_plugin.data.packing import PackedRow
from kosmos_plugin.data.samples import Sample
from kosmos_plugin.data.skips import SkipCounter
from kosmos_plugin.images import BrokenImage, decode_image
from kosmos_plugin.vocabulary import Vocabulary


class Batch(TypedDict):
    tokens: torch.Tensor
    targets: torch.Tensor
    document_ids: torch.Tensor
    image_slots: torch.Tensor
    images: torch.Tensor
    streams: torch.Tensor


class Collator:
    """Decodes the images of some rows and lays the rows out as tensors of `tokens_per_row` positions."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        tokens_per_row: int,
        image_size: int,
        skips: SkipCounter,
        image_fit: str = "crop",
        image_decoding: str = "draft",
    ):
        self.vocabulary = vocabulary
        self.tokens_per_row = tokens_per_row
        self.image_size = image_size
        self.skips = skips
        self.image_fit = image_fit
        self.image_decoding = image_decoding

    def __call__(self, rows: list[PackedRow]) -> Batch:
        """The batch of `rows`. A sample with a broken image is left out: its place is padding.

        No rows give a batch of one row of padding, so that a rank without work still takes part in an update.
        """
        row_shape = (max(len(rows), 1), self.tokens_per_row)
        batch = _empty_in_one_storage(
            tokens=(torch.int64, row_shape),
            targets=(torch.int64, row_shape),
            document_ids=(torch.int64, row_shape),
            streams=(torch.int64, row_shape[:1]),
            image_slots=(torch.bool, row_shape),
            images=(torch.uint8, (sum(row.num_images for row in rows), 3, self.image_size, self.image_size)),
        )
        tokens, targets, document_ids, image_slots = (
            batch[name].numpy() for name in ("tokens", "targets", "document_ids", "image_slots")
        )
        tokens[:] = targets[:] = self.vocabulary.pad
        document_ids[:] = image_slots[:] = 0
        batch["streams"][:] = torch.tensor([row.stream for row in rows] or [0])
        count = 0
        for b, row in enumerate(rows):
            end = 0
            for sample in row.samples:
                if not self._decode(sample, batch["images"][count : count + len(sample.images)]):
                    continue
                count += len(sample.images)
                begin, end = end, end + len(sample)
                tokens[b, begin:end] = sample.tokens
                targets[b, begin:end] = sample.targets
                image_slots[b, begin:end] = sample.image_slots
                document_ids[b, begin:end] = 1
            if not row.cross_document_attention:
                begins = np.cumsum(tokens[b, :end] == self.vocabulary.bos)
                document_ids[b, :end] += begins
        batch["images"] = batch["images"][:count]
        return batch

    def _decode(self, sample: Sample, images: torch.Tensor) -> bool:
        """Decode the sample's images into `images` [n, 3, S, S]; False if one is broken."""
        if sample.images:
            self.skips.count(len(sample.images))
        try:
            for image, out in zip(sample.images, images, strict=True):
                out.copy_(decode_image(image.read(), self.image_size, self.image_fit, self.image_decoding))
        except BrokenImage as error:
            self.skips.skip(sample.id, error)
            return False
        return True


def _empty_in_one_storage(**tensors: tuple[torch.dtype, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Uninitialized tensors of (dtype, shape), one behind the other, those of the largest dtype first.

    In a worker process they lie in shared memory, as with torch's own `default_collate`: else they would be copied
    there. What takes time on the way between processes is every piece of shared memory, hence one for all.
    """
    sizes = {name: dtype.itemsize * math.prod(shape) for name, (dtype, shape) in tensors.items()}
    in_worker = torch.utils.data.get_worker_info() is not None
    total = sum(sizes.values())
    storage = torch.UntypedStorage._new_shared(total) if in_worker else torch.UntypedStorage(total)
    batch, begin = {}, 0
    for name, (dtype, shape) in tensors.items():
        batch[name] = torch.empty(0, dtype=dtype).set_(storage, begin // dtype.itemsize, shape)
        begin += sizes[name]
    return batch
