"""Reading and writing files of weights: a broken file is a UserError, and a failed write leaves nothing behind."""

import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from kosmos_plugin.atomic import atomic_path
from kosmos_plugin.errors import UserError, require_file

Tensors = dict[str, torch.Tensor]


def read_fairseq(path: Path) -> dict[str, Any]:
    """Read a checkpoint of fairseq-train: a dict with `model` (name → tensor) and `cfg`, on the CPU."""
    require_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocol of a file that is something else
            # mapped into memory, to read the configuration without the weights; torch's old format cannot be
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # the unpickler raises anything from KeyError to struct.error on other bytes
        raise UserError(f"{path} is not a checkpoint of fairseq: {_why_unreadable(error)}") from None
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise UserError(f"{path} is not a checkpoint of fairseq: it has no weights under 'model'.")
    return state


def read_safetensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    """Read the tensors and the metadata of one .safetensors file."""
    require_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is not a valid safetensors file: {_first_line(error)}") from None


@contextmanager
def new_target(target: Path, folder: bool = False) -> Iterator[Path]:
    """Yield a temporary path to write to, which becomes `target` if the block succeeds.

    Args:
        target: The new file or folder.
        folder: Whether it is a folder, which is then created.

    Raises:
        UserError: `target` exists, its parent does not, or it cannot be written. Nothing is left behind then.
    """
    if target.exists():
        raise UserError(f"{target} already exists: remove it, or name another target.")
    parent = target.absolute().parent
    if not parent.is_dir():
        raise UserError(f"The folder {parent} does not exist.")
    try:
        with atomic_path(target) as path:
            if folder:
                path.mkdir()
            yield path
    except UserError:
        raise
    except (OSError, RuntimeError, SafetensorError) as error:  # a full disk is a RuntimeError in torch
        raise UserError(f"{target} could not be written: {_first_line(error)}") from None


def _why_unreadable(error: Exception) -> str:
    if isinstance(error, OSError | RuntimeError):
        return _first_line(error)
    # an UnpicklingError's first lines advise to run the code in the file
    foreign = re.search(r"Unsupported global: GLOBAL ([\w.]+) was", str(error))
    return f"it contains objects of {foreign[1]}." if foreign else "it was not written by torch.save."


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
