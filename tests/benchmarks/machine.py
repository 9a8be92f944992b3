"""The machine and the software versions of a measurement."""

import importlib.metadata
import os
import platform
import re
from pathlib import Path

import torch

DISTRIBUTIONS = ("torch", "torchscale", "ve-fairseq", "fairseq", "kosmos-plugin")


def machine() -> dict[str, str | float]:
    """Processor, usable cores, memory, load before the measurement, and the GPU if there is one."""
    about = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_before": round(os.getloadavg()[0], 2),
    }
    if torch.cuda.is_available():
        about["gpu"] = torch.cuda.get_device_name()
    return about


def versions() -> dict[str, str]:
    """Versions of Python and of the installed distributions that matter."""
    found = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def available_memory() -> float:
    """The kernel's estimate of the available memory, in GiB."""
    return int(re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())[1]) / 2**20


def _processor() -> str:
    names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return names[0] if names else platform.machine()
