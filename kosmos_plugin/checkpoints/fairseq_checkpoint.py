"""A KOSMOS model's checkpoint as fairseq's loaders take it, from a .pt or a .safetensors file, and new ones."""

import dataclasses
from pathlib import Path

import torch
from fairseq import tasks
from fairseq.dataclass.configs import FairseqConfig
from omegaconf import OmegaConf

from kosmos_plugin.checkpoints.files import Tensors, read_fairseq, require_file, written_whole
from kosmos_plugin.checkpoints.safetensors_file import read_state
from kosmos_plugin.errors import UserError
from kosmos_plugin.models.config import ARCHITECTURES, KosmosConfig

VOCABULARY_FOLDER = "vocabulary"


def read_checkpoint(path: Path) -> dict:
    """The `model` and `cfg` of any fairseq checkpoint, .pt or .safetensors."""
    return read_state(path) if path.suffix == ".safetensors" else read_fairseq(path)


def read_kosmos(path: Path, data: str | None = None, vocabulary: str | None = None) -> dict:
    """The same of a KOSMOS model, `cfg` as an OmegaConf that says where the vocabulary is.

    `data` (a data YAML) or `vocabulary` (a folder) replace what the model was trained with; without them a folder
    `vocabulary` beside the checkpoint comes first, so that a folder with both can be moved.
    """
    require_file(path)
    state = read_checkpoint(path)
    architecture = ((state.get("cfg") or {}).get("model") or {}).get("_name")
    if architecture not in ARCHITECTURES:
        raise UserError(
            f"{path} is a checkpoint of {architecture or 'an unknown architecture'}, not of a KOSMOS model "
            f"({', '.join(ARCHITECTURES)})."
        )
    cfg = OmegaConf.create(state["cfg"], flags={"allow_objects": True})
    beside = path.parent / VOCABULARY_FOLDER
    if data is None and vocabulary is None and beside.is_dir():
        vocabulary = str(beside)
    for name, value in (("data", data), ("vocabulary", vocabulary)):
        if value is not None:
            cfg.task[name] = value
    model_file = path.parent / Path(cfg.model.vision_model).name
    if cfg.model.vision_model.endswith(".json") and model_file.is_file():
        cfg.model.vision_model = str(model_file)
    return {**state, "cfg": cfg}


def new_checkpoint(architecture: str, config: KosmosConfig, weights: Tensors, vocabulary: str) -> dict:
    """A checkpoint at update 0 of fairseq-train: `--restore-file` takes it, and so do fairseq's loaders."""
    cfg = OmegaConf.to_container(OmegaConf.structured(FairseqConfig()), resolve=True, enum_to_str=True)
    cfg["model"] = {**dataclasses.asdict(config), "_name": architecture}
    cfg["criterion"] = {"_name": "multimodal_cross_entropy"}
    cfg["task"] = {
        "_name": "kosmos_multimodal",
        "data": None,
        "vocabulary": vocabulary,
        "image_tokens": config.image_tokens,
        "image_size": config.image_size,
        "image_fit": config.image_fit,
        "tokens_per_sample": config.tokens_per_sample,
    }
    return training_state({"model": weights, "cfg": cfg})


def training_state(state: dict) -> dict:
    """`model` and `cfg` with what fairseq-train expects besides in a checkpoint: nothing trained yet."""
    return {
        "args": None,
        **state,
        "optimizer_history": [{"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}],
        "last_optimizer_state": None,
        "extra_state": {
            "train_iterator": {"epoch": 1, "iterations_in_epoch": 0, "updates_in_epoch": 0, "updates_per_epoch": 1}
        },
        "task_state": {},
    }


def write_fairseq(state: dict, target: Path) -> None:
    """Write a checkpoint whole or not at all."""
    with written_whole(target) as path:
        torch.save(state, path)


def build_empty(state: dict):
    """A checkpoint's task, and its model without memory for its weights (on the meta device)."""
    cfg = OmegaConf.create(state["cfg"], flags={"allow_objects": True})
    task = tasks.setup_task(cfg.task, from_checkpoint=True)
    with torch.device("meta"):
        return task, task.build_model(cfg.model, from_checkpoint=True)
