"""The architectures as fairseq models: `--arch NAME`, Hydra's `model: NAME`, and `from_pretrained`.

TorchScale and open_clip, which take seconds to import, are imported only when a model is built.
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.models import BaseFairseqModel, register_model
from omegaconf import II
from typing_extensions import Self

from kosmos_plugin.models.config import ARCHITECTURES, INPUT_FORMAT, KosmosConfig
from kosmos_plugin.models.kosmos import Kosmos
from kosmos_plugin.models.lora import add_adapter, check_lora

if TYPE_CHECKING:
    from kosmos_plugin.fairseq_modules.task import KosmosMultimodalTask
    from kosmos_plugin.generation.generator import Generator


class KosmosModel(Kosmos, BaseFairseqModel):
    """A `Kosmos` that fairseq builds, trains, saves and loads."""

    @classmethod
    def build_model(
        cls, options: Mapping[str, Any] | FairseqDataclass | KosmosConfig, task: "KosmosMultimodalTask"
    ) -> Self:
        """Build the model for a task; called by fairseq.

        Args:
            options: The fields of a KosmosConfig, as OmegaConf's, fairseq's or our dataclass.
            task: The task; it knows the vocabulary, and whether to read pretrained weights.
        """
        dictionary = task.source_dictionary
        config = kosmos_config(options)
        check_lora(config)
        needs_weights = task.needs_pretrained_weights and config.lora_base is None
        model = cls.build(config, len(dictionary), dictionary.pad(), needs_weights)
        if config.lora_base is not None:
            from kosmos_plugin.fairseq_modules.restoring import load_base

            model.lora_base = load_base(model, Path(config.lora_base), task.vocabulary)
            add_adapter(model)
        if config.decoder_weights is not None and task.needs_pretrained_weights:
            from kosmos_plugin.checkpoints.decoder_weights import load_decoder_weights

            load_decoder_weights(model.decoder, config.decoder_weights)
        return model

    @classmethod
    def from_pretrained(
        cls,
        model_name_or_path: str | Path,
        checkpoint_file: str | None = None,
        data_name_or_path: str | None = None,
        **kwargs: Any,
    ) -> "Generator":
        """Load a checkpoint for generation; fairseq's hub call.

        Args:
            model_name_or_path: The checkpoint, or its folder.
            checkpoint_file: Its name in the folder; by default model.pt, or another usual one.
            data_name_or_path: A data YAML, to use its vocabulary.
            **kwargs: Further arguments of `kosmos_plugin.load`.
        """
        import kosmos_plugin

        path = Path(model_name_or_path)
        return kosmos_plugin.load(path / checkpoint_file if checkpoint_file else path, data_name_or_path, **kwargs)

    def get_normalized_probs(self, net_output: tuple, log_probs: bool, sample: Any = None) -> torch.Tensor:
        """(Log-)probabilities [B, T, V] in float32; called by fairseq's scorers."""
        logits = net_output[0].float()
        return logits.log_softmax(dim=-1) if log_probs else logits.softmax(dim=-1)


def kosmos_config(options: Any) -> KosmosConfig:
    """Copy fairseq's options into the plain dataclass; choices, which are enums there, become strings."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(KosmosConfig):
        value = options[field.name] if isinstance(options, Mapping) else getattr(options, field.name)
        values[field.name] = value.value if isinstance(value, Enum) else value
    return KosmosConfig(**values)


@functools.cache  # shared by the architectures, as making one takes time
def _choice_enum(choices: tuple[str, ...]) -> Any:
    return ChoiceEnum(list(choices))


def fairseq_dataclass(config: type[KosmosConfig]) -> type[FairseqDataclass]:
    """Convert an architecture's options to fairseq's form: choices as enums, the input format from the task."""
    fields: list[tuple[str, Any, Any]] = []
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        kind, default = hints[field.name], field.default
        if typing.get_origin(kind) is types.UnionType:
            kind = typing.Optional[typing.get_args(kind)[0]]  # the only form that fairseq understands
        if choices := field.metadata.get("choices"):
            kind = _choice_enum(choices)
        if field.name in INPUT_FORMAT:
            fields.append((field.name, kind, II(f"task.{field.name}")))
        else:
            metadata = {"help": field.metadata["help"]}
            fields.append((field.name, kind, dataclasses.field(default=default, metadata=metadata)))
    made = dataclasses.make_dataclass(config.__name__, fields, bases=(FairseqDataclass,))
    made.__doc__ = config.__doc__
    return made


def register() -> None:
    """Register each architecture as a fairseq model."""
    for name, config in ARCHITECTURES.items():
        class_name = "".join(word.capitalize() for word in name.split("_")) + "Model"
        model = type(class_name, (KosmosModel,), {"__doc__": config.__doc__})
        register_model(name, dataclass=fairseq_dataclass(config))(model)
