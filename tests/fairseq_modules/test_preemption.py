"""A training that gets SIGTERM, SIGUSR1 or Ctrl-C ends with a checkpoint, and then goes on as if nothing had happened.

The trainings are the real fairseq-train in processes of their own, with data workers and dropout. Those on several
ranks are started by torchrun, on gloo.
"""

import os
import signal
import subprocess

import pytest

from tests.training_run import UPDATES, ScriptTraining, Training, assert_same

STOPPED = 75
# Nothing but the signal makes fairseq save.
NEVER_SAVES = {"save-interval-updates": 0, "no-epoch-checkpoints": True}


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory) -> Training:
    return Training(data, tmp_path_factory.mktemp("undisturbed"), **NEVER_SAVES).finish()


@pytest.fixture(scope="module")
def undisturbed_ranks(data, tmp_path_factory) -> Training:
    return Training(data, tmp_path_factory.mktemp("undisturbed"), 2, **NEVER_SAVES).finish()


def signalled(training: Training, number: int, update: int, to_group: bool = False) -> subprocess.Popen:
    """Start the training, and send it a signal as soon as it has logged an update."""
    process = training.start()
    training.wait_for(lambda: training.reached(update), process)
    (os.killpg if to_group else os.kill)(process.pid, number)
    return process


def assert_nothing_lost(training: Training) -> None:
    """Every update was done once: what was trained before a stop is in the checkpoint."""
    assert [update for update, _ in training.logged()] == list(range(1, UPDATES + 1))


@pytest.mark.parametrize(
    "number, to_group, status",
    [
        (signal.SIGTERM, True, STOPPED),
        pytest.param(signal.SIGUSR1, False, STOPPED, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, True, 130, marks=pytest.mark.slow),
    ],
)
def test_one_rank(undisturbed, data, tmp_path, number, to_group, status):
    training = Training(data, tmp_path / "run", **NEVER_SAVES)
    process = signalled(training, number, 3, to_group)
    assert process.wait(timeout=120) == status, training.output()[-3000:]
    assert 3 <= training.update_reached() < UPDATES
    assert "the training stops after this update" in training.output()
    assert "Traceback" not in training.output()
    assert training.processes() == []
    assert_same(training.finish(), undisturbed)
    assert_nothing_lost(training)
