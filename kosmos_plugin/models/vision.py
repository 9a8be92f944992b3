"""The vision tower: images uint8 [N, 3, S, S] → features [N, L, W], from a pretrained encoder that is mostly frozen.

An encoder has two parts: `frozen`, which runs without an autograd graph, and `trainable`, its last layers. To add an
encoder, write a function `(model, weights, image_size, trainable_layers, load_weights) → VisionEncoder` and register it
in VISION_ENCODERS.
"""

import hashlib
import importlib

import torch
from torch import nn
from typing_extensions import Self

from kosmos_plugin.errors import UserError
from kosmos_plugin.images import normalize
from kosmos_plugin.models.autocast import bfloat16_autocast

# --vision-encoder → (module, function), imported when it is used: open_clip takes seconds.
VISION_ENCODERS = {
    "clip": ("kosmos_plugin.models.vision_clip", "clip"),
    "efficientnet_lite": ("kosmos_plugin.models.vision_efficientnet", "efficientnet_lite"),
}


class VisionEncoder(nn.Module):
    """Interface of an encoder. Everything but its `trained_modules` is frozen."""

    width: int  # W
    num_features: int  # L
    grid: tuple[int, int]  # rows and columns of patches; the last rows·columns features are theirs, row by row
    mean: tuple[float, float, float]  # per channel (RGB, pixels in 0 … 1), for normalizing images
    std: tuple[float, float, float]

    def frozen(self, images: torch.Tensor) -> torch.Tensor:
        """Run the frozen layers: normalized images [N, 3, S, S] → the trainable layers' input [N, …]."""
        raise NotImplementedError

    def trainable(self, x: torch.Tensor) -> torch.Tensor:
        """Run the last layers: output of `frozen` → features [N, L, W]."""
        raise NotImplementedError

    def trained_modules(self) -> list[nn.Module]:
        """The modules to train, those of the last layers."""
        raise NotImplementedError

    def layers(self) -> list[nn.Module]:
        """All layers, each of which `--compile` compiles separately."""
        raise NotImplementedError


def build_vision_encoder(
    name: str, model: str, weights: str | None, image_size: int, trainable_layers: int, load_weights: bool = True
) -> VisionEncoder:
    """Build a vision encoder.

    Args:
        name: A key of VISION_ENCODERS.
        model: `--vision-model`.
        weights: `--vision-weights`; None for random weights.
        image_size: S.
        trainable_layers: Number of last layers to train.
        load_weights: False to leave `weights` unread, because a checkpoint is loaded afterwards.

    Raises:
        UserError: The encoder, model or weights do not exist or do not fit, or there are fewer layers than to train.
    """
    if name not in VISION_ENCODERS:
        raise UserError(f"--vision-encoder {name} is unknown: choose one of {', '.join(VISION_ENCODERS)}, none.")
    module, function = VISION_ENCODERS[name]
    build = getattr(importlib.import_module(module), function)
    encoder: VisionEncoder = build(model, weights, image_size, trainable_layers, load_weights)
    if not 0 <= trainable_layers <= len(encoder.layers()):
        raise UserError(f"--trainable-vision-layers must be 0 to {len(encoder.layers())}, not {trainable_layers}.")
    return encoder


class VisionTower(nn.Module):
    """Normalizes images and runs the two parts of the encoder, the frozen one without gradients.

    Args:
        encoder: The encoder; all of it stays in evaluation mode.
        cache: Whether to keep the frozen part's output for every image in memory, keyed by a hash of its pixels. Images
            then run one by one: results do not depend on which others were cached, so resuming stays bit-equal.
        frozen_dtype: "bfloat16" to run the frozen part in bfloat16; "model" for the model's dtype.
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
        """W, the width of the features."""
        return self.encoder.width

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.encoder.eval()  # no dropout or batch statistics in a pretrained encoder, not even in its trained layers
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images uint8 [N, 3, S, S] → features [N, L, W]"""
        with torch.no_grad():
            x = self._run_frozen(images) if self.cache is None else self._cached(images, self.cache)
        return self.encoder.trainable(x)

    def _run_frozen(self, images: torch.Tensor) -> torch.Tensor:
        # Not buffers, because the model's dtype would round them. Filled on the device: a copy to it would wait for it.
        mean, std = (
            torch.stack([images.new_full((), value, dtype=torch.float32) for value in values])
            for values in (self.encoder.mean, self.encoder.std)
        )
        dtype = next(self.encoder.parameters()).dtype
        with bfloat16_autocast(self.frozen_in_bfloat16, images.device):
            return self.encoder.frozen(normalize(images, mean, std, dtype)).to(dtype)

    def _cached(self, images: torch.Tensor, cache: dict[bytes, torch.Tensor]) -> torch.Tensor:
        keys = [hashlib.blake2b(image.numpy().tobytes(), digest_size=16).digest() for image in images.cpu()]
        for key, image in zip(keys, images, strict=True):
            if key not in cache:
                cache[key] = self._run_frozen(image.unsqueeze(0))[0]
        return torch.stack([cache[key] for key in keys])
