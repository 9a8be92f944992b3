"""Any fairseq checkpoint ⇄ one .safetensors file: the weights under their names, bit by bit, and the configuration.

Optimizer and training state are not converted. The file's metadata holds, under `kosmos_plugin`, a JSON object with the
checkpoint's `cfg` and `task_state` and, for each tensor in order, the name that it is stored under: tied tensors are
stored once.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from kosmos_plugin.checkpoints.files import new_target, require_parts
from kosmos_plugin.errors import UserError
from kosmos_plugin.tensor_files import read_safetensors

METADATA_KEY = "kosmos_plugin"


def write_safetensors(state: dict[str, Any], target: Path) -> None:
    """Write the weights and the configuration of a fairseq checkpoint.

    Raises:
        UserError: `target` exists or cannot be written, or the configuration is not JSON. Nothing is left behind then.
    """
    if not all(isinstance(x, torch.Tensor) for x in state["model"].values()):
        raise UserError("safetensors cannot express the checkpoint: its weights are not all tensors.")
    stored_as = _stored_names(state["model"])
    try:
        metadata = json.dumps({"cfg": state.get("cfg"), "task_state": state.get("task_state"), "stored_as": stored_as})
    except TypeError as error:
        raise UserError(f"safetensors cannot express the checkpoint's configuration: {error}") from None
    with new_target(target) as path:
        # Clones: safetensors refuses tensors that share memory, and those that are not contiguous.
        stored = {
            name: state["model"][name].clone(memory_format=torch.contiguous_format) for name in set(stored_as.values())
        }
        save_file(stored, path, metadata={"format": "pt", METADATA_KEY: metadata})


def read_state(path: Path) -> dict[str, Any]:
    """Read a file that `write_safetensors` wrote, as a fairseq checkpoint: `model`, `cfg` and `task_state`."""
    tensors, metadata = read_safetensors(path)
    try:
        ours = json.loads(metadata[METADATA_KEY])
        require_parts(ours, path)
        weights = {name: tensors[stored] for name, stored in ours["stored_as"].items()}
        return {"model": weights, "cfg": ours["cfg"], "task_state": ours.get("task_state")}
    except UserError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        raise UserError(
            f"{path} was not written by kosmos-convert. Other safetensors files are read only as Hugging Face folders "
            "(config.json beside the weights)."
        ) from None


def _stored_names(weights: dict[str, torch.Tensor]) -> dict[str, str]:
    """The name that each tensor is stored under: the first of those that are the same view of the same memory."""
    first_names: dict[tuple, str] = {}
    stored_as = {}
    for name, tensor in weights.items():
        memory = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        stored_as[name] = first_names.setdefault(memory, name) if tensor.numel() > 0 else name
    return stored_as
