"""The costs of a training: memory of weights, gradients and optimizer on each GPU, and floating-point operations.

Both follow from shapes and fairseq's options, so the model is on torch's meta device, without weights.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from omegaconf import DictConfig

from kosmos_plugin.models.flops import FROZEN, TRAINED, decoder_flops, image_flops, linear_weights
from kosmos_plugin.models.kosmos import Kosmos

ADAM_MOMENTS = 2
# Optimizers that are AdamW: fairseq's and ours.
ADAM = ("adam", "fused_adamw")
# Held from the end of a backward pass until the next update, so never beside activations.
GRADIENT_COPY = "copy of the gradients, 32 bits"
# Backends of fairseq that keep a second copy of every gradient, in buckets for the all-reduce.
BUCKET_BACKENDS = ("pytorch_ddp", "c10d")


@dataclass(frozen=True)
class MemoryItem:
    """One kind of data that a GPU holds."""

    what: str
    bytes_each: float
    count: int
    unit: str = "parameters"  # what `count` counts

    @property
    def bytes(self) -> int:
        return round(self.bytes_each * self.count)


def largest_shard(sizes: Iterable[int], ranks: int) -> int:
    """The most parameters of which a rank keeps the moments with --zero-sharding os.

    Source:
        fairscale's OSS: each weight goes, whole, to the rank that has fewest parameters, in the model's order.

    Args:
        sizes: Parameters of each trainable weight, in the model's order.
        ranks: Number of ranks.
    """
    shards = [0] * ranks
    for size in sizes:
        shards[shards.index(min(shards))] += size
    return max(shards)


def copies_weights(config: DictConfig) -> bool:
    """Whether fairseq's optimizer keeps a float32 copy of the weights, with --fp16 and --bf16."""
    common = config.common
    return bool(common.fp16 or common.bf16) and not (common.memory_efficient_fp16 or common.memory_efficient_bf16)


def moment_bytes(config: DictConfig) -> int:
    """Bytes of one of Adam's moments of a parameter; 0 with another optimizer."""
    if config.optimizer._name not in ADAM:
        return 0
    return 2 if config.optimizer.get("fp16_adam_stats") else 4


def memory_items(config: DictConfig, trainable: int, frozen: int, ranks: int, shard: int) -> list[MemoryItem]:
    """The memory that each GPU holds between updates, without activations and the libraries' own buffers.

    --fp16 and --bf16 cast the whole model to 16 bits. Their `FP16Optimizer` keeps a float32 copy of the weights and of
    the gradients; the memory-efficient one keeps neither. Adam's two moments are float32 in either case (16 bits with
    --fp16-adam-stats), and --zero-sharding os divides them among the ranks, each weight's as a whole. Frozen parameters
    take only their weights, as the optimizer gets only parameters that require a gradient.

    Args:
        config: fairseq's configuration of the training.
        trainable: Number of trainable parameters.
        frozen: Number of frozen parameters.
        ranks: Number of ranks.
        shard: `largest_shard`.
    """
    common, distributed = config.common, config.distributed_training
    size = 2 if common.fp16 or common.bf16 else 4
    items = [
        MemoryItem(f"weights, {8 * size} bits", size, trainable + frozen),
        MemoryItem(f"gradients, {8 * size} bits", size, trainable),
    ]
    if ranks > 1 and distributed.ddp_backend in BUCKET_BACKENDS and not distributed.gradient_as_bucket_view:
        items.append(MemoryItem("gradients in DDP's buckets", size, trainable))
    if copies_weights(config):
        items.append(MemoryItem("copy of the weights, 32 bits", 4, trainable))
        items.append(MemoryItem(GRADIENT_COPY, 4, trainable))
    if size := moment_bytes(config):
        what = f"Adam's moments, {ADAM_MOMENTS} of {8 * size} bits"
        if distributed.zero_sharding == "os":
            items.append(MemoryItem(f"{what}, largest share", ADAM_MOMENTS * size, shard))
        else:
            items.append(MemoryItem(what, ADAM_MOMENTS * size, trainable))
    return items


def divided_items(
    config: DictConfig, divided: int, trainable: int, whole: int, gathered: int, ranks: int
) -> list[MemoryItem]:
    """The memory that each GPU holds between updates with --fully-shard: its part, and what is gathered at a time.

    Args:
        config: fairseq's configuration of the training.
        divided: Number of parameters that are divided, trainable ones included.
        trainable: Number of trainable parameters.
        whole: Number of parameters that every GPU has.
        gathered: The most parameters that are gathered at a time, with their gradients.
        ranks: Number of ranks.
    """
    size = 2 if config.common.bf16 else 4
    part, trained = -(-divided // ranks), -(-trainable // ranks)
    items = [
        MemoryItem(f"weights, {8 * size} bits, 1/{ranks} of them", size, part),
        MemoryItem(f"gathered weights and gradients, {8 * size} bits", 2 * size, gathered),
        MemoryItem(f"gradients, {8 * size} bits, 1/{ranks}", size, trained),
    ]
    if whole:
        items.insert(1, MemoryItem(f"frozen weights of vision, {8 * size} bits", size, whole))
    if copies_weights(config):
        items.append(MemoryItem(f"copy of the weights, 32 bits, 1/{ranks}", 4, trained))
        items.append(MemoryItem(GRADIENT_COPY, 4, trained))
    moments = moment_bytes(config)
    items.append(
        MemoryItem(f"Adam's moments, {ADAM_MOMENTS} of {8 * moments} bits, 1/{ranks}", ADAM_MOMENTS * moments, trained)
    )
    return items


@dataclass(frozen=True)
class FlopsItem:
    """The computation of one part of the model."""

    part: str
    formula: str
    flops: int  # per update, over all ranks


def flops_items(model: Kosmos, tokens: int, images: int, row_tokens: int) -> list[FlopsItem]:
    """Floating-point operations of an update, forward and backward; a multiply-add is two.

    The formula is that of `models.flops`, with attention over rows of `row_tokens`, where a token attends to half a row
    on average, and logits for all tokens but image slots.

    Args:
        model: A Kosmos on the meta device.
        tokens: Tokens in the update, image slots included.
        images: Images in the update.
        row_tokens: Tokens in a row.
    """
    decoder, each, slots = model.decoder, decoder_flops(model.decoder), images * model.config.image_tokens
    layers, width = len(decoder.layers), decoder.args.decoder_embed_dim
    (trained, frozen), output = linear_weights(decoder.layers), decoder.output_projection.weight
    of_output = TRAINED if output.requires_grad else FROZEN
    weights = f"{TRAINED} × {trained:,} weights"
    if frozen:  # by an adapter
        weights = f"({weights} + {FROZEN} × {frozen:,} frozen)"
    items = [
        FlopsItem("decoder layers", f"{weights} × {tokens:,} tokens", each.position * tokens),
        FlopsItem(
            "attention",
            f"6 × {layers} layers × {row_tokens:,} × {width:,} × {tokens:,} tokens",
            each.pair * row_tokens * tokens // 2,
        ),
        FlopsItem(
            "output matrix",
            f"{of_output} × {output.numel():,} weights × {tokens - slots:,} text tokens",
            each.target * (tokens - slots),
        ),
    ]
    if images:
        for part, one in zip(("vision", "resampler", "both, backward"), image_flops(model), strict=True):
            items.append(FlopsItem(part, f"{one / 1e9:,.2f} GFLOP × {images:,} images", one * images))
    return items
