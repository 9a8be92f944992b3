"""Runs kosmos-prepare in this process, or in a separate one that can be killed while it works."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import zstandard

from fairseq_cli_ext import prepare as command


def prepare(arguments: Sequence[object]) -> None:
    """Run it in this process. Raises UserError."""
    command.run(command.parser().parse_args([*map(str, arguments)]))


def command_line(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "fairseq_cli_ext.prepare", *map(str, arguments)]


def finish(*arguments: object) -> None:
    """Run it to its end in a separate process; if it fails, the assertion shows its messages."""
    done = subprocess.run(command_line(*arguments), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@contextlib.contextmanager
def run_in_background(*arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """Start it in a separate process; on exit, kill it with all of its processes."""
    process = subprocess.Popen(
        command_line(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def kill_when(condition: Callable[[], bool], *arguments: object) -> None:
    """Start it, and kill it with all of its processes as soon as `condition()` is true."""
    with run_in_background(*arguments) as process:
        while not condition():
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.005)


def digests(out: Path) -> dict[str, str]:
    """File name → digest, for all files of a run except datatrove's own folder, whose files contain times."""
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and "work" not in path.relative_to(out).parts]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def dropped(folder: Path) -> dict[str, list[dict]]:
    """The documents that --keep-dropped wrote: step → documents, in the order of the tasks."""
    found: dict[str, list[dict]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with zstandard.open(path, "rt", encoding="utf-8") as lines:
                found.setdefault(path.parent.name, []).extend(map(json.loads, lines))
    return found
