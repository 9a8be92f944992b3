"""The architectures as fairseq's models: `--arch NAME`, Hydra's `model: NAME`, and `from_pretrained`.

Importing this module imports neither TorchScale nor open_clip; building a model does.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

import torch
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.models import BaseFairseqModel, register_model
from omegaconf import II

from kosmos_plugin.models.config import ARCHITECTURES, KosmosConfig
from kosmos_plugin.models.kosmos import Kosmos

# Options of the task that the model follows.
INPUT_FORMAT = ("image_tokens", "image_size", "image_fit", "tokens_per_sample")


class KosmosModel(Kosmos, BaseFairseqModel):
    """A Kosmos that fairseq builds, trains, saves and loads."""

    @classmethod
    def build_model(cls, config: Any, task: Any) -> "KosmosModel":
        """fairseq's constructor. `config` has the options of a KosmosConfig: OmegaConf's, or a dataclass."""
        dictionary = task.source_dictionary
        config = kosmos_config(config)
        model = cls.build(config, len(dictionary), dictionary.pad(), task.needs_pretrained_weights)
        if config.decoder_weights is not None and task.needs_pretrained_weights:
            from kosmos_plugin.checkpoints.decoder_weights import load_decoder_weights

            load_decoder_weights(model.decoder, config.decoder_weights)
        return model

    @classmethod
    def from_pretrained(cls, model_name_or_path, checkpoint_file="model.pt", data_name_or_path=None, **kwargs):
        """fairseq's hub call: the checkpoint `checkpoint_file` in a folder → `Generator`."""
        from kosmos_plugin.generation.generator import load

        return load(f"{model_name_or_path}/{checkpoint_file}", data=data_name_or_path, **kwargs)

    def get_normalized_probs(self, net_output: tuple, log_probs: bool, sample: Any = None) -> torch.Tensor:
        """(Log-)probabilities in float32, as fairseq's scorers ask for them."""
        logits = net_output[0].float()
        return logits.log_softmax(dim=-1) if log_probs else logits.softmax(dim=-1)


def kosmos_config(options: Any) -> KosmosConfig:
    """The plain dataclass of fairseq's options, whose choices are enums there."""
    names = [field.name for field in dataclasses.fields(KosmosConfig)]
    values = {name: options[name] if isinstance(options, Mapping) else getattr(options, name) for name in names}
    return KosmosConfig(**{name: str(value) if isinstance(value, str) else value for name, value in values.items()})


def fairseq_dataclass(config: type[KosmosConfig]) -> type[FairseqDataclass]:
    """The options of an architecture as fairseq takes them: choices are enums, the input format follows the task."""
    fields: list[tuple[str, Any, Any]] = []
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        kind, default = hints[field.name], field.default
        if typing.get_origin(kind) is types.UnionType:
            kind = typing.Optional[typing.get_args(kind)[0]]  # the one form of it that fairseq knows
        if choices := field.metadata.get("choices"):
            kind = ChoiceEnum(list(choices))
        if field.name in INPUT_FORMAT:
            fields.append((field.name, kind, II(f"task.{field.name}")))
        else:
            metadata = {"help": field.metadata["help"]}
            fields.append((field.name, kind, dataclasses.field(default=default, metadata=metadata)))
    made = dataclasses.make_dataclass(config.__name__, fields, bases=(FairseqDataclass,))
    made.__doc__ = config.__doc__
    return made


def register() -> None:
    """Register every architecture as a fairseq model of its own."""
    for name, config in ARCHITECTURES.items():
        class_name = "".join(word.capitalize() for word in name.split("_")) + "Model"
        model = type(class_name, (KosmosModel,), {"__doc__": config.__doc__})
        register_model(name, dataclass=fairseq_dataclass(config))(model)
