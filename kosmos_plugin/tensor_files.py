"""Reading files of tensors: .pt, .safetensors and TorchScript archives. Nothing else in the package opens them.

Such files are downloaded from strangers, and a pickle can run any code. So .pt files are read weights-only, and the
TorchScript in an archive is not run. A damaged or foreign file is one UserError; that a .pt file is whole is known from
its checksums.
"""

import logging
import os
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from kosmos_plugin import zip_checksums
from kosmos_plugin.errors import UserError, require_file

logger = logging.getLogger(__name__)

Tensors = dict[str, torch.Tensor]

_ZIP = b"PK\x03\x04"  # how torch tells its format from the one before 1.6
# Members of a TorchScript archive that hold no code.
_DATA_FOLDERS = ("data/", "constants/", ".data/")

_verified: set[tuple[int, ...]] = set()  # files whose checksums this process has compared


def read_pt(path: str | Path, what: str = "a file of weights", mmap: bool = True, verify: bool = True) -> Any:
    """Read what `torch.save` wrote, onto the CPU, without unpickling anything but tensors and plain values.

    Args:
        path: The file.
        what: What it should be, for errors.
        mmap: Map tensors into memory, so that only those that are used are read; the file must not change while they
            are. torch's format before 1.6 is always read whole.
        verify: Compare the checksums of the whole file first, once in a process. torch's format before 1.6 has none.

    Raises:
        UserError: The file does not exist, is damaged, or contains other objects.
    """
    require_file(path)
    with open(path, "rb") as file:
        is_zip = file.read(len(_ZIP)) == _ZIP
    if is_zip and (problem := _archive_problem(path)):
        raise UserError(f"{path} is not {what}: {problem}")
    if is_zip and verify:
        _verify_checksums(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocol of a file that is something else
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and is_zip)
    except Exception as error:  # the unpickler raises anything from KeyError to struct.error on other bytes
        raise UserError(f"{path} is not {what}: {_why_unreadable(error)}") from None


def read_safetensors(path: str | Path) -> tuple[Tensors, dict[str, str]]:
    """Read the tensors and the metadata of one .safetensors file.

    Raises:
        UserError: The file does not exist or is damaged.
    """
    require_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except Exception as error:  # also torch's own errors, of types and sizes that it lacks
        raise UserError(f"{path} is not a valid safetensors file: {first_line(error)}") from None


def is_torchscript(path: str | Path) -> bool:
    """Whether a file is a TorchScript archive, as `torch.load` decides: `constants.pkl` is in its own top folder."""
    records = _records(path)
    return records is not None and "constants.pkl" in records


def read_torchscript(path: str | Path) -> Tensors:
    """Read the parameters and buffers of a TorchScript archive.

    Raises:
        UserError: The file is damaged or not an archive, or loading it would run code of it.
    """
    require_file(path)
    try:
        archive = torch._C.PyTorchFileReader(str(path))
        code = (name for name in archive.get_all_records() if not name.lower().startswith(_DATA_FOLDERS))
        # `__setstate__` runs while the archive is loaded, and TorchScript can write files.
        if any(b"__setstate__" in archive.get_record(name) for name in code):
            raise UserError(f"{path} would run code of its own (a __setstate__), so it is not read.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return torch.jit.load(str(path), map_location="cpu").state_dict()
    except UserError:
        raise
    except Exception as error:  # torch raises anything from RuntimeError to UnicodeDecodeError
        raise UserError(f"{path} is not a valid TorchScript archive: {first_line(error)}") from None


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type if it has none."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _verify_checksums(path: str | Path) -> None:
    """Raise UserError unless a file of torch's zip format is as it was written."""
    status = os.stat(path)
    version = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if version in _verified:
        return
    try:
        if not zip_checksums.verify(path):
            logger.warning(f"{path} was written without checksums: whether it is as it was written is not known.")
    except zip_checksums.Damaged as problem:
        raise UserError(f"{path} is damaged: {problem}.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    _verified.add(version)


def _records(path: str | Path) -> list[str] | None:
    """The names of the members of one of torch's zip archives; None for another file, or a damaged one."""
    try:
        return torch._C.PyTorchFileReader(str(path)).get_all_records()
    except Exception:  # of C++, with a stack trace in its message
        return None


def _archive_problem(path: str | Path) -> str | None:
    records = _records(path)
    if records is None:
        return "it is cut short or damaged."
    return "it is a TorchScript archive." if "constants.pkl" in records else None


def _why_unreadable(error: Exception) -> str:
    # an UnpicklingError's first lines advise to run the code in the file
    foreign = re.search(r"GLOBAL ([\w.]+) was not an allowed|module ([\w.]+) is blocked", str(error))
    if foreign:
        return f"it contains objects of {foreign[1] or foreign[2]}."
    if isinstance(error, OSError | RuntimeError):
        return first_line(error)
    return "it was not written by torch.save."
