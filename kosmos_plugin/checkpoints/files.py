"""Reading and writing files of weights: a broken file is a UserError, and a failed write leaves nothing behind."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from kosmos_plugin.atomic import atomic_path
from kosmos_plugin.errors import UserError
from kosmos_plugin.tensor_files import first_line, read_pt


def read_fairseq(path: Path, mmap: bool = True, verify: bool = True) -> dict[str, Any]:
    """Read a checkpoint of fairseq-train: a dict with `model` (name → tensor) and `cfg`, on the CPU.

    Args:
        path: The file.
        mmap: See `read_pt`.
        verify: See `read_pt`.

    Raises:
        UserError: The file is missing, damaged or not a checkpoint of fairseq.
    """
    state = read_pt(path, "a checkpoint of fairseq", mmap, verify)
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise UserError(f"{path} is not a checkpoint of fairseq: it has no weights under 'model'.")
    require_parts(state, path)
    return state


def require_parts(state: dict[str, Any], path: Path) -> None:
    """Raise UserError unless the parts of a checkpoint that are read here are dicts, where it has them."""
    cfg = state.get("cfg")
    parts = {"cfg": cfg, "task_state": state.get("task_state")}
    if isinstance(cfg, dict):
        parts |= {f"cfg.{name}": cfg.get(name) for name in ("model", "task")}
    for name, part in parts.items():
        if not isinstance(part, dict | None):
            raise UserError(f"{path} is not a checkpoint of fairseq: its {name} is {type(part).__name__}, not a dict.")


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
        raise UserError(f"{target} could not be written: {first_line(error)}") from None
