"""What a training costs: memory of weights, gradients and optimizer on each GPU, and floating-point operations.

Both are of shapes and of fairseq's options alone, so the model stands on torch's meta device, without weights.
"""

from dataclasses import dataclass

import torch
from omegaconf import DictConfig
from torch import nn

ADAM_MOMENTS = 2
# The optimizers that are AdamW: fairseq's and ours.
ADAM = ("adam", "fused_adamw")
# Backends of fairseq that keep a second copy of every gradient, in buckets for the all-reduce.
BUCKET_BACKENDS = ("pytorch_ddp", "c10d")


@dataclass(frozen=True)
class MemoryItem:
    what: str
    bytes_each: float  # for each of `parameters`
    parameters: int

    @property
    def bytes(self) -> int:
        return round(self.bytes_each * self.parameters)


def memory_items(config: DictConfig, trainable: int, frozen: int, ranks: int) -> list[MemoryItem]:
    """What a GPU holds between updates by fairseq's rules, without activations and the libraries' own buffers.

    --fp16 and --bf16 cast the whole model to 16 bits. Their `FP16Optimizer` keeps a float32 copy of the weights and of
    the gradients; the memory-efficient one keeps neither. Adam's two moments are float32 in either case (16 bits with
    --fp16-adam-stats), and with --zero-sharding os each rank has its share of them. A frozen parameter has its weight
    alone: the trainer hands the optimizer what requires a gradient.
    """
    common, distributed = config.common, config.distributed_training
    half = common.fp16 or common.bf16
    copies = half and not (common.memory_efficient_fp16 or common.memory_efficient_bf16)
    size = 2 if half else 4
    items = [
        MemoryItem(f"weights, {8 * size} bits", size, trainable + frozen),
        MemoryItem(f"gradients, {8 * size} bits", size, trainable),
    ]
    if ranks > 1 and distributed.ddp_backend in BUCKET_BACKENDS and not distributed.gradient_as_bucket_view:
        items.append(MemoryItem("gradients in DDP's buckets", size, trainable))
    if copies:
        items.append(MemoryItem("copy of the weights, 32 bits", 4, trainable))
        items.append(MemoryItem("copy of the gradients, 32 bits", 4, trainable))
    if config.optimizer._name in ADAM:
        moment, shards = (2 if config.optimizer.get("fp16_adam_stats") else 4), 1
        if distributed.zero_sharding == "os":
            shards = ranks
        what = f"Adam's moments, {ADAM_MOMENTS} of {8 * moment} bits" + (f" on {shards} GPUs" if shards > 1 else "")
        items.append(MemoryItem(what, ADAM_MOMENTS * moment / shards, trainable))
    return items


@dataclass(frozen=True)
class FlopsItem:
    part: str
    formula: str
    flops: int  # in an update, over all ranks


def flops_items(model: nn.Module, tokens: int, images: int, row_tokens: int) -> list[FlopsItem]:
    """Floating-point operations of an update, forward and backward; a multiplication and an addition are two.

    A weight of a matrix costs 2 a token in the forward pass and 4 in the backward pass. Attention is counted as causal
    over rows of `row_tokens`: a token sees half of them on average. Logits are made where a target may count, at the
    tokens that are no image slots. An image costs what torch's own counter says of one.
    """
    decoder, slots = model.decoder, images * model.config.image_tokens
    layers, width = len(decoder.layers), decoder.args.decoder_embed_dim
    weights = sum(module.weight.numel() for module in decoder.layers.modules() if isinstance(module, nn.Linear))
    output, attention = decoder.output_projection.weight.numel(), 6 * layers * row_tokens * width
    items = [
        FlopsItem("decoder layers", f"6 × {weights:,} weights × {tokens:,} tokens", 6 * weights * tokens),
        FlopsItem(
            "attention",
            f"6 × {layers} layers × {row_tokens:,} × {width:,} × {tokens:,} tokens",
            attention * tokens,
        ),
        FlopsItem(
            "output matrix",
            f"6 × {output:,} weights × {tokens - slots:,} text tokens",
            6 * output * (tokens - slots),
        ),
    ]
    if images:
        each = image_flops(model)
        for part, one in (("vision", each[0]), ("resampler", each[1]), ("both, backward", each[2])):
            items.append(FlopsItem(part, f"{one / 1e9:,.2f} GFLOP × {images:,} images", one * images))
    return items


def image_flops(model: nn.Module) -> tuple[int, int, int]:
    """FLOPs of one image: forward through the vision encoder, through the resampler, and backward, by torch's counter.

    The backward pass reaches the trained layers alone. The model is on the meta device, where nothing is computed and
    every operation is one that the counter knows (it knows nothing of the CPU's fused attention).
    """
    from torch.utils.flop_counter import FlopCounterMode

    assert all(parameter.is_meta for parameter in model.parameters())
    size = model.config.image_size
    counters = [FlopCounterMode(display=False) for _ in range(3)]
    with counters[0]:
        features = model.vision(torch.zeros(1, 3, size, size, dtype=torch.uint8, device="meta"))
    with counters[1]:
        embeddings = model.resampler(features)
    with counters[2]:
        embeddings.sum().backward()
    vision, resampler, backward = (counter.get_total_flops() for counter in counters)
    return vision, resampler, backward
