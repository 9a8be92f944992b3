"""Ends a training in which nothing moves any more, on all ranks, and says which rank is the cause.

A rank that is stopped, or whose data never arrives, keeps all others waiting in a collective operation. So each rank
watches itself, in a thread: if its main thread has made no progress for --stall-timeout seconds, the thread looks at
what the other ranks last told about themselves, prints it, and ends the process. `torchrun` then ends the other ranks
of the node, by SIGKILL if need be, and starts all again.

    main thread ─ mark() ─→ Progress ─→ StallWatch ─ every few seconds ─→ the ranks' TCP store
                                            └─ no mark for too long ─→ reads all ranks' states ─→ message, exit

The store is that of the process group, through a connection of its own. Rank 0 or torchrun's agent keeps it.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import NoReturn
from urllib.parse import urlparse

import torch.distributed as dist

from kosmos_plugin.fairseq_modules.stop_signals import end_data_workers

STALLED = 124  # the exit status, as that of timeout(1)
COMPUTING = "computes, or waits for another rank"
WAITING_FOR_DATA = "waits for its data"
BETWEEN_UPDATES = "saves a checkpoint, or begins to validate"

_STORE_TIMEOUT = timedelta(seconds=10)


class Progress:
    """What the main thread is doing, and how often that has changed.

    Attributes:
        doing: One of COMPUTING, WAITING_FOR_DATA and BETWEEN_UPDATES.
        marks: Number of changes.
        update: Number of the update that is being computed, from 1.
    """

    def __init__(self) -> None:
        self.doing = COMPUTING
        self.marks = 0
        self.update = 0

    def mark(self, doing: str = COMPUTING) -> None:
        """Note that the main thread has done something, and now does `doing`."""
        self.doing = doing
        self.marks += 1


@dataclass(frozen=True)
class RankState:
    """What a rank tells the others about itself.

    Attributes:
        process: "process 123 on node7".
        beat: A number that grows as long as the process runs.
        update: Number of the update that is being computed, from 1.
        doing: What its main thread does.
        marks: The main thread's progress.
    """

    process: str
    beat: int
    update: int
    doing: str
    marks: int


class StallWatch:
    """The threads of one rank that watch its progress.

    Args:
        progress: What the main thread does.
        timeout: Seconds without progress after which the process ends.
        rank: This rank, from 0.
        ranks: Number of ranks.
        init_method: How the ranks found each other: fairseq's --distributed-init-method.
    """

    def __init__(self, progress: Progress, timeout: float, rank: int = 0, ranks: int = 1, init_method: str = ""):
        self.progress = progress
        self.timeout = timeout
        self.rank = rank
        self.ranks = ranks
        self.interval = min(5.0, timeout / 10)
        self._address = store_address(init_method) if ranks > 1 else None
        self._process = f"process {os.getpid()} on {socket.gethostname()}"
        self._closed = threading.Event()

    def start(self) -> None:
        """Begin to watch."""
        if self._address is not None:
            store = self._tell(None, 0)  # here, so that others can name a rank that stops at once
            threading.Thread(target=self._publish, args=(store,), name="stall-publish", daemon=True).start()
        threading.Thread(target=self._watch, name="stall-watch", daemon=True).start()

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()

    def _watch(self) -> None:
        idle, marks, before = 0.0, self.progress.marks, time.monotonic()
        while not self._closed.wait(self.interval):
            now = time.monotonic()
            # A process that was stopped together with all others has not been idle in the meantime.
            idle += min(now - before, 2 * self.interval)
            before = now
            if self.progress.marks != marks:
                idle, marks = 0.0, self.progress.marks
            elif idle >= self.timeout:
                cause = self._cause()  # this takes a while
                if self.progress.marks == marks and not self._closed.is_set():
                    self._end(cause)

    def _end(self, cause: str) -> NoReturn:
        message = (
            f"rank {self.rank}: no progress for {self.timeout:g} seconds (--stall-timeout) in update "
            f"{self.progress.update:,}: {cause}. Exiting with status {STALLED}.\n"
        )
        os.write(2, message.encode())
        if self.rank == 0 and self.ranks > 1:
            time.sleep(2 * self.interval)  # it may keep the store, which the others still read
        end_data_workers()
        os._exit(STALLED)

    def _cause(self) -> str:
        if self._address is None:
            return f"{self._process} {self.progress.doing}"
        found: list[dict[int, RankState]] = []
        reader = threading.Thread(target=self._read_twice, args=(found,), daemon=True)
        reader.start()
        reader.join(3 * self.interval + 2 * _STORE_TIMEOUT.total_seconds())
        if len(found) == 2:
            return stall_cause(self.ranks, *found)
        if reader.is_alive():
            return f"the ranks' store at {self._address[0]} does not answer: rank 0, which keeps it, is stopped or lost"
        return "rank 0, which kept the ranks' store, has ended"

    def _read_twice(self, found: list[dict[int, RankState]]) -> None:
        with contextlib.suppress(RuntimeError):  # the store's errors
            store = self._connect()
            found.append(self._read(store))
            time.sleep(3 * self.interval)
            found.append(self._read(store))

    def _read(self, store: dist.Store) -> dict[int, RankState]:
        keys = {rank: _key(rank) for rank in range(self.ranks)}
        return {rank: RankState(**json.loads(store.get(key))) for rank, key in keys.items() if store.check([key])}

    def _publish(self, store: dist.Store | None) -> None:
        beat = 0
        while not self._closed.wait(self.interval):
            beat += 1
            store = self._tell(store, beat)

    def _tell(self, store: dist.Store | None, beat: int) -> dist.Store | None:
        """Write this rank's state, and return the connection for the next time; None if it does not work."""
        progress = self.progress
        state = RankState(self._process, beat, progress.update, progress.doing, progress.marks)
        try:
            store = store or self._connect()
            store.set(_key(self.rank), json.dumps(asdict(state)))
        except RuntimeError:  # the store's errors: it is slow, or the one who kept it has ended
            return None
        return store

    def _connect(self) -> dist.Store:
        assert self._address is not None
        host, port = self._address
        return dist.TCPStore(host, port, is_master=False, timeout=_STORE_TIMEOUT, wait_for_workers=False)


