"""One evaluation on several processes, started by torchrun."""

import datetime
import os
from dataclasses import dataclass

import torch

# Ranks wait for the slowest, which may have hours to go.
PATIENCE = datetime.timedelta(days=7)


@dataclass(frozen=True)
class Ranks:
    """This process's number `rank` among `count`."""

    rank: int = 0
    count: int = 1

    @classmethod
    def join(cls) -> "Ranks":
        """By torchrun's environment, with a GPU for each rank of a host if it has them; alone if there is none."""
        ranks = cls(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        if ranks.count > 1:
            torch.distributed.init_process_group("gloo", timeout=PATIENCE)
        return ranks

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.count > 1:
            torch.distributed.barrier()

    def leave(self) -> None:
        if self.count > 1:
            torch.distributed.destroy_process_group()
