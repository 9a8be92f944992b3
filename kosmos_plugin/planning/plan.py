"""The plan of a training: its costs, estimated without its data, vocabulary files and GPUs.

TrainingCommand ─┬─ the model, on torch's meta device ─→ parameters by part
                 ├─ data YAML + Assumptions ─→ sequences, tokens, images and rows of an update, by stream
                 └─ both ─→ memory of a GPU, FLOPs, GPU-hours (costs), and figures to compare with the paper's
"""

import ast
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig
from torch import nn

from kosmos_plugin.data.config import DataConfig, StreamConfig, read_data_config
from kosmos_plugin.data.packing import pack
from kosmos_plugin.errors import UserError
from kosmos_plugin.fairseq_modules.architectures import kosmos_config
from kosmos_plugin.models.flops import without_weights
from kosmos_plugin.models.kosmos import Kosmos
from kosmos_plugin.models.lora import check_lora
from kosmos_plugin.planning.activations import activation_items, image_bytes
from kosmos_plugin.planning.command import TrainingCommand
from kosmos_plugin.planning.costs import (
    ADAM,
    GRADIENT_COPY,
    FlopsItem,
    MemoryItem,
    divided_items,
    flops_items,
    largest_shard,
    memory_items,
)
from kosmos_plugin.planning.host_memory import checkpoint_items, host_items
from kosmos_plugin.planning.options import Assumptions
from kosmos_plugin.vocabulary import DICTIONARY_FILE, MODEL_FILE, Vocabulary

# An interleaved stream of this name holds instructions, which have no images.
INSTRUCTIONS = "instructions"
PAD = 1  # the id of `<pad>` in fairseq's dictionaries


@dataclass(frozen=True)
class Part:
    """A part of the model."""

    name: str
    trainable: int  # parameters
    frozen: int  # parameters


@dataclass(frozen=True)
class PlannedStream:
    """A stream's share of an update, if each of its sequences has the average length."""

    config: StreamConfig
    tokens_each: int  # per sequence
    images_each: int  # per sequence
    rows: int
    assumed: str  # the options that give the averages; "" for text, whose rows are full

    @property
    def sequences(self) -> int:
        return self.config.sequences_per_update

    @property
    def tokens(self) -> int:
        return self.sequences * self.tokens_each

    @property
    def images(self) -> int:
        return self.sequences * self.images_each


