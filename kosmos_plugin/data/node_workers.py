"""Work on each part of a corpus by all cores of this machine, with a progress bar: for files that are made once."""

import os
import sys
import time
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from kosmos_plugin.errors import UserError

T = TypeVar("T")

# Below this number of parts for each, processes take longer to start than they save.
_PARTS_PER_WORKER = 4
_SILENT_SECONDS = 2


def by_all_workers(parts: Dataset[T | UserError], count: int, what: str, unit: str, command: str) -> Iterator[T]:
    """The items of `parts` in order.

    Args:
        parts: Makes an item; a UserError is returned, not raised, since torch would add a worker's traceback to it.
        count: The number of items.
        what: What is made of them, for the progress bar.
        unit: What an item is.
        command: The command that makes it in advance.

    Raises:
        UserError: Of the first item that is one.
    """
    from tqdm import tqdm

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    loader: DataLoader[T | UserError] = DataLoader(
        parts,
        batch_size=None,
        sampler=range(count),
        num_workers=min(cores, count // _PARTS_PER_WORKER),
        generator=torch.Generator(),  # by default the loader draws from the global one, which is the model's
    )
    begin, said = time.monotonic(), False
    with tqdm(total=count, desc=what, unit=unit, delay=_SILENT_SECONDS) as bar:
        for item in loader:
            if isinstance(item, UserError):
                raise item
            yield item
            bar.update()
            if not said and time.monotonic() - begin > _SILENT_SECONDS:
                said = True
                bar.write(f"Making the {what}, once. In advance: {command}", file=sys.stderr)
