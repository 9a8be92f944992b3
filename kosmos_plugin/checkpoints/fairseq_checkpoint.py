"""Checkpoints of fairseq-train, as .pt or .safetensors: reading a KOSMOS model's, and writing new ones."""

import dataclasses
import logging
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fairseq.dataclass.configs import FairseqConfig
from omegaconf import OmegaConf

from kosmos_plugin.checkpoints.adapter import find_base, is_adapter, merge
from kosmos_plugin.checkpoints.embedded import embedded_state, embedded_vision_model, embedded_vocabulary
from kosmos_plugin.checkpoints.files import new_target, read_fairseq
from kosmos_plugin.checkpoints.safetensors_file import read_state
from kosmos_plugin.data.config import read_data_config
from kosmos_plugin.errors import UserError
from kosmos_plugin.models.config import ARCHITECTURES, INPUT_FORMAT, KosmosConfig
from kosmos_plugin.models.kosmos import Kosmos
from kosmos_plugin.tensor_files import Tensors
from kosmos_plugin.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

VOCABULARY_FOLDER = "vocabulary"
# In a folder, the first of these that it has is read.
CHECKPOINT_FILES = ("model.pt", "model.safetensors", "checkpoint_best.pt", "checkpoint_last.pt")


@dataclass(frozen=True)
class KosmosCheckpoint:
    """A KOSMOS model as read from a checkpoint."""

    config: KosmosConfig
    vocabulary: Vocabulary
    weights: Tensors  # the model's state dict


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read `model`, `cfg` and, if it has one, `task_state` of any fairseq checkpoint, .pt or .safetensors.

    An adapter (`--lora-rank`) is merged into its base.
    """
    state = read_unmerged(path)
    if not is_adapter(state):
        return state
    base = find_base(state, path)
    return merge(state, path, read_unmerged(base), base)


def read_unmerged(path: Path) -> dict[str, Any]:
    """As `read_checkpoint`, but an adapter as it is."""
    return read_state(path) if path.suffix == ".safetensors" else read_fairseq(path)


def read_kosmos(path: Path, data: str | Path | None = None, vocabulary: str | Path | None = None) -> KosmosCheckpoint:
    """Read a KOSMOS model's checkpoint and its vocabulary.

    Args:
        path: The checkpoint, .pt or .safetensors, or a folder with one.
        data: A data YAML, to use its vocabulary.
        vocabulary: A vocabulary folder to use. By default it is the vocabulary that the checkpoint carries. One of
            version 0.1 carries none: then it is the folder `vocabulary` beside it, or that of the training.

    Raises:
        UserError: The file is not a checkpoint of a KOSMOS model, or there is no vocabulary.
    """
    path = checkpoint_file(path)
    state = read_checkpoint(path)
    cfg = state.get("cfg") or {}
    config = model_config(path, cfg.get("model") or {}, embedded_vision_model(state))
    if max(config.decoder_layers, config.resampler_layers) > len(state["model"]):
        raise UserError(f"{path} has fewer weights than its configuration has layers.")
    loaded = read_vocabulary(path, state, data, vocabulary)
    loaded.newlines = (state.get("task_state") or {}).get("newlines", False)  # `</line>` of others was never trained
    return KosmosCheckpoint(config, loaded, state["model"])


def checkpoint_file(path: Path) -> Path:
    """The checkpoint at `path`, a file or a folder with one.

    Raises:
        UserError: There is none, or it cannot be told which.
    """
    if not path.is_dir():
        return path
    known = [path / name for name in CHECKPOINT_FILES if (path / name).is_file()]
    found = known or sorted(file for ending in ("*.pt", "*.safetensors") for file in path.glob(ending))
    if not found:
        if (path / "config.json").is_file():
            raise UserError(f"{path} is a folder of transformers: convert it first (kosmos-convert --to fairseq).")
        raise UserError(f"The folder {path} has no checkpoint: none of {', '.join(CHECKPOINT_FILES)}.")
    if not known and len(found) > 1:
        raise UserError(f"{path} has {len(found)} checkpoints, {found[0].name} and others: name one of them.")
    return found[0]


def read_vocabulary(
    path: Path, state: dict[str, Any], data: str | Path | None = None, vocabulary: str | Path | None = None
) -> Vocabulary:
    """The vocabulary of a checkpoint: the given one, that which it carries, that beside it, or that of its training.

    Args:
        path: The checkpoint's file.
        state: Its content.
        data: A data YAML, if its vocabulary is to be used.
        vocabulary: A vocabulary folder, if it is to be used.

    Raises:
        UserError: There is none, or it is another one than in the training.
    """
    loaded = None
    if data is None and vocabulary is None:
        loaded = embedded_vocabulary(state, path)
        if (path.parent / VOCABULARY_FOLDER).is_dir():
            vocabulary = path.parent / VOCABULARY_FOLDER
    if loaded is None:
        task = (state.get("cfg") or {}).get("task") or {}
        recorded = {name: value for name, value in task.items() if isinstance(value, str)}
        loaded = _load_vocabulary(data or recorded.get("data"), vocabulary or recorded.get("vocabulary"))
    if vocabulary_of(state) not in (None, loaded.fingerprint):
        raise UserError(f"{path} was trained with another vocabulary: give its own (--vocabulary or --data).")
    return loaded


def standing_alone(
    path: Path, state: dict[str, Any], data: str | Path | None = None, vocabulary: str | Path | None = None
) -> dict[str, Any]:
    """The content of a KOSMOS model's checkpoint with what it needs to load anywhere; of others as it is.

    Args:
        path: The checkpoint's file.
        state: Its content.
        data: A data YAML with its vocabulary, if that moved.
        vocabulary: Its vocabulary folder, if that moved.

    Raises:
        UserError: A vocabulary is given, and is not that of the checkpoint.
    """
    options = (state.get("cfg") or {}).get("model") or {}
    if options.get("_name") not in ARCHITECTURES:
        return state
    try:
        loaded = read_vocabulary(path, state, data, vocabulary)
    except UserError as error:
        if data is not None or vocabulary is not None:
            raise
        logger.warning("The result will not load without its vocabulary: %s", error)
        return state
    config = model_config(path, options, embedded_vision_model(state))
    task_state = state.get("task_state") or {}
    loaded.newlines = task_state.get("newlines", False)
    return {**state, "task_state": {**task_state, **embedded_state(loaded, config.vision_model)}}


def vocabulary_of(state: dict[str, Any]) -> str | None:
    """The fingerprint of the vocabulary that a checkpoint was trained with; None if it records none."""
    return (state.get("task_state") or {}).get("vocabulary")


def new_checkpoint(architecture: str, config: KosmosConfig, weights: Tensors, vocabulary: str) -> dict[str, Any]:
    """A checkpoint at update 0 of fairseq-train: `--restore-file` takes it, and so do fairseq's loaders.

    Args:
        architecture: A key of ARCHITECTURES.
        config: The model's configuration.
        weights: The model's state dict.
        vocabulary: The vocabulary folder.
    """
    defaults = OmegaConf.to_container(OmegaConf.structured(FairseqConfig()), resolve=True, enum_to_str=True)
    assert isinstance(defaults, dict)
    cfg = {
        **defaults,
        "model": {**dataclasses.asdict(config), "_name": architecture},
        "criterion": {"_name": "multimodal_cross_entropy"},
        "task": {
            "_name": "kosmos_multimodal",
            "data": None,
            "vocabulary": vocabulary,
            **{name: getattr(config, name) for name in INPUT_FORMAT},
        },
    }
    return training_state({"model": weights, "cfg": cfg})


def training_state(state: dict[str, Any]) -> dict[str, Any]:
    """Complete `model`, `cfg` and `task_state` with what else fairseq-train expects in a checkpoint, at update 0."""
    return {
        "args": None,
        **state,
        "optimizer_history": [{"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}],
        "last_optimizer_state": None,
        "extra_state": {
            "train_iterator": {"epoch": 1, "iterations_in_epoch": 0, "updates_in_epoch": 0, "updates_per_epoch": 1}
        },
        "task_state": state.get("task_state") or {},
    }


def write_fairseq(state: dict[str, Any], target: Path) -> None:
    """Write a checkpoint as .pt. Raises UserError, and leaves nothing behind, if that fails."""
    with new_target(target) as path, path.open("wb") as file:  # a path would put its temporary name in the file
        torch.save(state, file)


def build_empty(config: KosmosConfig, vocabulary: Vocabulary) -> Kosmos:
    """Build a model on the meta device, without memory for its weights."""
    with torch.device("meta"):
        return Kosmos.build(config, len(vocabulary), vocabulary.pad, pretrained_vision=False)


def model_config(path: Path, options: dict[str, Any], vision_model: str | None = None) -> KosmosConfig:
    """The configuration in a checkpoint; options that it lacks have the architecture's defaults.

    `vision_model` is the content of its vision encoder's JSON file, if it carries that.
    """
    architecture = options.get("_name")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise UserError(
            f"{path} is a checkpoint of {architecture or 'an unknown architecture'}, not of a KOSMOS model "
            f"({', '.join(ARCHITECTURES)})."
        )
    values = dataclasses.asdict(ARCHITECTURES[architecture]())
    hints = typing.get_type_hints(KosmosConfig)
    for name, default in values.items():
        values[name] = options.get(name, default)
        if not _is_of_type(values[name], hints[name]):
            raise UserError(f"{path} has an invalid configuration: {name} is {values[name]!r}.")
    config = KosmosConfig(**values)
    beside = path.parent / Path(config.vision_model).name
    if config.vision_model.endswith(".json"):
        if beside.is_file():
            config.vision_model = str(beside)
        elif vision_model is not None and not Path(config.vision_model).is_file():
            config.vision_model = vision_model
    return config


def _is_of_type(value: Any, hint: Any) -> bool:
    """Whether a value is of a field's type; whole numbers are also valid where fractions are."""
    return isinstance(value, (int, float) if hint is float else hint) and (hint is bool or not isinstance(value, bool))


def _load_vocabulary(data: str | Path | None, folder: str | Path | None) -> Vocabulary:
    """The vocabulary in `folder`, or if that is None the data YAML's."""
    try:
        if folder is not None:
            return Vocabulary.load(folder)
        if data is not None:
            return Vocabulary.load(read_data_config(data).vocabulary)
        raise UserError("The checkpoint does not say where its vocabulary is.")
    except UserError as error:
        raise UserError(f"{error} (Give --data or --vocabulary if the data the model was trained on moved.)") from None
