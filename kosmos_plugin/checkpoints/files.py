"""Reading and writing files of weights: one clear error for a file that is broken, nothing half-written left behind."""

import os
import pickle
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from kosmos_plugin.errors import UserError

Tensors = dict[str, torch.Tensor]


def read_fairseq(path: Path) -> dict:
    """A checkpoint of fairseq-train: a dict with `model` (name → tensor) and `cfg`, on the CPU."""
    require_file(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as error:
        raise UserError(f"{path} is not a checkpoint of fairseq: {_first_line(error)}") from None
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise UserError(f"{path} is not a checkpoint of fairseq: it has no weights under 'model'.")
    return state


def read_safetensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    """The tensors and the metadata of one .safetensors file."""
    require_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is not a whole safetensors file: {_first_line(error)}") from None


def require_file(path: Path) -> None:
    """UserError unless there is a file at `path`."""
    if not path.is_file():
        raise UserError(f"{path} does not exist." if not path.exists() else f"{path} is not a file.")


@contextmanager
def written_whole(target: Path, folder: bool = False) -> Iterator[Path]:
    """A path beside `target` to write a file (or a folder's files) to; it becomes `target` when all went well.

    Raises UserError if there is something at `target`, or if it cannot be written; then nothing is left behind.
    """
    if target.exists():
        raise UserError(f"{target} exists already: remove it, or name another target.")
    if not target.absolute().parent.is_dir():
        raise UserError(f"The folder {target.absolute().parent} does not exist.")
    try:
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.absolute().parent))
        try:
            unfinished = scratch / target.name
            if folder:
                unfinished.mkdir()
            yield unfinished
            os.rename(unfinished, target)
        finally:
            shutil.rmtree(scratch)
    except UserError:
        raise
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have their own for a full disk
        raise UserError(f"{target} could not be written: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
