"""A run that is killed at any moment and started again equals an uninterrupted one bit for bit.

Each training is the real fairseq-train in separate processes, with dropout, on one rank and on two (torchrun, gloo).
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests import tiny

UPDATES = 12
REPOSITORY = Path(__file__).parents[2]


class Training:
    """A run of fairseq-train on the tiny data in `folder`, with `ranks` processes."""

    def __init__(self, data: Path, folder: Path, ranks: int = 1, **options):
        self.folder = folder
        options = {"dropout": 0.1, "attention-dropout": 0.1, "num-workers": 1, "save-interval-updates": 3} | options
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
        self.command = [
            sys.executable, *launcher, "-m", "fairseq_cli.train", str(data),
            "--user-dir", str(REPOSITORY / "kosmos_plugin"), *tiny.TRAIN_OPTIONS.split(),
            "--vision-model", str(data.parent / "clip.json"), "--max-update", str(UPDATES), "--disable-validation",
            "--save-dir", str(folder), "--log-file", str(folder / "train.log"),
            *(word for name, value in options.items() for word in (f"--{name}", str(value)) if word != "True"),
        ]  # fmt: skip
        folder.mkdir(exist_ok=True)

    def start(self) -> subprocess.Popen:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "CUDA_VISIBLE_DEVICES": ""}
        with open(self.folder / "output.txt", "ab") as output:
            return subprocess.Popen(self.command, stdout=output, stderr=output, env=environment, cwd=REPOSITORY)

    def finish(self) -> "Training":
        process = self.start()
        assert process.wait(timeout=300) == 0, (self.folder / "output.txt").read_text()[-3000:]
        return self

    def kill_when(self, condition) -> "Training":
        """Start, and send SIGKILL to all of its processes as soon as `condition()` is true."""
        process = self.start()
        deadline = time.monotonic() + 240
        while not condition():
            assert process.poll() is None, (self.folder / "output.txt").read_text()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.0005)
        # torchrun's ranks have their own sessions, so processes are found by this folder in their command lines.
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if str(self.folder).encode() in (entry / "cmdline").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)
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
                values = json.loads(line[line.index("{") :])
                found[int(values["num_updates"])] = {k: v for k, v in values.items() if k.startswith("loss")}
        return found

    def last(self) -> dict:
        return torch.load(self.folder / "checkpoint_last.pt", weights_only=True)

    def update_reached(self) -> int:
        return self.last()["optimizer_history"][-1]["num_updates"]


def assert_same(one: Training, other: Training) -> None:
    assert one.update_reached() == other.update_reached() == UPDATES
    assert one.losses() == other.losses()
    weights, others = one.last()["model"], other.last()["model"]
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.fixture(scope="module", params=[1, pytest.param(2, marks=pytest.mark.slow)])
def reference(request, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"reference{request.param}")
    return request.param, Training(data, folder, request.param).finish()


def test_killed_between_checkpoints(reference, data, tmp_path):
    ranks, expected = reference
    training = Training(data, tmp_path / "run", ranks)
    training.kill_when(lambda: training.reached(5))
    assert training.update_reached() < UPDATES
    assert_same(training.finish(), expected)


@pytest.mark.slow
def test_killed_while_a_checkpoint_is_written(reference, data, tmp_path):
    ranks, expected = reference
    if ranks > 1:
        pytest.skip("only rank 0 writes: the same code as with one rank")
    training = Training(data, tmp_path / "run", ranks, **{"save-interval-updates": 1})
    last, temporary = tmp_path / "run" / "checkpoint_last.pt", tmp_path / "run" / "checkpoint_last.pt.tmp"
    for _ in range(3):
        training.kill_when(lambda: temporary.exists() and last.exists())
        before = training.update_reached()  # loadable, whatever was being written
        assert before < UPDATES
        temporary.unlink(missing_ok=True)
    assert_same(training.finish(), expected)


@pytest.mark.slow
def test_a_change_of_workers_changes_nothing(reference, data, tmp_path):
    ranks, expected = reference
    if ranks > 1:
        pytest.skip("shown with one rank")
    Training(data, tmp_path / "run", **{"num-workers": 0, "max-update": 6}).finish()
    assert_same(Training(data, tmp_path / "run", **{"num-workers": 3}).finish(), expected)


@pytest.mark.parametrize("ranks, micro_batches", [(2, 1), pytest.param(1, 2, marks=pytest.mark.slow)])
def test_two_ranks_are_one_training(data, tmp_path, ranks, micro_batches):
    """Updates equal those of one rank up to the order of summation: the data YAML sets them for any number of ranks."""
    without_dropout = {"dropout": 0, "attention-dropout": 0}
    one = Training(data, tmp_path / "one", 1, **without_dropout).finish()
    other = Training(data, tmp_path / "other", ranks, **without_dropout, **{"update-freq": micro_batches}).finish()
    assert other.losses().keys() == one.losses().keys()
    for update, losses in one.losses().items():
        for name, value in losses.items():
            assert float(other.losses()[update][name]) == pytest.approx(float(value), abs=2e-3)
    weights, others = one.last()["model"], other.last()["model"]
    for name in weights:
        torch.testing.assert_close(others[name], weights[name], atol=2e-4, rtol=0, msg=name)
    assert f"training on {ranks} devices" in (tmp_path / "other" / "train.log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "os"])
def test_bf16_on_two_ranks_goes_on_from_float32_weights(data, tmp_path, sharding):
    options = {"bf16": True, "zero-sharding": sharding, "optimizer": "adam"}
    once = Training(data, tmp_path / "once", 2, **options).finish()
    Training(data, tmp_path / "twice", 2, **options, **{"max-update": 6}).finish()
    twice = Training(data, tmp_path / "twice", 2, **options).finish()
    assert_same(twice, once)
