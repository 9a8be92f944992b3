"""Any fairseq checkpoint ⇄ one .safetensors file: the weights under their names, bit by bit, and the configuration.

Optimizer and training state stay behind. The file's metadata holds, under `kosmos_plugin`, JSON of the checkpoint's
`cfg` and of the name each tensor is stored under, in order: of tied ones safetensors stores one.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from kosmos_plugin.checkpoints.files import read_safetensors, written_whole
from kosmos_plugin.errors import UserError

METADATA_KEY = "kosmos_plugin"


def write_safetensors(state: dict, target: Path) -> None:
    """Write the weights and the configuration of a fairseq checkpoint."""
    name_of: dict[tuple, str] = {}
    stored_as = {}
    for name, tensor in state["model"].items():
        memory = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        stored_as[name] = name_of.setdefault(memory, name) if tensor.numel() > 0 else name
    stored = {
        name: state["model"][name].clone(memory_format=torch.contiguous_format) for name in set(stored_as.values())
    }
    try:
        metadata = json.dumps({"cfg": state.get("cfg"), "stored_as": stored_as})
    except TypeError as error:
        raise UserError(f"safetensors cannot express the checkpoint's configuration: {error}") from None
    with written_whole(target) as path:
        save_file(stored, path, metadata={"format": "pt", METADATA_KEY: metadata})


def read_state(path: Path) -> dict:
    """A file of `write_safetensors` as a fairseq checkpoint: `model` and `cfg`."""
    tensors, metadata = read_safetensors(path)
    try:
        ours = json.loads(metadata[METADATA_KEY])
        weights = {name: tensors[stored] for name, stored in ours["stored_as"].items()}
        return {"model": weights, "cfg": ours["cfg"]}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(
            f"{path} has no configuration that kosmos-convert wrote; of other safetensors files it reads Hugging Face "
            "folders (config.json beside the weights)."
        ) from None
