"""The newest whole checkpoint of a training, beside one that is damaged."""

from dataclasses import dataclass
from pathlib import Path

from kosmos_plugin.checkpoints.files import read_fairseq
from kosmos_plugin.errors import UserError


@dataclass(frozen=True)
class Newest:
    """What was found beside a training's last checkpoint."""

    path: Path  # the newest whole one
    updates: int
    damaged: dict[Path, str]  # newer ones that can be read in part, with what is wrong


def newest_whole(last: Path) -> Newest | None:
    """The newest whole checkpoint beside a training's last one; None if there is none.

    Only as many files are verified as are needed to find it.
    """
    suffix = last.stem.removeprefix("checkpoint_last")
    others = [path for path in last.parent.glob(f"checkpoint*{suffix}.pt") if path != last]
    known = [(updates, path) for path in others if (updates := _updates(path)) is not None]
    damaged: dict[Path, str] = {}
    for updates, path in sorted(known, reverse=True):
        problem = problem_of(path)
        if problem is None:
            return Newest(path, updates, damaged)
        damaged[path] = problem
    return None


def problem_of(path: Path) -> str | None:
    """What is wrong with a checkpoint; None if it is whole."""
    try:
        read_fairseq(path)
    except UserError as error:
        return str(error)
    return None


def _updates(path: Path) -> int | None:
    """The number of updates of a checkpoint, which may still be damaged; None if it cannot be read at all."""
    try:
        return int(read_fairseq(path, verify=False)["optimizer_history"][-1]["num_updates"])
    except (UserError, LookupError, TypeError, ValueError):
        return None