@dataclass(frozen=True)
class Plan:
    """A training and its estimated costs."""

    command: TrainingCommand
    assumptions: Assumptions
    data: DataConfig
    vocabulary_size: int
    vocabulary_from: str  # where that number comes from
    model: Kosmos  # on the meta device
    streams: tuple[PlannedStream, ...]

    @property
    def updates(self) -> int:
        return self.command.config.optimization.max_update

    @property
    def update_freq(self) -> int:
        return self.command.config.optimization.update_freq[0]

    @property
    def tokens(self) -> int:
        """Tokens in an update, over all ranks and without padding."""
        return sum(stream.tokens for stream in self.streams)

    @property
    def images(self) -> int:
        """Images in an update, over all ranks."""
        return sum(stream.images for stream in self.streams)

    @property
    def rows(self) -> int:
        return sum(stream.rows for stream in self.streams)

    @cached_property
    def parts(self) -> list[Part]:
        """All parts of the model."""
        decoder = self.model.decoder
        tables = {id(weight): weight for weight in (decoder.embed_tokens.weight, decoder.output_projection.weight)}
        layers = list(decoder.layers.parameters())
        rest = [p for p in decoder.parameters() if id(p) not in tables.keys() | {id(layer) for layer in layers}]
        parts = [_part("embeddings", tables.values()), _part(f"{len(decoder.layers)} decoder layers", layers)]
        parts.append(_part("last LayerNorm", rest))
        if self.model.vision is not None and self.model.resampler is not None:
            parts.insert(0, _part("vision encoder", self.model.vision.parameters()))
            parts.insert(1, _part("resampler", self.model.resampler.parameters()))
        return parts

    @property
    def trainable(self) -> int:
        return sum(part.trainable for part in self.parts)

    @property
    def frozen(self) -> int:
        return sum(part.frozen for part in self.parts)

    @property
    def memory(self) -> list[MemoryItem]:
        """The memory that each GPU holds between updates."""
        config, ranks = self.command.config, self.command.ranks
        if not self.is_divided:
            return memory_items(config, self.trainable, self.frozen, ranks, self.largest_shard)
        vision = self.model.vision.parameters() if self.model.vision is not None else ()
        whole = sum(parameter.numel() for parameter in vision if not parameter.requires_grad)
        divided = self.trainable + self.frozen - whole
        layers = self.model.decoder.layers
        # The rest of the model, a layer that is used, and the next one, which is gathered meanwhile.
        gathered = divided - max(len(layers) - 2, 0) * self.layer_parameters
        return divided_items(config, divided, self.trainable, whole, gathered, ranks)

    @property
    def is_divided(self) -> bool:
        """Whether the GPUs divide the weights among themselves."""
        return bool(self.command.config.task.fully_shard) and self.command.ranks > 1

    @cached_property
    def largest_shard(self) -> int:
        """The most parameters of which a GPU keeps the moments with --zero-sharding os."""
        sizes = (parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)
        return largest_shard(sizes, self.command.ranks)

    @property
    def host_memory(self) -> list[MemoryItem]:
        """The host memory of each rank while it trains."""
        rows = self.micro_batch_rows
        return host_items(self.command.config, self.data, rows, -(-self.images * rows // self.rows))

    @property
    def checkpoint(self) -> list[MemoryItem]:
        """What a checkpoint has of the model and its optimizer."""
        embeddings, outputs = self.model.decoder.embed_tokens.weight, self.model.decoder.output_projection.weight
        tied = embeddings.numel() if embeddings is outputs else 0
        return checkpoint_items(self.command.config, self.trainable, self.frozen, tied)

    @property
    def micro_batch_rows(self) -> int:
        """Rows of the largest micro-batch."""
        return -(-self.rows // (self.command.ranks * self.update_freq))

    def activations(self, rows: int) -> list[MemoryItem]:
        """The memory of a micro-batch of `rows` rows, with its part of the images, before its backward pass."""
        images = -(-self.images * rows // self.rows)
        config = self.command.config
        half = config.common.fp16 or config.common.bf16
        return activation_items(
            config.model, self.model, rows * config.task.tokens_per_sample, images, self.image_bytes, half
        )

    @cached_property
    def image_bytes(self) -> int:
        """What the trained layers keep of an image, in float32."""
        return image_bytes(self.model) if self.model.vision is not None else 0

    def peak_memory(self, rows: int) -> int:
        """Bytes that a GPU needs at most, with micro-batches of `rows` rows; without libraries and fragmentation."""
        kept = sum(item.bytes for item in self.memory)
        beside = sum(item.bytes for item in self.memory if item.what != GRADIENT_COPY)
        return max(kept, beside + sum(item.bytes for item in self.activations(rows)))

    @cached_property
    def flops(self) -> list[FlopsItem]:
        """The floating-point operations of an update, over all ranks."""
        return flops_items(self.model, self.tokens, self.images, self.command.config.task.tokens_per_sample)

    @property
    def seconds_per_update(self) -> float:
        speed = self.assumptions.utilization * self.assumptions.tflops * 1e12
        return sum(item.flops for item in self.flops) / speed / self.command.ranks

    @property
    def gpu_hours(self) -> float:
        return self.seconds_per_update * self.updates * self.command.ranks / 3600

    @property
    def layer_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.decoder.layers[0].parameters())

    @property
    def decoder_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.decoder.parameters())

    def figures(self) -> dict[str, object]:
        """Everything that the paper has a value for, under the keys of `paper.settings`; lists as tuples."""
        config, figures = self.command.config, dict[str, object]()
        for section in ("task", "model", "optimization", "optimizer", "lr_scheduler"):
            figures |= {f"{section}.{name}": _plain(value) for name, value in config[section].items()}
        if config.optimizer._name in ADAM:
            figures["optimizer._name"] = "AdamW"
        figures["vocabulary_size"] = self.vocabulary_size
        figures["layer_parameters"] = self.layer_parameters
        figures["decoder_parameters"] = self.decoder_parameters
        if self.model.vision is not None:
            figures["vision_features"] = self.model.vision.width
        for stream in self.streams:
            figures[f"sequences.{stream.config.name}"] = stream.sequences
            if stream.config.kind == "text":
                figures |= {f"weight.{corpus.name}": corpus.weight for corpus in stream.config.corpora}
        return figures


def make_plan(command: TrainingCommand, assumptions: Assumptions) -> Plan:
    """Estimate the costs of a training.

    Raises:
        UserError: The command lacks an option that a plan needs, its data YAML is wrong, or the assumptions do not fit.
    """
    assumptions.check()
    config = command.config
    if command.data is None:
        raise UserError(f"{command.path} names no data YAML.")
    if config.optimization.max_update < 1:
        raise UserError(f"{command.path}: a plan needs --max-update, the length of the training.")
    data = read_data_config(command.data, files_must_exist=False)
    streams = tuple(_planned_stream(stream, config.task, assumptions) for stream in data.streams)
    vocabulary = Path(command.vocabulary or data.vocabulary)
    if (vocabulary / MODEL_FILE).is_file() and (vocabulary / DICTIONARY_FILE).is_file():
        size, size_from = len(Vocabulary.load(vocabulary)), f"from {vocabulary}"
    else:
        size, size_from = assumptions.vocabulary_size, f"by --vocabulary-size, as {vocabulary} does not exist"
    architecture = kosmos_config(config.model)
    check_lora(architecture)
    model = without_weights(architecture, size, PAD)
    images = [stream.config.name for stream in streams if stream.images]
    if model.vision is None and images:
        raise UserError(f"{command.path}: the model reads only text, and the stream {images[0]} has images.")
    return Plan(command, assumptions, data, size, size_from, model, streams)


def _planned_stream(stream: StreamConfig, task: DictConfig, assumptions: Assumptions) -> PlannedStream:
    row, kind = task.tokens_per_sample, stream.kind
    if kind == "interleaved" and stream.name == INSTRUCTIONS:
        kind = INSTRUCTIONS
    tokens, images, option = {
        "text": (row, 0, ""),
        "captions": (assumptions.caption_tokens, 1, "--caption-tokens"),
        "interleaved": (assumptions.page_tokens, assumptions.page_images, "--page-tokens"),
        INSTRUCTIONS: (assumptions.instruction_tokens, 0, "--instruction-tokens"),
    }[kind]
    # <s>, </s>, and an image's slots between <image> and </image>
    least = 2 + images * (task.image_tokens + 2)
    if not least <= tokens <= row:
        raise UserError(
            f"{option} {tokens} does not fit: a sequence of {stream.name} with {images} images has {least:,} tokens "
            f"besides its text, and at most {row:,} (--tokens-per-sample)."
        )
    assumed = f"{option} {tokens:,}" if option else ""
    if kind == "interleaved":
        assumed += f" and --page-images {images}"
    rows = len(pack([tokens] * stream.sequences_per_update, row))
    return PlannedStream(stream, tokens, images, rows, assumed)


def _part(name: str, parameters: Iterable[nn.Parameter]) -> Part:
    trainable = frozen = 0
    for parameter in parameters:
        trainable += parameter.numel() * parameter.requires_grad
        frozen += parameter.numel() * (not parameter.requires_grad)
    return Part(name, trainable, frozen)


def _plain(value: Any) -> Any:
    """Turn lists into tuples, and also the text that fairseq accepts as Adam's β."""
    if isinstance(value, ListConfig):
        return tuple(value)
    if isinstance(value, str) and value.startswith("("):
        with contextlib.suppress(ValueError, SyntaxError):
            return ast.literal_eval(value)
    return value
