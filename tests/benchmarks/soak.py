"""A training under faults, for an hour in each precision: is it, bit for bit, the training without them?

Two ranks read captions and interleaved documents from a web server, in blocks, and write checkpoints with --async-save.
A seeded schedule kills, stops and signals them, takes the server away, fills the disk and damages the last checkpoint;
one request in twenty fails all the time. Whatever ends is started again with the same command. When the time is over,
the training is stopped with a checkpoint. The training without faults then reads the same files from the disk, for as
many updates.
"""

import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from kosmos_plugin.checkpoints.newest import problem_of
from tests import tiny
from tests.benchmarks import time_limit
from tests.benchmarks.result import Result, Spread
from tests.data.remote_server import Faults, Server, remote_yaml
from tests.training_run import ScriptTraining

SECONDS = 3600  # of faults, in each precision
SAVE_INTERVAL = 25  # updates
STALL_TIMEOUT = 30  # seconds
DISK = 512 << 20  # bytes of the disk for checkpoints and logs
PAUSE = (10, 40)  # seconds of training between two faults
FAILING, TRUNCATED = 0.04, 0.01  # of the server's answers
SEED = 1


@dataclass
class Record:
    """What became of the faults of a kind."""

    lost: list[int] = field(default_factory=list)  # updates that were trained again
    seconds: list[float] = field(default_factory=list)  # until an update that is new
    torn: int = 0  # checkpoints under their final names that were not whole afterwards


class Soak(ScriptTraining):
    """A training with faults. Its log is read as it grows."""

    def __init__(self, data: Path, folder: Path, server: Server, **precision: bool):
        options = {
            "save-interval-updates": SAVE_INTERVAL, "keep-interval-updates": 2, "no-epoch-checkpoints": True,
            "async-save": True, "resume-newest-whole": True, "stall-timeout": STALL_TIMEOUT, "num-workers": 1,
            "max-update": 10**9, **precision,
        }  # fmt: skip
        super().__init__(data, folder, 2, **options)
        self.server = server
        self.blocks = data.parent / "cache" / "blocks"
        self.starts = 0
        self.last_update = 0  # the highest that was logged
        self.reached = 0  # the highest before the last start
        self.resumed_at: int | None = None  # the first update after the last start
        self._position = 0
        self.process: subprocess.Popen | None = None

    def read_log(self) -> None:
        """Take the updates that were logged since the last call."""
        log = self.folder / "train.log"
        if not log.exists():
            return
        with log.open("rb") as file:
            file.seek(self._position)
            content = file.read()
        content = content[: content.rfind(b"\n") + 1]
        self._position += len(content)
        for line in content.decode().splitlines():
            if "max tokens per device =" in line:
                self.starts += 1
                self.reached, self.resumed_at = self.last_update, None
            if '"num_updates": "' in line:
                update = int(line.partition('"num_updates": "')[2].partition('"')[0])
                self.resumed_at = self.resumed_at or update
                self.last_update = max(self.last_update, update)

    def run_until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Keep the training running, starting it again when it ends, until `condition()`. False if time runs out."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                return False
            if self.process is None or self.process.poll() is not None:
                self.process = self.start()
            self.empty_cache()
            time.sleep(0.2)
            self.read_log()
        return True

    def empty_cache(self) -> None:
        """Remove fetched blocks, as a cache does that is smaller than the data: a tiny one would hold all of them."""
        for piece in self.blocks.glob("??/*"):
            if piece.suffix != ".tmp":
                piece.unlink(missing_ok=True)

    def goes_on(self, starts: int, update: int) -> bool:
        """Whether there were so many starts, and an update after `update` and all that was reached before them."""
        return self.starts >= starts and self.last_update > max(update, self.reached)

    def torn(self) -> int:
        """Checkpoints that are not whole. One that is deleted meanwhile, as too old, is none of them."""
        return sum(problem_of(path) is not None and path.exists() for path in self.folder.glob("checkpoint*.pt"))


# ---- Faults ----

