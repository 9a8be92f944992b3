"""A training that gets SIGTERM, SIGUSR1 or Ctrl-C ends with a checkpoint, and then goes on as if nothing had happened.

The trainings are the real fairseq-train in processes of their own, with data workers and dropout. Those on several
ranks are started by ranks.sh's run_ranks, as the scripts in examples/kosmos_1 do, on gloo.
"""

import os
import signal
import subprocess
import time

import pytest

from kosmos_plugin.fairseq_modules import stop_signals
from tests.training_run import UPDATES, ScriptTraining, Training, assert_same

STOPPED, INTERRUPTED = 75, 130
# Nothing but the signal makes fairseq save.
NEVER_SAVES = {"save-interval-updates": 0, "no-epoch-checkpoints": True}

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory) -> Training:
    return Training(data, tmp_path_factory.mktemp("undisturbed"), **NEVER_SAVES).finish()


@pytest.fixture(scope="module")
def undisturbed_ranks(data, tmp_path_factory) -> Training:
    return ScriptTraining(data, tmp_path_factory.mktemp("undisturbed"), 2, **NEVER_SAVES).finish()


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in stop_signals.SIGNALS]


def test_handlers_are_restored():
    before = handlers()
    with stop_signals.listening():
        assert stop_signals.received() is None
        assert not set(handlers()) & set(before)
    assert handlers() == before


def test_only_workers_of_a_training_ignore_the_signals():
    """Of any other command, multiprocessing ends them by SIGTERM."""
    before = handlers()
    stop_signals.ignore_in_worker()
    assert handlers() == before
    with stop_signals.listening():
        stop_signals.ignore_in_worker()
        assert handlers() == [signal.SIG_IGN] * 3
    assert handlers() == before


def start_until(training: Training, update: int) -> subprocess.Popen:
    """Start the training, and wait until it has logged an update."""
    process = training.start()
    training.wait_for(lambda: training.reached(update), process)
    return process


def assert_stopped(training: Training, process: subprocess.Popen, status: int) -> None:
    """The training ends in time, with all of its updates in the checkpoint and without a process left."""
    assert process.wait(timeout=120) == status, training.output()[-3000:]
    assert "Traceback" not in training.output()
    assert training.update_reached() == max(training.losses()) < UPDATES, "an update was lost"
    deadline = time.monotonic() + 10
    while training.processes():
        assert time.monotonic() < deadline, "a process is left"
        time.sleep(0.1)


@pytest.mark.parametrize(
    "number, to_group, status",
    [
        (signal.SIGTERM, True, STOPPED),  # the data workers get it too
        pytest.param(signal.SIGUSR1, False, STOPPED, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, True, INTERRUPTED, marks=pytest.mark.slow),
    ],
)
def test_one_rank(undisturbed, data, tmp_path, number, to_group, status):
    training = Training(data, tmp_path / "run", **NEVER_SAVES)
    process = start_until(training, 3)
    (os.killpg if to_group else os.kill)(process.pid, number)
    assert_stopped(training, process, status)
    assert f"{signal.Signals(number).name}: the training stops after this update" in training.output()
    assert_same(training.finish(), undisturbed)


