"""Writing a training's checkpoint under all of its names, and the error if there is no room for it."""

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq.file_io import PathManager

from kosmos_plugin.compat.atomic_files import copy, replacement
from kosmos_plugin.errors import UserError
from kosmos_plugin.tensor_files import first_line

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_checkpoint(state: dict[str, Any], paths: Sequence[str]) -> None:
    """Write a checkpoint to the first path, and copy it to the others.

    At every moment each path is what it was before, or the whole new checkpoint. The copies are files of their own:
    hard links would all change when a user copies another checkpoint over one of them.

    Args:
        state: What `torch.save` writes, on the CPU.
        paths: Local paths; with iopath also remote ones, whose writes are not atomic.

    Raises:
        UserError: A file could not be written. It is as it was before, and nothing else is left of it.
    """
    first, *others = paths
    path = first
    try:
        if PathManager.supports_rename(first):
            # a file, as a path would put its temporary name into the archive
            with replacement(first) as temporary, open(temporary, "wb") as file:
                torch.save(state, file)
        else:
            checkpoint_utils.torch_persistent_save(state, first)
        for path in others:
            copy(first, path, overwrite=True)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path} could not be written, and is as it was: {_reason(error, state, paths)}") from error


def _reason(error: OSError | RuntimeError, state: dict[str, Any], paths: Sequence[str]) -> str:
    """Why a checkpoint could not be written, with the room that it takes if there is too little."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__  # torch hides what writing to the file raised
    if cause is None:
        return f"{first_line(error)}."
    if cause.errno not in _NO_ROOM:
        return f"{cause.strerror}."
    folder = os.path.dirname(os.path.abspath(paths[0]))
    size, free = bytes_of(state), shutil.disk_usage(folder).free
    names = f", under {len(paths)} names" if len(paths) > 1 else ""
    return f"{cause.strerror}. A checkpoint takes {_shown(size)}{names}, and {_shown(free)} are free in {folder}."


def bytes_of(state: Any) -> int:
    """Bytes that the tensors of a state take in a file, where those with the same memory are once."""
    return sum({storage.data_ptr(): storage.nbytes() for storage in _storages(state)}.values())


def _storages(state: Any) -> Iterator[torch.UntypedStorage]:
    if isinstance(state, torch.Tensor):
        yield state.untyped_storage()
    elif isinstance(state, dict):
        for value in state.values():
            yield from _storages(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from _storages(value)


def _shown(count: int) -> str:
    """A number of bytes, e.g. "14.2 GB"."""
    value = float(count)
    for unit in ("bytes", "kB", "MB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.1f} GB"
