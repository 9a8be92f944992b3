"""The options of a training, read from its command or from one of its checkpoints (`--like`)."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kosmos_plugin.checkpoints.fairseq_checkpoint import VOCABULARY_FOLDER, read_unmerged
from kosmos_plugin.errors import UserError, require_file
from kosmos_plugin.models.config import ARCHITECTURES
from kosmos_plugin.planning.command import read_training_command

_TASK_OPTIONS = ("image_tokens", "image_size", "image_fit", "image_decoding", "tokens_per_sample")


def read_like(path: str) -> dict[str, Any]:
    """The options of a training that change its data.

    Args:
        path: A command, as `read_training_command` takes it, or a checkpoint of a KOSMOS model (.pt, .safetensors).

    Returns:
        `data` (None if there is none) and values of `BatchOptions`, by name. Options that an older checkpoint lacks are
        left out.

    Raises:
        UserError: The file is missing, broken or not of a KOSMOS model.
    """
    if path.endswith((".pt", ".safetensors")):
        return _read_checkpoint(Path(path))
    command = read_training_command(path, "--like")
    return {
        **_options(command.config),
        "data": command.data,
        "vocabulary": command.vocabulary,
        "ranks": command.ranks,
    }


def _read_checkpoint(path: Path) -> dict[str, Any]:
    require_file(path)
    try:
        config = OmegaConf.create(read_unmerged(path).get("cfg") or {})
        architecture = OmegaConf.select(config, "model._name")
    except OmegaConfBaseException:
        raise UserError(f"--like {path} has a configuration that cannot be read.") from None
    if architecture not in ARCHITECTURES:
        kind = architecture or "an unknown architecture"
        raise UserError(f"--like {path} is a checkpoint of {kind}, not of a KOSMOS model ({', '.join(ARCHITECTURES)}).")
    beside = path.parent / VOCABULARY_FOLDER  # it comes first wherever a model is loaded
    try:
        return {
            **_options(config),
            "data": config.task.data,
            "vocabulary": str(beside) if beside.is_dir() else config.task.vocabulary,
            "ranks": config.distributed_training.distributed_world_size,
        }
    except (OmegaConfBaseException, AttributeError, LookupError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"--like {path} lacks a part of a training's configuration: {reason}") from None


def _options(config: DictConfig) -> dict[str, Any]:
    task = {name: config.task[name] for name in _TASK_OPTIONS if name in config.task}
    return {
        **{name: value if isinstance(value, int) else str(value) for name, value in task.items()},  # choices are enums
        "seed": config.common.seed,
        "update_freq": config.optimization.update_freq[0],
    }
