"""Ctrl-C and SIGTERM end a command within two seconds: one line, no traceback, status 130 or 143, no process left."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import tiny

ROOT = Path(__file__).parents[1]
RESUMES, ENDS = "Stopped; the same command goes on.", "Stopped."


def start(*arguments: object, stdin: int = subprocess.DEVNULL) -> subprocess.Popen:
    """Start a command in its own session, as a shell starts it in its own process group."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, arguments)],
        stdin=stdin,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def processes_of(session: int) -> list[str]:
    """The command lines of all processes of a session that still run."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append((entry / "cmdline").read_text())
        except (OSError, IndexError):  # it has ended
            continue
    return found


def allowed_seconds() -> float:
    """The two seconds of a machine that is at most half busy; more where processes wait for each other, as in -n 8."""
    return 2 * max(1.0, 2 * os.getloadavg()[0] / len(os.sched_getaffinity(0)))


def assert_stops(process: subprocess.Popen, line: str, number: int = signal.SIGINT, to_all: bool = True) -> None:
    started = time.monotonic()
    (os.killpg if to_all else os.kill)(process.pid, number)
    _, errors = process.communicate(timeout=max(20, 2 * allowed_seconds()))
    assert time.monotonic() - started < allowed_seconds(), errors
    said = [text for text in errors.replace("\r", "\n").splitlines() if text and "task" not in text]  # progress bars
    assert said == [line], errors
    assert process.returncode == 128 + number
    deadline = time.monotonic() + 2
    while processes_of(process.pid):
        assert time.monotonic() < deadline, processes_of(process.pid)
        time.sleep(0.05)


def wait_until(condition, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 100
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    """A folder of texts that take a while to prepare."""
    folder, rng = tmp_path_factory.mktemp("texts"), random.Random(0)
    paragraph = " ".join(tiny.sentence(rng) for _ in range(200))
    for number in range(40):
        lines = (json.dumps({"text": f"{number} {i} {paragraph}"}) for i in range(400))
        (folder / f"{number}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def prepare(texts: Path, data: Path, out: Path, workers: int) -> subprocess.Popen:
    vocabulary = data.parent / "vocabulary"
    options = ["--vocabulary", vocabulary, "--out", out, "--workers", workers]
    return start("fairseq_cli_ext.prepare", "text", f"{texts}/*.jsonl", *options)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_prepare_while_it_works(texts, data, tmp_path, workers, number):
    process = prepare(texts, data, tmp_path / "out", workers)
    wait_until(lambda: any((tmp_path / "out" / "work").glob("*/completions/*")), process)
    assert_stops(process, RESUMES, number, to_all=number == signal.SIGINT)


@pytest.mark.parametrize("seconds", [0.4, 1, 2, 4])
def test_prepare_while_it_starts(texts, data, tmp_path, seconds):
    process = prepare(texts, data, tmp_path / "out", 2)
    time.sleep(seconds)
    assert_stops(process, RESUMES)


def test_generate(data, tmp_path):
    checkpoint = tiny.train(data, tmp_path, "--cpu", "--num-workers", "0", "--disable-validation", "--max-update", "1")
    process = start("fairseq_cli_ext.generate", "--path", checkpoint, stdin=subprocess.PIPE)
    time.sleep(6)  # it has loaded the model and reads prompts, or is about to
    assert_stops(process, ENDS)


def test_inspect_while_a_script_runs(tmp_path):
    script = tmp_path / "train.sh"
    script.write_text(f"touch {tmp_path}/runs\nsleep 100\n")
    process = start("fairseq_cli_ext.inspect", "--plan", script)
    wait_until((tmp_path / "runs").exists, process)
    assert_stops(process, ENDS)
    assert not any(f"{script}" in line for line in map(_command_line, Path("/proc").glob("[0-9]*")))


def _command_line(entry: Path) -> str:
    try:
        return (entry / "cmdline").read_text()
    except OSError:
        return ""


def test_a_main_thread_that_does_not_answer():
    """In C code that Python does not interrupt, but that lets other threads run, as torch's."""
    program = (
        "import argparse, ctypes, sys\nfrom fairseq_cli_ext import run_command\n"
        "def run(args):\n    sys.stderr.write('ready')\n    sys.stderr.flush()\n"
        "    ctypes.CDLL(None).pause()\n    ctypes.CDLL(None).sleep(30)\n"
        "run_command(argparse.ArgumentParser(), run, [])\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    assert process.stderr.read(5) == "ready"
    time.sleep(0.2)
    assert_stops(process, ENDS)