# Each is a function of the training and a generator; what must be undone is undone before it returns.
Fault = Callable[[Soak, random.Random], None]


def send(sent: signal.Signals, ranks: int) -> Fault:
    """Send a signal to so many ranks."""

    def fault(training: Soak, rng: random.Random) -> None:
        running = training.ranks()
        for rank in rng.sample(sorted(running), min(ranks, len(running))):
            os.kill(running[rank], sent)

    return fault


def signal_script(sent: signal.Signals) -> Fault:
    """Send a signal to the script, and wait for its end."""

    def fault(training: Soak, rng: random.Random) -> None:
        assert training.process is not None
        os.kill(training.process.pid, sent)
        training.process.wait(timeout=600)

    return fault


def lose_machine(training: Soak, rng: random.Random) -> None:
    """Kill all processes."""
    training.kill_all()


def lose_server(training: Soak, rng: random.Random) -> None:
    """Answer no request for a while."""
    before, training.server.faults = training.server.faults, Faults(failing=1.0)
    training.empty_cache()
    time.sleep(rng.uniform(5, 15))
    training.server.faults = before
    training.read_log()


def fill_disk(training: Soak, rng: random.Random) -> None:
    """Leave no room for the next checkpoint until it has failed."""
    filler = training.folder / "filler"
    with filler.open("wb") as file:
        status = os.statvfs(training.folder)
        file.write(bytes(max(0, status.f_bavail * status.f_frsize - (100 << 10))))
    assert training.process is not None
    training.process.wait(timeout=600)
    filler.unlink()


def damage_checkpoint(training: Soak, rng: random.Random) -> None:
    """Kill all processes, and change a byte of the last checkpoint."""
    training.kill_all()
    path = training.folder / "checkpoint_last.pt"
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


SERVER_AWAY = "server away for 5 to 15 s"
FAULTS: dict[str, Fault] = {
    "one rank killed": send(signal.SIGKILL, 1),
    "both ranks killed": send(signal.SIGKILL, 2),
    "all processes killed": lose_machine,
    "SIGUSR1 to a rank": send(signal.SIGUSR1, 1),
    "SIGTERM to the script": signal_script(signal.SIGTERM),
    "Ctrl-C to the script": signal_script(signal.SIGINT),
    "one rank stopped (SIGSTOP)": send(signal.SIGSTOP, 1),
    SERVER_AWAY: lose_server,
    "disk full": fill_disk,
    "all killed, last checkpoint damaged": damage_checkpoint,
}


# ---- The measurement ----


def soak(training: Soak, seconds: float) -> dict[str, Record]:
    """Train with faults for so long, then stop the training. Raises TimeoutError if it hangs."""
    rng, records = random.Random(SEED), {name: Record() for name in FAULTS}
    begin, names = time.monotonic(), list(FAULTS)
    order = iter([name for _ in range(10_000) for name in rng.sample(names, len(names))])  # all kinds as often
    wait_for(training, lambda: training.last_update > SAVE_INTERVAL)
    while time.monotonic() - begin < seconds:
        pause = time.monotonic() + rng.uniform(*PAUSE)
        training.run_until(lambda until=pause: time.monotonic() > until, 2 * PAUSE[1])
        name = next(order)
        before, start = training.starts, time.monotonic()
        FAULTS[name](training, rng)
        record = records[name]
        record.torn += training.torn() - name.endswith("damaged")
        least = before + (name != SERVER_AWAY)
        wait_for(training, partial(training.goes_on, least, training.last_update))
        record.seconds.append(time.monotonic() - start)
        record.lost.append(training.reached + 1 - (training.resumed_at or 0) if training.starts > before else 0)
        print(
            f"{time.monotonic() - begin:.0f} s: {name}, {record.lost[-1]} lost, {record.seconds[-1]:.0f} s, "
            f"update {training.last_update}, {training.starts} starts",
            flush=True,
        )
    signal_script(signal.SIGTERM)(training, rng)
    return records


