"""The vision encoder: uint8 images → features, frozen but for its last layers.

An encoder is a module with two halves: `frozen(images)`, run without a graph, and `trainable(x)`, which gives the
features [N, L, width]. `build_vision_encoder` finds the function that builds it; another encoder is one function more
in VISION_ENCODERS, `(model, weights, image_size, trainable_layers, load_weights) → encoder`.
"""

import hashlib
import importlib

import torch
from torch import nn

from kosmos_plugin.errors import UserError
from kosmos_plugin.images import normalize
from kosmos_plugin.models.autocast import bfloat16_autocast

# name → module and function; imported only when that encoder is asked for.
VISION_ENCODERS = {
    "clip": ("kosmos_plugin.models.vision_clip", "clip"),
    "efficientnet_lite": ("kosmos_plugin.models.vision_efficientnet", "efficientnet_lite"),
}


class VisionEncoder(nn.Module):
    """What an encoder offers. `trained` names the submodules that are trained; everything else is frozen."""

    width: int  # of the features
    num_features: int  # L, how many an image has
    mean: tuple[float, float, float]  # of the training data, by which images are normalized
    std: tuple[float, float, float]

    def frozen(self, images: torch.Tensor) -> torch.Tensor:
        """images [N, 3, S, S], normalized → what the frozen layers make of them [N, …]"""
        raise NotImplementedError

    def trainable(self, x: torch.Tensor) -> torch.Tensor:
        """`frozen`'s result → features [N, L, width]"""
        raise NotImplementedError

    def trained_modules(self) -> list[nn.Module]:
        """The submodules of the last layers, which are trained."""
        raise NotImplementedError

    def layers(self) -> list[nn.Module]:
        """All layers, each to be compiled on its own (`--compile`)."""
        raise NotImplementedError


def build_vision_encoder(
    name: str, model: str, weights: str | None, image_size: int, trainable_layers: int, load_weights: bool = True
) -> VisionEncoder:
    """The encoder `name`; random if `weights` is None, or not `load_weights` (a checkpoint is about to be loaded)."""
    if name not in VISION_ENCODERS:
        raise UserError(f"--vision-encoder {name} is unknown; known are {', '.join(VISION_ENCODERS)}, none.")
    module, function = VISION_ENCODERS[name]
    return getattr(importlib.import_module(module), function)(
        model, weights, image_size, trainable_layers, load_weights
    )


class Vision(nn.Module):
    """Normalizes images, runs the encoder's halves, and keeps the frozen one frozen and in evaluation mode.

    With `frozen_dtype` "bfloat16" the frozen half is computed in bfloat16, whatever the model's dtype.

    With `cache`, the frozen half's result is kept in memory for each image, found by a hash of its pixels. Images are
    then run one by one, so that a result never depends on which others were new (and resuming stays bit-equal).
    """

    def __init__(self, encoder: VisionEncoder, cache: bool, frozen_dtype: str = "model"):
        super().__init__()
        self.encoder = encoder
        self.frozen_in_bfloat16 = frozen_dtype == "bfloat16"
        self.cache: dict[bytes, torch.Tensor] | None = {} if cache else None
        encoder.requires_grad_(False)
        for module in encoder.trained_modules():
            module.requires_grad_(True)

    @property
    def width(self) -> int:
        return self.encoder.width

    def train(self, mode: bool = True) -> "Vision":
        super().train(mode)
        self.encoder.eval()  # no dropout or batch statistics in a pretrained tower, not in its trained layers either
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images uint8 [N, 3, S, S] → features [N, L, width]"""
        with torch.no_grad():
            frozen = self._frozen(images) if self.cache is None else self._cached(images)
        return self.encoder.trainable(frozen)

    def _frozen(self, images: torch.Tensor) -> torch.Tensor:
        # No buffers: the model's dtype must not round what images are normalized by.
        mean, std = (images.new_tensor(values, dtype=torch.float32) for values in (self.encoder.mean, self.encoder.std))
        dtype = next(self.encoder.parameters()).dtype
        with bfloat16_autocast(self.frozen_in_bfloat16, images.device):
            return self.encoder.frozen(normalize(images, mean, std, dtype)).to(dtype)

    def _cached(self, images: torch.Tensor) -> torch.Tensor:
        keys = [hashlib.blake2b(image.numpy().tobytes(), digest_size=16).digest() for image in images.cpu()]
        for key, image in zip(keys, images, strict=True):
            if key not in self.cache:
                self.cache[key] = self._frozen(image.unsqueeze(0))[0]
        return torch.stack([self.cache[key] for key in keys])
