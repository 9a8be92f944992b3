"""Runs a command of kosmos-prepare in a process of its own, and kills it while it works."""

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "fairseq_cli_ext.prepare", *map(str, arguments)]


def finish(*arguments: object) -> None:
    """Run it to its end; what it says is in the error if it fails."""
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@contextlib.contextmanager
def run_in_background(*arguments: object) -> Iterator[subprocess.Popen]:
    """Start it, and at the end kill it with all its processes."""
    process = subprocess.Popen(
        command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def kill_when(condition, *arguments: object) -> None:
    """Start it and kill it with all its processes as soon as `condition()` is true."""
    with run_in_background(*arguments) as process:
        while not condition():
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.005)


def digests(out: Path) -> dict[str, str]:
    """Name → digest of all that a run made; datatrove's own folder, which has times, and indexes apart."""
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and "work" not in path.relative_to(out).parts]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
