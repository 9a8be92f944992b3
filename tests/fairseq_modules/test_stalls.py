"""A training in which nothing moves any more ends in the set time, on all ranks, and names the rank that is stuck."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from kosmos_plugin.fairseq_modules.stall_watch import (
    COMPUTING,
    WAITING_FOR_DATA,
    Progress,
    RankState,
    StallWatch,
    stall_cause,
    store_address,
)
from tests.training_run import ScriptTraining, Training, assert_same

STALLED = 124
TIMEOUT = 10  # seconds

pytestmark = pytest.mark.usefixtures("nothing_left")


def states(*ranks: tuple[int, str, int]) -> dict[int, RankState]:
    """States of ranks by (beat, doing, marks)."""
    return {
        rank: RankState(f"process {100 + rank} on node", beat, 7, doing, marks)
        for rank, (beat, doing, marks) in enumerate(ranks)
    }


@pytest.mark.parametrize(
    "before, after, cause",
    [
        (
            states((1, COMPUTING, 5), (1, COMPUTING, 5)),
            states((2, COMPUTING, 5), (1, COMPUTING, 5)),
            "rank 1 (process 101 on node) does not respond: stopped, or the machine is lost",
        ),
        (
            states((1, COMPUTING, 5)),
            states((2, COMPUTING, 5)),
            "rank 1 does not respond: stopped, or the machine is lost",
        ),
        (
            states((1, WAITING_FOR_DATA, 4), (1, COMPUTING, 5)),
            states((2, WAITING_FOR_DATA, 4), (2, COMPUTING, 5)),
            "rank 0 (process 100 on node) waits for its data",
        ),
        (
            states((1, COMPUTING, 5), (1, COMPUTING, 4)),
            states((2, COMPUTING, 5), (2, COMPUTING, 4)),
            "rank 1 (process 101 on node) is behind the others",
        ),
        (
            states((1, COMPUTING, 5), (1, COMPUTING, 5)),
            states((2, COMPUTING, 5), (2, COMPUTING, 5)),
            "all ranks compute, or wait for each other",
        ),
    ],
)
def test_the_cause(before, after, cause):
    assert stall_cause(2, before, after) == cause


def test_the_address_of_the_store(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "node0")
    monkeypatch.setenv("MASTER_PORT", "29400")
    assert store_address("env://") == ("node0", 29400)
    assert store_address("tcp://node1:1234") == ("node1", 1234)
    assert store_address("file:///tmp/store") is None


def test_a_moving_training_goes_on():
    """The watch is closed before the end of the test: it would end this process."""
    progress = Progress()
    watch = StallWatch(progress, 0.5)
    watch.start()
    for _ in range(12):
        time.sleep(0.1)
        progress.mark()
    watch.close()


def start_until(training: Training, update: int) -> subprocess.Popen:
    process = training.start()
    training.wait_for(lambda: training.reached(update), process)
    return process


@pytest.mark.slow
def test_a_hung_read(data, tmp_path):
    """A data worker that is stopped is to the training what a read that never returns is."""
    training = Training(data, tmp_path / "run", **{"stall-timeout": TIMEOUT})
    process = start_until(training, 3)
    for worker in training.data_workers(process.pid):
        os.kill(worker, signal.SIGSTOP)
    assert process.wait(timeout=60 + TIMEOUT) == STALLED, training.output()[-3000:]
    assert f"no progress for {TIMEOUT} seconds (--stall-timeout) in update " in training.output()
    assert f"process {process.pid} on {os.uname().nodename} waits for its data" in training.output()
    assert training.processes() == []


@pytest.mark.slow
@pytest.mark.parametrize("what, rank", [("rank", 0), ("rank", 1), ("data worker", 1)])
def test_torchrun_starts_all_again(undisturbed, data, tmp_path, what, rank):
    training = ScriptTraining(data, tmp_path / "run", 2, **{"stall-timeout": TIMEOUT})
    process = start_until(training, 4)
    stuck = training.ranks()[rank]
    for target in [stuck] if what == "rank" else training.data_workers(stuck):
        os.kill(target, signal.SIGSTOP)
    # the time without progress, torchrun's 30 seconds until it kills, and a start under load
    assert process.wait(timeout=TIMEOUT + 30 + 150) == 0, training.output()[-5000:]
    said = [line for line in training.output().splitlines() if "no progress for" in line]
    assert said
    if what == "data worker":
        assert any(f"rank {rank} (process {stuck} on" in line and "waits for its data" in line for line in said), said
    elif rank == 0:  # it keeps the store
        assert all("rank 0, which keeps it, is stopped or lost" in line for line in said), said
    else:
        assert all(f"rank 1 (process {stuck} on" in line and "does not respond" in line for line in said), said
    assert not Path(f"/proc/{stuck}").exists()
    assert_same(training, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_job_that_is_suspended_as_a_whole_goes_on(undisturbed, data, tmp_path, ranks):
    training = (ScriptTraining if ranks > 1 else Training)(data, tmp_path / "run", ranks, **{"stall-timeout": TIMEOUT})
    process = start_until(training, 4)
    suspended = training.processes()
    for target in suspended:
        os.kill(target, signal.SIGSTOP)
    time.sleep(1.5 * TIMEOUT)
    for target in suspended:
        os.kill(target, signal.SIGCONT)
    assert process.wait(timeout=150) == 0, training.output()[-5000:]
    assert "no progress for" not in training.output()
    assert training.output().count("| max tokens per device =") == 1, "it was started again"
    if ranks == 2:
        assert_same(training, undisturbed)
