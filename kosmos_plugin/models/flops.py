"""Floating-point operations of training a model, forward and backward: the one formula of plans, logs and benchmarks.

A multiplication and an addition are two operations, and the backward pass costs twice the forward pass. With L layers,
width E and V tokens in the vocabulary:

    a position        6 · weights of the linear layers of the decoder
    a pair            12 · L · E      a token with itself or an earlier one of its document
    a target          6 · V · E       a token in the loss, which needs logits
    an image          forward, and backward where there is a graph, by torch's counter

A frozen weight, as in the base of an adapter (`--lora-rank`), needs no gradient of its own: 4 in place of 6.

What is recomputed, padding, norms, activations and dropout are not counted.
"""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from kosmos_plugin.models.config import KosmosConfig
from kosmos_plugin.models.kosmos import Kosmos
from kosmos_plugin.models.lora import add_adapter

if TYPE_CHECKING:
    from kosmos_plugin.models.decoder import KosmosDecoder

TRAINED, FROZEN = 6, 4  # operations for a position and a weight


@dataclass(frozen=True)
class UnitFlops:
    """Operations for one of each."""

    position: int
    pair: int
    target: int
    image: int = 0

    def total(self, positions: float, pairs: float, targets: float, images: float) -> float:
        """Operations for all of them."""
        return self.position * positions + self.pair * pairs + self.target * targets + self.image * images


def unit_flops(model: Kosmos) -> UnitFlops:
    """The operations of a model on the meta device (`without_weights`)."""
    image = sum(image_flops(model)) if model.vision is not None else 0
    return dataclasses.replace(decoder_flops(model.decoder), image=image)


def decoder_flops(decoder: "KosmosDecoder") -> UnitFlops:
    """The operations of the decoder, without those of images."""
    (trained, frozen), output = linear_weights(decoder.layers), decoder.output_projection.weight
    return UnitFlops(
        position=TRAINED * trained + FROZEN * frozen,
        pair=12 * len(decoder.layers) * decoder.args.decoder_embed_dim,
        target=(TRAINED if output.requires_grad else FROZEN) * output.numel(),
    )


def linear_weights(module: nn.Module) -> tuple[int, int]:
    """Trained and frozen weights of the linear layers, each of which a position passes through once."""
    layers = [layer.weight for layer in module.modules() if isinstance(layer, nn.Linear)]
    trained = sum(weight.numel() for weight in layers if weight.requires_grad)
    return trained, sum(weight.numel() for weight in layers) - trained


def image_flops(model: Kosmos) -> tuple[int, int, int]:
    """Operations of one image, by torch's counter, for a model on the meta device.

    The backward pass reaches only the trainable layers. The counter knows every operation of the meta device, but not
    the CPU's fused attention.

    Returns:
        The forward pass of the vision encoder, that of the resampler, and the backward pass of both.
    """
    from torch.utils.flop_counter import FlopCounterMode

    assert model.vision is not None and model.resampler is not None
    assert all(parameter.is_meta for parameter in model.parameters())
    size = model.config.image_size
    counters = [FlopCounterMode(display=False) for _ in range(3)]
    with counters[0]:
        features = model.vision(torch.zeros(1, 3, size, size, dtype=torch.uint8, device="meta"))
    with counters[1]:
        embeddings = model.resampler(features)
    if embeddings.requires_grad:  # not with an adapter of the decoder alone
        with counters[2]:
            embeddings.sum().backward()
    vision, resampler, backward = (counter.get_total_flops() for counter in counters)
    return vision, resampler, backward


def without_weights(config: KosmosConfig, vocabulary_size: int, pad: int) -> Kosmos:
    """The model on the meta device, which holds shapes only, in training mode."""
    # The meta device compiles nothing, has no autocast, and no pixels for a cache to read.
    plain = dataclasses.replace(config, compile=False, frozen_vision_dtype="model", cache_vision_features=False)
    with torch.device("meta"):
        model = Kosmos.build(plain, vocabulary_size, pad, pretrained_vision=False).train()
        if config.lora_rank:
            add_adapter(model)
    return model
