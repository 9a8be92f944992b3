"""Where a model runs and in which precision, as users say it or by default."""

import torch

from kosmos_plugin.errors import UserError
from kosmos_plugin.generation.options import DTYPES
from kosmos_plugin.tensor_files import first_line


def inference_device(name: str | torch.device | None = None) -> torch.device:
    """A device by torch's name for it; None: the current GPU, or the CPU if there is none.

    Raises:
        UserError: There is no such device.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).tolist()  # "meta" has no values
    except (RuntimeError, AssertionError) as error:  # NotImplementedError, which is a RuntimeError, too
        raise UserError(f"The device {str(name)!r} cannot be used: {first_line(error)}") from None
    return device


def inference_dtype(name: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The precision of weights and activations; None: bfloat16 on GPUs that compute in it, float32 elsewhere.

    Raises:
        UserError: `name` is none of DTYPES.
    """
    if name is None:
        # Older GPUs than Ampere convert each number to float32 and back.
        fast = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if fast else torch.float32
    known = {dtype: getattr(torch, dtype) for dtype in DTYPES}
    if isinstance(name, torch.dtype) and name in known.values():
        return name
    if name not in known:
        raise UserError(f"dtype must be one of {', '.join(known)}, not {name!r}.")
    return known[name]