def _key(rank: int) -> str:
    return f"kosmos/stall_watch/{rank}"


def store_address(init_method: str) -> tuple[str, int] | None:
    """Host and port of the process group's TCP store; None if it has another kind of store."""
    if init_method == "env://":
        return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    url = urlparse(init_method)
    return (url.hostname, url.port) if url.scheme == "tcp" and url.hostname and url.port else None


def stall_cause(ranks: int, before: Mapping[int, RankState], after: Mapping[int, RankState]) -> str:
    """Say which ranks keep the others waiting.

    Args:
        ranks: Number of ranks.
        before: The states that the ranks have told.
        after: The same a few seconds later.
    """
    silent = [rank for rank in range(ranks) if rank not in after or before.get(rank) == after[rank]]
    if silent:
        return f"{_named(silent, after)} {_do(silent)} not respond: stopped, or the machine is lost"
    busy = [rank for rank in range(ranks) if after[rank].doing != COMPUTING]
    if busy:
        doing = "; ".join(f"{_named([rank], after)} {after[rank].doing}" for rank in busy)
        return doing
    fewest = min(state.marks for state in after.values())
    behind = [rank for rank in range(ranks) if after[rank].marks == fewest]
    if len(behind) < ranks:
        return f"{_named(behind, after)} {'is' if len(behind) == 1 else 'are'} behind the others"
    return "all ranks compute, or wait for each other"


def _named(ranks: Sequence[int], states: Mapping[int, RankState]) -> str:
    names = [f"{rank} ({states[rank].process})" if rank in states else f"{rank}" for rank in ranks]
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(names)}"


def _do(ranks: Sequence[int]) -> str:
    return "do" if len(ranks) > 1 else "does"
