"""The processes of one evaluation, as `torchrun` starts them."""

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from kosmos_plugin.errors import UserError

# Ranks wait for the slowest one, which may have hours of work left.
TIMEOUT = datetime.timedelta(days=7)


@dataclass(frozen=True)
class Ranks:
    """The rank of this process, and how many there are."""

    rank: int = 0  # from 0
    count: int = 1  # number of processes

    @classmethod
    def join(cls) -> "Ranks":
        """Join the process group of torchrun's environment; without one, there is only this process.

        Each process of a host gets its own GPU, if the host has any.
        """
        ranks = cls(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        if ranks.count > 1:
            torch.distributed.init_process_group("gloo", timeout=TIMEOUT)
        return ranks

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes results."""
        return self.rank == 0

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run a block on all ranks, then wait for all of them.

        Raises:
            UserError: The block raised it on one of the ranks; it is raised on all, so that all go on in the same way.
        """
        problem = ""
        try:
            yield
        except UserError as error:
            problem = str(error)
        if self.count > 1:
            problems: list[str] = [""] * self.count
            torch.distributed.all_gather_object(problems, problem)
            problem = next(filter(None, problems), "")
        if problem:
            raise UserError(problem)

    def leave(self) -> None:
        """Leave the process group."""
        if self.count > 1:
            torch.distributed.destroy_process_group()
