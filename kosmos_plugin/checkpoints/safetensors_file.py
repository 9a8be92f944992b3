"""Any fairseq checkpoint ⇄ one .safetensors file: the weights under their names, bit by bit, and the configuration.

Optimizer and training state stay behind. The file's metadata holds, under `kosmos_plugin`, JSON of the checkpoint's
`cfg` and of which names share one tensor (tied embeddings), since safetensors stores a tensor once.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from kosmos_plugin.checkpoints.files import Tensors, read_safetensors, written_whole
from kosmos_plugin.errors import UserError

METADATA_KEY = "kosmos_plugin"


def write_safetensors(state: dict, target: Path) -> None:
    """Write the weights and the configuration of a fairseq checkpoint."""
    first_name: dict[tuple, str] = {}
    same_as: dict[str, str] = {}
    stored: Tensors = {}
    for name, tensor in state["model"].items():
        memory = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() > 0 and memory in first_name:
            same_as[name] = first_name[memory]
        else:
            first_name[memory] = name
            stored[name] = tensor.clone(memory_format=torch.contiguous_format)
    try:
        metadata = json.dumps({"cfg": state.get("cfg"), "same_as": same_as})
    except TypeError as error:
        raise UserError(f"safetensors cannot express the checkpoint's configuration: {error}") from None
    with written_whole(target) as path:
        save_file(stored, path, metadata={"format": "pt", METADATA_KEY: metadata})


def read_state(path: Path) -> dict:
    """A file of `write_safetensors` as a fairseq checkpoint: `model` and `cfg`."""
    tensors, metadata = read_safetensors(path)
    try:
        ours = json.loads(metadata[METADATA_KEY])
        same_as, cfg = ours["same_as"], ours["cfg"]
        weights = {**tensors, **{name: tensors[other] for name, other in same_as.items()}}
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{path} has no configuration that kosmos-convert wrote; of other safetensors files it reads Hugging Face "
            "folders (config.json beside the weights)."
        ) from None
    return {"model": weights, "cfg": cfg}
