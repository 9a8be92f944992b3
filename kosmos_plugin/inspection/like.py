"""The options of a training, read from its command or from one of its checkpoints (`--like`)."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from kosmos_plugin.checkpoints.fairseq_checkpoint import read_kosmos
from kosmos_plugin.planning.command import read_training_command

_TASK_OPTIONS = ("image_tokens", "image_size", "image_fit", "image_decoding", "tokens_per_sample")


def read_like(path: str) -> dict[str, Any]:
    """The options of a training that change its data.

    Args:
        path: A command, as `read_training_command` takes it, or a checkpoint of a KOSMOS model (.pt, .safetensors).

    Returns:
        `data` (None if there is none) and values of `BatchOptions`, by name. What an older checkpoint does not have is
        left out.

    Raises:
        UserError: The file is missing, broken or not of a KOSMOS model.
    """
    if path.endswith((".pt", ".safetensors")):
        config = read_kosmos(Path(path))["cfg"]
        return {
            **_options(config),
            "data": config.task.data,
            "vocabulary": config.task.vocabulary,
            "ranks": config.distributed_training.distributed_world_size,
        }
    command = read_training_command(path, "--like")
    return {
        **_options(command.config),
        "data": command.data,
        "vocabulary": command.vocabulary,
        "ranks": command.ranks,
    }


def _options(config: DictConfig) -> dict[str, Any]:
    task = {name: config.task[name] for name in _TASK_OPTIONS if name in config.task}
    return {
        **{name: value if isinstance(value, int) else str(value) for name, value in task.items()},  # choices are enums
        "seed": config.common.seed,
        "update_freq": config.optimization.update_freq[0],
    }
