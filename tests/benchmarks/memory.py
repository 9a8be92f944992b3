"""Peak memory of this process since a reset: resident on the CPU, allocated on a GPU."""

import ctypes
import re
from pathlib import Path

import torch

from tests.benchmarks.machine import available_memory


def reset_peak() -> None:
    """Start a new measurement of the peak; freed memory is first returned to the system."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """The peak since `reset_peak`, in bytes."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return _status("VmHWM")


def memory() -> int:
    """Bytes in use now."""
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated()
    return _status("VmRSS")


def pss(pid: int) -> int:
    """Bytes that a process has alone, and its part of those that it shares with others (Linux's PSS)."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return 1024 * int(re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)[1])


def free_memory() -> int:
    """Bytes still available."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    return int(available_memory() * 2**30)


def _status(field: str) -> int:
    return 1024 * int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
