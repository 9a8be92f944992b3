"""Miniature releases in the official layouts: one function a release, which writes it into its folder."""

import importlib
from collections.abc import Callable
from pathlib import Path

# The release's folder within --data → module and function that write it.
RELEASES = {
    "rendered_sst2": "rendered_sst2.write_rendered_sst2",
}


def write_release(data: Path, release: str, count: int = 6) -> None:
    """Write the release called `release` into its folder in `data`, unless it is there."""
    if (data / release).exists():
        return
    module, _, function = RELEASES[release].partition(".")
    write: Callable[[Path, int], None] = getattr(importlib.import_module(f"{__name__}.{module}"), function)
    (data / release).mkdir(parents=True)
    write(data / release, count)