@pytest.mark.slow
def test_in_the_last_update(undisturbed, data, tmp_path):
    """The update before is logged when it is over: the training is then complete, and not stopped."""
    training = Training(data, tmp_path / "run", **NEVER_SAVES)
    process = start_until(training, UPDATES - 1)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=120) == 0, training.output()[-3000:]
    assert "SIGTERM: the training stops after this update" in training.output()
    assert_same(training, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("rank", [0, 1])
def test_either_of_two_ranks(undisturbed_ranks, data, tmp_path, rank, number):
    training = ScriptTraining(data, tmp_path / "run", 2, **NEVER_SAVES)
    process = start_until(training, 3)
    os.kill(training.ranks()[rank], number)
    assert_stopped(training, process, STOPPED)
    assert_same(training.finish(), undisturbed_ranks)


@pytest.mark.slow
@pytest.mark.parametrize(
    "number, everywhere, status",
    [
        (signal.SIGUSR1, False, STOPPED),
        (signal.SIGTERM, False, STOPPED),
        (signal.SIGTERM, True, STOPPED),  # as Slurm's preemption: torchrun, ranks and data workers get it too
        (signal.SIGINT, True, INTERRUPTED),
    ],
)
def test_the_script(undisturbed_ranks, data, tmp_path, number, everywhere, status):
    training = ScriptTraining(data, tmp_path / "run", 2, **NEVER_SAVES)
    process = start_until(training, 3)
    for target in training.processes() if everywhere else [process.pid]:
        os.kill(target, number)
    assert_stopped(training, process, status)
    assert not list((tmp_path / "run").glob(".stopped*"))
    assert_same(training.finish(), undisturbed_ranks)


@pytest.mark.slow
def test_plain_torchrun(undisturbed_ranks, data, tmp_path):
    """Its status is 0. The file that KOSMOS_STOPPED_FILE names tells that the training is not complete."""
    training, stopped = Training(data, tmp_path / "run", 2, **NEVER_SAVES), tmp_path / "stopped"
    process = training.start(KOSMOS_STOPPED_FILE=str(stopped), TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")
    training.wait_for(lambda: training.reached(3), process)
    subprocess.run(["pkill", "-USR1", "-P", str(process.pid)], check=True)
    assert_stopped(training, process, 0)
    assert stopped.exists()
    assert training.start(KOSMOS_STOPPED_FILE=str(stopped)).wait(timeout=300) == 0, training.output()[-3000:]
    assert not stopped.exists()
    assert_same(training, undisturbed_ranks)


@pytest.mark.slow
def test_the_script_while_the_ranks_start(undisturbed_ranks, data, tmp_path):
    training = ScriptTraining(data, tmp_path / "run", 2, **NEVER_SAVES)
    process = training.start()
    training.wait_for(lambda: len(training.ranks()) == 2, process)
    os.kill(process.pid, signal.SIGTERM)
    assert_stopped(training, process, STOPPED)
    assert_same(training.finish(), undisturbed_ranks)


@pytest.mark.slow
def test_ctrl_c_twice(data, tmp_path):
    """At once: long before the update that a stopped data worker delays."""
    for training in (Training(data, tmp_path / "one"), ScriptTraining(data, tmp_path / "two", 2)):
        process = start_until(training, 3)
        rank = training.ranks().get(0, process.pid)
        for worker in training.data_workers(rank):
            os.kill(worker, signal.SIGSTOP)
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(2)
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=10) in (130, -signal.SIGINT)
        training.kill_all()  # the stopped workers


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_while_it_validates(data, tmp_path, ranks):
    """The validation is given up: it could take longer than the time that is left."""
    options = {**NEVER_SAVES, "valid-subset": "valid", "validate-interval-updates": 3, "max-tokens-valid": 64}
    training = (ScriptTraining if ranks > 1 else Training)(data, tmp_path / "run", ranks, **options)
    process = training.start()
    validation = 'begin validation on "valid" subset'
    training.wait_for(lambda: validation in training.output(), process)
    os.kill(training.ranks().get(ranks - 1, process.pid), signal.SIGTERM)
    assert_stopped(training, process, STOPPED)
    assert training.output().count(validation) == 1
    assert training.update_reached() in (3, 4)  # 4: if the validation was over before


@pytest.mark.slow
def test_it_is_saved_without_last_checkpoints(data, tmp_path):
    training = Training(data, tmp_path / "run", **NEVER_SAVES, **{"no-last-checkpoints": True})
    process = start_until(training, 3)
    os.kill(process.pid, signal.SIGTERM)
    assert_stopped(training, process, STOPPED)


@pytest.mark.slow
def test_a_complete_training_does_nothing(data, tmp_path):
    training = Training(data, tmp_path / "run", **NEVER_SAVES).finish()
    before = (tmp_path / "run" / "checkpoint_last.pt").read_bytes()
    training.finish()
    assert f"The training is complete: it has reached --max-update {UPDATES}." in training.output()
    assert (tmp_path / "run" / "checkpoint_last.pt").read_bytes() == before
