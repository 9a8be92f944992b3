"""Embeddings of images, kept for as long as there is room: an image that comes again is not encoded again."""

from collections import OrderedDict
from collections.abc import Mapping

import torch

from kosmos_plugin.models.kosmos import Kosmos

MAX_IMAGES = 256
BATCH = 16  # images that are encoded at once


class ImageCache:
    """The embeddings [K, E] of the images that were used last.

    Args:
        model: The model.
        max_images: How many are kept. Those of one call are kept at least.
    """

    def __init__(self, model: Kosmos, max_images: int = MAX_IMAGES):
        self.model = model
        self.max_images = max_images
        self.encoded = 0  # images so far
        self._embeddings: OrderedDict[bytes, torch.Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._embeddings)

    def embed(self, images: Mapping[bytes, torch.Tensor]) -> dict[bytes, torch.Tensor]:
        """The embeddings of some images.

        Args:
            images: Pixels, uint8 [3, S, S], by a digest of the image.

        Returns:
            Embeddings [K, E] by digest.
        """
        new = [digest for digest in images if digest not in self._embeddings]
        device = self.model.decoder.embed_tokens.weight.device
        for start in range(0, len(new), BATCH):
            digests = new[start : start + BATCH]
            pixels = torch.stack([images[digest] for digest in digests]).to(device)
            # Each with memory of its own, not a view of the batch's, which would stay as long as one of them.
            embeddings = [one.clone() for one in self.model.embed_images(pixels)]
            self._embeddings.update(zip(digests, embeddings, strict=True))
            self.encoded += len(digests)
        found = {}
        for digest in images:
            self._embeddings.move_to_end(digest)
            found[digest] = self._embeddings[digest]
        while len(self._embeddings) > max(self.max_images, len(images)):
            self._embeddings.popitem(last=False)
        return found
