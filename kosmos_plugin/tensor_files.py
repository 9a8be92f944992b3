"""Reading files of tensors: .pt, .safetensors and TorchScript archives. Nothing else in the package opens them.

Such files are downloaded from strangers, and a pickle can run any code. So .pt files are read weights-only, and the
TorchScript in an archive is not run. A damaged or foreign file is one UserError.
"""

import re
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from kosmos_plugin.errors import UserError, require_file

Tensors = dict[str, torch.Tensor]

_ZIP = b"PK\x03\x04"  # how torch tells its format from the one before 1.6
# Members of a TorchScript archive that hold no code.
_DATA_FOLDERS = ("data/", "constants/", ".data/")


def read_pt(path: str | Path, what: str = "a file of weights") -> Any:
    """Read what `torch.save` wrote, onto the CPU, without unpickling anything but tensors and plain values.

    Args:
        path: The file.
        what: What it should be, for errors.

    Raises:
        UserError: The file does not exist, is damaged, or contains other objects.
    """
    require_file(path)
    if is_torchscript(path):
        raise UserError(f"{path} is not {what}: it is a TorchScript archive.")
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocol of a file that is something else
            # mapped into memory, to read the configuration without the weights; torch's old format cannot be
            mapped = file.read(len(_ZIP)) == _ZIP
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
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
    try:
        return "constants.pkl" in torch._C.PyTorchFileReader(str(path)).get_all_records()
    except Exception:  # not a zip archive, or a damaged one
        return False


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


def _why_unreadable(error: Exception) -> str:
    # an UnpicklingError's first lines advise to run the code in the file
    foreign = re.search(r"GLOBAL ([\w.]+) was not an allowed|module ([\w.]+) is blocked", str(error))
    if foreign:
        return f"it contains objects of {foreign[1] or foreign[2]}."
    if isinstance(error, OSError | RuntimeError):
        return first_line(error)
    return "it was not written by torch.save."