def wait_for(training: Soak, condition: Callable[[], bool]) -> None:
    if not training.run_until(condition, 600):
        raise TimeoutError(f"hangs after update {training.last_update}:\n{training.output()[-3000:]}")


def same(training: Soak, undisturbed: ScriptTraining) -> bool:
    """Whether both have the same losses in every update, and in the end the same weights and optimizer's state."""
    if training.losses() != undisturbed.losses():
        return False
    state, other = training.last(), undisturbed.last()
    pairs = [(state["model"], other["model"]), (state["last_optimizer_state"], other["last_optimizer_state"])]
    return all(_equal(one, two) for one, two in pairs)


def _equal(one: object, two: object) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(two, torch.Tensor) and torch.equal(one, two)
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(_equal(one[key], two[key]) for key in one)
    if isinstance(one, list) and isinstance(two, list):
        return len(one) == len(two) and all(map(_equal, one, two))
    return one == two


def run(out: Path) -> Result:
    seconds = min(SECONDS, time_limit.left() / 4)
    rows: list[list] = []
    notes = []
    for precision in ("float32", "bf16"):
        measured, note = under_faults(precision, seconds)
        rows += measured
        notes.append(note)
        print(result(rows, notes).markdown(), flush=True)  # the next one may fail
    return result(rows, notes)


def under_faults(precision: str, seconds: float) -> tuple[list[list], str]:
    """A row for each kind of fault, and a note on the whole."""
    # A job in the background ignores Ctrl-C, and so would the script.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    options = {} if precision == "float32" else {precision: True}
    with tempfile.TemporaryDirectory() as folder_name:
        folder = Path(folder_name)
        files = tiny.write_data(folder / "data", documents=2000)  # fairseq opens its log once more in each epoch
        server = Server(files.parent)
        server.faults = Faults(failing=FAILING, truncated=TRUNCATED)
        checkpoints = folder / "checkpoints"
        checkpoints.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(checkpoints)], check=True)
        remote = remote_yaml(files, folder / "remote", server.url, 4, retry_seconds=300)
        training = Soak(remote, checkpoints, server, **options)
        try:
            begin = time.monotonic()
            records = soak(training, seconds)
            took = time.monotonic() - begin
            server.stop()
            updates = training.update_reached()
            options |= {"save-interval-updates": updates, "no-epoch-checkpoints": True, "max-update": updates}
            local = remote_yaml(files, folder / "local", "", 4)
            undisturbed = ScriptTraining(local, folder / "undisturbed", 2, **options)
            if undisturbed.start().wait(timeout=4 * SECONDS):
                raise RuntimeError(undisturbed.output()[-3000:])
            equal = same(training, undisturbed)
        finally:
            training.kill_all()
            subprocess.run(["umount", "-l", str(checkpoints)], check=True)
    rows = [
        [
            precision,
            fault,
            len(record.seconds),
            Spread(tuple(map(float, record.lost))),
            record.torn,
            Spread(tuple(record.seconds)),
        ]
        for fault, record in records.items()
        if record.seconds
    ]
    faults = sum(len(record.seconds) for record in records.values())
    note = (
        f"{precision}: {updates:,} updates in {took / 60:.0f} minutes with {faults} faults, and {server.failed:,} of "
        f"{len(server.requests):,} answers failed or cut off; all losses, the weights and the optimizer's state "
        f"{'are' if equal else 'ARE NOT'} those of the training without faults, bit for bit."
    )
    return rows, note


def result(rows: list[list], notes: list[str]) -> Result:
    return Result(
        "A training under faults",
        ["precision", "fault", "times", "updates trained again", "torn files", "seconds to the next new update"],
        rows,
        [
            f"Two ranks, kosmos_tiny, a checkpoint every {SAVE_INTERVAL} updates with --async-save, --stall-timeout "
            f"{STALL_TIMEOUT}; {FAILING:.0%} of the server's answers fail and {TRUNCATED:.0%} are cut off throughout.",
            *notes,
        ],
    )
