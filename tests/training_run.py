"""Real trainings in processes of their own, which tests kill, stop and signal: fairseq-train on the tiny data."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from tests import tiny

UPDATES = 12
REPOSITORY = Path(__file__).parents[1]
ENVIRONMENT = {
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # the scripts call torchrun and fairseq-train
    "PYTHONPATH": str(REPOSITORY),
    "OMP_NUM_THREADS": "1",
    "PYTHONWARNINGS": "ignore",
    "CUDA_VISIBLE_DEVICES": "",
}


class Training:
    """A run of fairseq-train on the tiny data in `folder`, with `ranks` processes."""

    def __init__(self, data: Path, folder: Path, ranks: int = 1, **options):
        self.folder = folder
        folder.mkdir(exist_ok=True)
        options = {"dropout": 0.1, "attention-dropout": 0.1, "num-workers": 1, "save-interval-updates": 3} | options
        validation = [] if "valid-subset" in options else ["--disable-validation"]
        self.command = [
            *self.launcher(ranks), str(data),
            "--user-dir", str(REPOSITORY / "kosmos_plugin"), *tiny.TRAIN_OPTIONS.split(),
            "--vision-model", str(data.parent / "clip.json"), "--max-update", str(UPDATES), *validation,
            "--save-dir", str(folder), "--log-file", str(folder / "train.log"),
            *(word for name, value in options.items() for word in (f"--{name}", str(value)) if word != "True"),
        ]  # fmt: skip

    def launcher(self, ranks: int) -> list[str]:
        """The command up to fairseq-train's arguments."""
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
        return [sys.executable, *torchrun, "-m", "fairseq_cli.train"]

    def start(self, **environment: str) -> subprocess.Popen:
        with open(self.folder / "output.txt", "ab") as output:
            return subprocess.Popen(
                self.command,
                stdout=output,
                stderr=output,
                env={**os.environ, **ENVIRONMENT, **environment},
                cwd=REPOSITORY,
                start_new_session=True,
            )

    def output(self) -> str:
        """What all starts have printed."""
        return (self.folder / "output.txt").read_text()

    def finish(self) -> "Training":
        process = self.start()
        assert process.wait(timeout=300) == 0, self.output()[-3000:]
        return self

    def wait_for(self, condition: Callable[[], object], process: subprocess.Popen, seconds: float = 240) -> None:
        """Wait until `condition()` is true, while `process` runs."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert process.poll() is None, self.output()[-3000:]
            assert time.monotonic() < deadline, self.output()[-3000:]
            time.sleep(0.0005)

    def processes(self) -> list[int]:
        """All processes of the training."""
        return processes_of(self.folder)

    def ranks(self) -> dict[int, int]:
        """The process of each rank that torchrun has started."""
        processes = {process: _rank_of(process) for process in self.processes()}
        return {
            rank: process
            for process, rank in processes.items()
            if rank is not None and processes.get(_parent_of(process)) is None  # data workers are children of a rank
        }

    def data_workers(self, process: int) -> list[int]:
        """The data workers of a rank."""
        return [worker for worker in self.processes() if _parent_of(worker) == process]

    def kill_all(self) -> None:
        """Send SIGKILL to all processes."""
        kill(self.processes())

    def kill_when(self, condition: Callable[[], object]) -> "Training":
        """Start, and send SIGKILL to all of its processes as soon as `condition()` is true."""
        process = self.start()
        self.wait_for(condition, process)
        self.kill_all()
        process.wait()
        return self

    def reached(self, update: int) -> bool:
        return update in self.losses()

    def losses(self) -> dict[int, dict[str, str]]:
        """The logged losses by update; if an update is logged twice, the resumed run's."""
        log = self.folder / "train.log"
        found = {}
        for line in log.read_text().splitlines() if log.exists() else []:
            if '"num_updates"' in line and '"epoch"' in line and '"update"' in line and line.endswith("}"):
                with contextlib.suppress(json.JSONDecodeError):  # a line that a full disk has cut
                    values = json.loads(line[line.index("{") :])
                    found[int(values["num_updates"])] = {k: v for k, v in values.items() if k.startswith("loss")}
        return found

    def last(self) -> dict:
        return torch.load(self.folder / "checkpoint_last.pt", weights_only=True)

    def update_reached(self) -> int:
        return self.last()["optimizer_history"][-1]["num_updates"]


class ScriptTraining(Training):
    """The same, started as the scripts in examples/kosmos_1 start theirs: by ranks.sh's run_ranks."""

    def launcher(self, ranks: int) -> list[str]:
        script = (
            f"set -euo pipefail; out={shlex.quote(str(self.folder))}; micro_batches={ranks}\n"
            f"source {REPOSITORY}/examples/kosmos_1/ranks.sh\n"
            'run_ranks "$(command -v fairseq-train)" "$@"\n'
        )
        # bash cannot trap a signal that is ignored when it starts, as Ctrl-C is where the tests run in the background.
        return ["env", "--default-signal=INT", f"GPUS={ranks}", "bash", "-c", script, "train.sh"]


def processes_of(folder: Path) -> list[int]:
    """The processes of all trainings in a folder; torchrun's ranks have their own sessions."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def kill(processes: list[int]) -> None:
    """Send SIGKILL to processes, which may have ended."""
    for process in processes:
        with contextlib.suppress(OSError):
            os.kill(process, signal.SIGKILL)


def assert_same(one: Training, other: Training) -> None:
    assert one.update_reached() == other.update_reached() == UPDATES
    assert one.losses() == other.losses()
    weights, others = one.last()["model"], other.last()["model"]
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def _rank_of(process: int) -> int | None:
    """The rank in the process's environment; None if it has none, or has ended."""
    with contextlib.suppress(OSError):
        for variable in Path(f"/proc/{process}/environ").read_bytes().split(b"\0"):
            if variable.startswith(b"RANK="):
                return int(variable.removeprefix(b"RANK="))
    return None


def _parent_of(process: int) -> int | None:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return None
