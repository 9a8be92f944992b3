"""What a request asks to be continued, ready for the engine."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from kosmos_plugin.data.samples import Sample
from kosmos_plugin.errors import UserError
from kosmos_plugin.images import MAX_PIXELS, BrokenImage, decode_image
from kosmos_plugin.models.config import KosmosConfig


@dataclass(frozen=True)
class PreparedImage:
    """A decoded image."""

    digest: bytes  # of the encoded bytes
    pixels: torch.Tensor  # uint8 [3, S, S]


@dataclass(frozen=True)
class Prompt:
    """A prompt of L tokens with its images."""

    content: np.ndarray  # int64 [L]: token ids; at image slots a number below 0 that stands for the image
    slots: np.ndarray  # int64 [L]: how many image slots come before each position
    images: tuple[PreparedImage, ...] = ()

    def __len__(self) -> int:
        return len(self.content)

    @classmethod
    def of(cls, tokens: np.ndarray, image_slots: np.ndarray, images: tuple[PreparedImage, ...] = ()) -> "Prompt":
        """Make a prompt of token ids int64 [L], the places of its image slots bool [L], and its images."""
        content = tokens.copy()
        if images:
            numbers = np.array([_number(image.digest) for image in images])
            content[image_slots] = np.repeat(numbers, image_slots.sum() // len(images))
        return cls(content, np.cumsum(image_slots) - image_slots, images)


def prepare(sample: Sample, config: KosmosConfig, max_pixels: int = MAX_PIXELS) -> Prompt:
    """Decode the images of a sample.

    Raises:
        UserError: An image cannot be decoded or has more than `max_pixels` pixels.
    """
    images = []
    for number, image in enumerate(sample.images, start=1):
        data = image.read()
        digest = hashlib.blake2b(data, digest_size=16).digest()
        try:
            pixels = decode_image(data, config.image_size, config.image_fit, max_pixels=max_pixels)
        except BrokenImage as error:
            raise UserError(f"Image {number} cannot be read: {error}") from None
        images.append(PreparedImage(digest, pixels))
    return Prompt.of(sample.tokens, sample.image_slots, tuple(images))


def _number(digest: bytes) -> int:
    """A number from −2⁶³ to −1 for an image."""
    return int.from_bytes(digest[:8], "little") % 2**63 - 2**63
