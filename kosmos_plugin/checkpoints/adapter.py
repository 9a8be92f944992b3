"""Checkpoints of `--lora-rank` hold only an adapter. Here it finds its base, and is merged into it.

    A [N, in], B [out, N] of each adapted layer ─┐
    W [out, in] of the base ─────────────────────┴─→ W + (alpha / N) B A

A checkpoint records the path of its base (`cfg.model.lora_base`), and a fingerprint of the base's weights
(`task_state.lora_base`), so that no other model is taken for it.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch

from kosmos_plugin.errors import UserError
from kosmos_plugin.models.lora import A_SUFFIX, B_SUFFIX, lora_alpha
from kosmos_plugin.tensor_files import Tensors

# Beside the adapter, these come before the path that it records, so that a folder with both can be moved.
BASE_FILES = ("base.pt", "base.safetensors")
VALUES_OF_A_TENSOR = 16


def is_adapter(state: dict[str, Any]) -> bool:
    """Whether a checkpoint holds only an adapter."""
    rank = ((state.get("cfg") or {}).get("model") or {}).get("lora_rank")
    return isinstance(rank, int) and rank > 0


def find_base(state: dict[str, Any], path: Path) -> Path:
    """The base of the adapter at `path`. Raises UserError if there is none."""
    recorded = state["cfg"]["model"].get("lora_base")
    beside = [path.parent / name for name in BASE_FILES]
    for base in (*beside, *([Path(recorded)] if isinstance(recorded, str) else [])):
        if base.is_file():
            return base
    raise UserError(
        f"{path} is an adapter for {recorded}, which does not exist: put that checkpoint, or a link to it, beside it "
        f"as {BASE_FILES[0]}."
    )


def require_whole_model(state: dict[str, Any], path: str | Path) -> None:
    """Raise UserError if the checkpoint at `path` holds only an adapter."""
    if is_adapter(state):
        raise UserError(
            f"{path} is itself an adapter (--lora-rank {state['cfg']['model']['lora_rank']}): merge it into its base, "
            f"kosmos-convert --to fairseq {path} merged.pt, and use the result."
        )


def base_fingerprint(weights: Tensors) -> str:
    """16 hexadecimal digits that tell trained models apart: of all names and shapes, and a few values of each tensor.

    It takes a moment also for a large model, of which only parts are read; it does not detect a damaged file.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(weights.items()):
        if isinstance(tensor, torch.Tensor):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            values = tensor.flatten()
            places = torch.linspace(0, max(len(values) - 1, 0), min(VALUES_OF_A_TENSOR, len(values))).long()
            digest.update(values[places].float().numpy().tobytes())
    return digest.hexdigest()


def require_same_base(state: dict[str, Any], fingerprint: str, path: str | Path, base: str | Path) -> None:
    """Raise UserError unless the adapter at `path` was trained on the base with this fingerprint."""
    if (state.get("task_state") or {}).get("lora_base") not in (None, fingerprint):
        raise UserError(f"{path} is an adapter for another model than {base}, whose weights differ.")


def merge(state: dict[str, Any], path: Path, base_state: dict[str, Any], base: Path) -> dict[str, Any]:
    """The checkpoint of the whole model: adapted matrices are float32, the other weights the base's.

    Args:
        state: A checkpoint that holds an adapter.
        path: Where it is.
        base_state: The checkpoint of its base.
        base: Where that is.

    Raises:
        UserError: They do not belong together.
    """
    require_whole_model(base_state, base)
    require_same_base(state, base_fingerprint(base_state["model"]), path, base)
    options = state["cfg"]["model"]
    scale = _scale(options, path)
    weights, left = dict(base_state["model"]), dict(state["model"])
    for name in [name.removesuffix(A_SUFFIX) for name in left if name.endswith(A_SUFFIX)]:
        a, b, matrix = left.pop(f"{name}{A_SUFFIX}"), left.pop(f"{name}{B_SUFFIX}", None), f"{name}.weight"
        if not _fit(weights.get(matrix), a, b):
            raise UserError(f"{path} does not fit its base {base}: {name} differs.")
        weights[matrix] = weights[matrix].float() + (b.float() @ a.float()) * scale
    if left:
        raise UserError(f"{path} is not an adapter: it has {min(left)}.")
    task_state = {key: value for key, value in (state.get("task_state") or {}).items() if key != "lora_base"}
    whole = {**options, "lora_rank": 0, "lora_base": None}
    return {"model": weights, "cfg": {**state["cfg"], "model": whole}, "task_state": task_state}


def _scale(options: dict[str, Any], path: Path) -> float:
    alpha = options.get("lora_alpha")
    if not isinstance(alpha, int | float | None):
        raise UserError(f"{path} has an invalid configuration: lora_alpha is {alpha!r}.")
    return lora_alpha(options["lora_rank"], alpha) / options["lora_rank"]


def _fit(weight: Any, a: Any, b: Any) -> bool:
    """Whether W, A and B have shapes [out, in], [N, in] and [out, N]."""
    if not all(isinstance(x, torch.Tensor) and x.dim() == 2 for x in (weight, a, b)):
        return False
    return weight.shape == (len(b), a.shape[1]) and b.shape[1] == len(a)
