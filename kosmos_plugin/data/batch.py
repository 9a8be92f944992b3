"""Rows → Batch: the tensors that pass from data to model, and nothing else.

tokens        int64 [B, T]           token ids; image slots hold an id whose value never matters
targets       int64 [B, T]           the next token, `pad` wherever the loss does not count
document_ids  int64 [B, T]           positions see each other only where these are equal; 0 is padding
image_slots   bool  [B, T]           True where an image embedding takes the token's place
images        uint8 [N, 3, S, S]     row-major in the order of the slots: `image_tokens` slots each
streams       int64 [B]              which stream each row is of (its number in the data YAML)
"""

from typing import TypedDict

import numpy as np
import torch

from kosmos_plugin.data.packing import PackedRow
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
        shape = (max(len(rows), 1), self.tokens_per_row)
        tokens = np.full(shape, self.vocabulary.pad, dtype=np.int64)
        targets = np.full(shape, self.vocabulary.pad, dtype=np.int64)
        document_ids = np.zeros(shape, dtype=np.int64)
        image_slots = np.zeros(shape, dtype=bool)
        images: list[torch.Tensor] = []
        for b, row in enumerate(rows):
            end = 0
            for sample in row.samples:
                decoded = self._decode(sample)
                if decoded is None:
                    continue
                begin, end = end, end + len(sample)
                images += decoded
                tokens[b, begin:end] = sample.tokens
                targets[b, begin:end] = sample.targets
                image_slots[b, begin:end] = sample.image_slots
                document_ids[b, begin:end] = 1
            if not row.cross_document_attention:
                begins = np.cumsum(tokens[b, :end] == self.vocabulary.bos)
                document_ids[b, :end] += begins
        return {
            "tokens": torch.from_numpy(tokens),
            "targets": torch.from_numpy(targets),
            "document_ids": torch.from_numpy(document_ids),
            "image_slots": torch.from_numpy(image_slots),
            "images": torch.stack(images)
            if images
            else torch.zeros(0, 3, self.image_size, self.image_size, dtype=torch.uint8),
            "streams": torch.tensor([row.stream for row in rows] or [0], dtype=torch.int64),
        }

    def _decode(self, sample) -> list[torch.Tensor] | None:
        """The sample's images, or None if one is broken."""
        if sample.images:
            self.skips.count(len(sample.images))
        try:
            return [
                decode_image(image.read(), self.image_size, self.image_fit, self.image_decoding)
                for image in sample.images
            ]
        except BrokenImage as error:
            self.skips.skip(sample.id, error)
            return None
