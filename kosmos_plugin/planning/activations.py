"""Memory of a micro-batch between its forward and its backward pass, from shapes.

A decoder layer keeps these tensors of a position for its backward pass, with E the width, F the inner width of the
feed-forward network, s bytes for a number of the computation and r for one of the residual stream:

    residual stream, before attention and before the feed-forward network      2 r E
    outputs of its three LayerNorms of width E, inputs of matrices             3 s E
    queries, keys, values and the output of attention                          4 s E   (fused: no T×T weights)
    masks of two dropouts                                                      2 E
    GELU's input in float32, the inputs of the last LayerNorm and matrix       (4 + 2 s) F

`--compile` keeps the output of the attention's matrix in place of the second residual, and recomputes GELU and
LayerNorm from one tensor each: 2 s F. `--checkpoint-activations selective` keeps the layer's input and the results of
matrix products and attention, `full` only the input; both then need one whole layer at a time.

An adapter (`--lora-rank`) adds the product A x of each adapted matrix, s N, and with dropout the input of A and its
mask. A layer's other tensors stay, as they are the inputs of A; the gradient of the output matrix is not computed.
"""

from typing import Any

import torch

from kosmos_plugin.models.cross_entropy import CHUNK_BYTES
from kosmos_plugin.models.kosmos import Kosmos
from kosmos_plugin.planning.costs import MemoryItem


def activation_items(
    config: Any, model: Kosmos, tokens: int, images: int, float32_image_bytes: int, half: bool
) -> list[MemoryItem]:
    """The memory of a micro-batch's activations.

    Args:
        config: The options of the model.
        model: A Kosmos on the meta device.
        tokens: Its positions, image slots included.
        images: Its images.
        float32_image_bytes: `image_bytes` of the model.
        half: Whether the weights have 16 bits (--bf16, --fp16).
    """
    autocast = bool(config.bf16_autocast) and not half
    size = 2 if half or autocast else 4
    kept = config.decoder_layers * layer_bytes(config, half)
    whole = layer_bytes(config, half, checkpointing="none")
    output = model.decoder.output_projection.weight
    items = [
        MemoryItem(f"activations of {config.decoder_layers} decoder layers", kept, tokens, "tokens"),
        MemoryItem("one layer in its backward pass", whole, tokens, "tokens"),
    ]
    if output.requires_grad:  # summed in float32, beside its final form
        each = 4 + (2 if half else 4)
        items.append(MemoryItem("gradient of the output matrix", each, output.numel(), "parameters"))
    items.append(
        # Logits and their gradient in the precision of the matrix products, log-probabilities in float32.
        MemoryItem("a chunk of logits", 4 + 2 * size, CHUNK_BYTES // 4, "logits")
    )
    if autocast:
        weights = sum(parameter.numel() for parameter in model.decoder.layers.parameters())
        items.append(MemoryItem("weights of the layers in 16 bits", 2, weights, "parameters"))
    if images:
        each = float32_image_bytes * size // 4
        items.append(MemoryItem("trained layers of vision, resampler", each, images, "images"))
    return items


def layer_bytes(config: Any, half: bool, checkpointing: str | None = None) -> int:
    """What a decoder layer keeps of a position.

    Args:
        config: The options of the model.
        half: Whether the weights have 16 bits.
        checkpointing: Instead of the option --checkpoint-activations.
    """
    width, inner = config.decoder_embed_dim, config.decoder_ffn_embed_dim
    autocast = bool(config.bf16_autocast) and not half
    size, residual = 2 if half or autocast else 4, 2 if half else 4
    checkpointing = checkpointing or str(config.checkpoint_activations)
    if checkpointing == "full":
        return residual * width
    adapter = _adapter_bytes(config, size)
    if checkpointing == "selective":
        # All products B A x are kept too.
        products = size * (5 * width + inner) if adapter else 0
        return (residual + 6 * size) * width + size * inner + adapter + products
    masks, inner_mask = 2 * (config.dropout > 0), int(config.activation_dropout > 0)
    statistics = 4 * config.decoder_attention_heads + 4 * 2 * 4  # of attention's softmax, and of four LayerNorms
    if config.compile:
        return (residual + 8 * size + masks) * width + (2 * size + inner_mask) * inner + statistics + adapter
    # Under autocast, LayerNorm's input is cast to float32: twice a copy.
    copy, norm_input = (4, 4) if autocast else (0, size)
    each_width = 2 * residual + 7 * size + masks + copy
    # xPos's factors for queries and keys, as complex numbers
    factors = 0 if config.positions == "sinusoidal" else 2 * 4 * width // config.decoder_attention_heads
    return each_width * width + (4 + norm_input + size + inner_mask) * inner + factors + statistics + adapter


def _adapter_bytes(config: Any, size: int) -> int:
    """What an adapter of all six matrices of a layer adds for a position; `size` is that of a number."""
    if not config.lora_rank:
        return 0
    dropout = (size + 1) * (5 * config.decoder_embed_dim + config.decoder_ffn_embed_dim)
    return 6 * config.lora_rank * size + (dropout if config.lora_dropout else 0)


def image_bytes(model: Kosmos) -> int:
    """What the trained layers of the vision encoder and the resampler keep of an image, for float32 on meta."""
    assert model.vision is not None and model.resampler is not None
    weights = {id(parameter.untyped_storage()) for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()  # the same object for all views
        if id(storage) not in weights:
            kept[id(storage)] = storage
        return tensor

    side = model.config.image_size
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.resampler(model.vision(torch.zeros(1, 3, side, side, dtype=torch.uint8, device="meta")))
    return sum(storage.nbytes() for storage in kept.values())
