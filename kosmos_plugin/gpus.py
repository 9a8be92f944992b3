"""GPUs that models are trained on: memory, and peak speed in 16 bits."""

import re
from dataclasses import dataclass

from kosmos_plugin.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU."""

    name: str  # its words occur in torch's name of the device
    memory: float  # GiB, as torch reports it
    tflops: float  # dense bf16 with float32 sums, from the maker's data sheet


# If the words of several occur, the first is the GPU.
GPUS = (
    Gpu("GB200", 184.0, 2500),
    Gpu("B200", 178.3, 2250),
    Gpu("GH200", 94.5, 989),
    Gpu("H200 NVL", 139.8, 835),
    Gpu("H200", 139.8, 989),
    Gpu("H100 NVL", 93.1, 835),
    Gpu("H100 PCIe", 79.1, 756),
    Gpu("H100", 79.1, 989),
    Gpu("H800", 79.1, 989),
    Gpu("H20", 95.0, 148),
    Gpu("A100 40GB", 39.4, 312),
    Gpu("A100", 79.1, 312),
    Gpu("A800", 79.1, 312),
    Gpu("A40", 44.3, 149.7),
    Gpu("A30", 23.5, 165),
    Gpu("A10", 22.0, 125),
    Gpu("L40S", 44.4, 362),
    Gpu("L40", 44.4, 181),
    Gpu("L4", 22.0, 121),
    Gpu("RTX 6000 Ada", 47.4, 364.2),
    Gpu("RTX A6000", 47.4, 154.8),
    Gpu("RTX 5090", 31.4, 209.5),
    Gpu("RTX 4090", 23.5, 165.2),
    Gpu("RTX 3090", 23.6, 71),
    Gpu("MI325X", 255.9, 1307),
    Gpu("MI300X", 191.9, 1307),
)
# Words of devices that have the name of one in the table and are slower: parts of a GPU, and models for laptops.
_SLOWER = {"MIG", "LAPTOP", "MAX", "D", "TI", "SUPER", "GRID", "VGPU"}


def find_gpu(device: str) -> Gpu | None:
    """The GPU of torch's name of a device, e.g. "NVIDIA H100 80GB HBM3"; None if it is not in the table."""
    words = _words(device)
    if words & _SLOWER:
        return None
    return next((gpu for gpu in GPUS if _words(gpu.name) <= words), None)


def gpu_named(name: str, option: str) -> Gpu:
    """The GPU that an option names, in any case and with or without spaces: H100, a100-40gb.

    Raises:
        UserError: It is not in the table.
    """
    plain = {re.sub(r"[\W_]", "", gpu.name).lower(): gpu for gpu in GPUS}
    gpu = plain.get(re.sub(r"[\W_]", "", name).lower()) or find_gpu(name)
    if gpu is None:
        names = [gpu.name for gpu in GPUS]
        raise UserError(f"{option} {name} is not in the table of GPUs: {', '.join(names)}.{did_you_mean(name, names)}")
    return gpu


def _words(name: str) -> set[str]:
    return set(re.findall(r"[A-Z0-9]+", name.upper()))
