"""Parses pages in a process of its own, which a page that takes too much time or memory ends: the run goes on.

The parser is compiled code: nothing in its own process can stop it, and some pages take it hours, such as one with a
million attributes on an element or a million elements that are never closed. `readers.html` bounds what it can count
(bytes, elements, depth), so that most such pages are dropped on every machine. The limits here are the last resort.
Time is that of the processor, so that a page is not dropped because the machine is busy.
"""

import atexit
import contextlib
import functools
import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import asdict

from kosmos_plugin.curation.page_documents import PageImage
from kosmos_plugin.curation.pipeline.dropped import Dropped
from kosmos_plugin.curation.readers.html import parse_page

CPU_SECONDS = 30  # a page of 10 MB and 500,000 elements takes about a third of it
MEMORY = 3 * 2**30  # bytes of addresses

TOO_SLOW = f"HTML that takes more than {CPU_SECONDS} seconds to parse"
UNPARSABLE = "HTML that the parser has no memory for or fails on"


class PageParser:
    """A process that parses one page at a time. A new one is started after one that had to be ended."""

    def __init__(self, cpu_seconds: float = CPU_SECONDS):
        self.cpu_seconds = cpu_seconds
        self._process: subprocess.Popen[bytes] | None = None

    def parse(self, html: str, url: str) -> list[str | PageImage]:
        """`readers.html.parse_page`; raises Dropped also for a page that takes too much time or memory."""
        process = self._process or self._start()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps([html, url]).encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line.endswith(b"\n"):
            self._process = None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.stdout.close()
            raise Dropped(TOO_SLOW if process.wait() == -signal.SIGPROF else UNPARSABLE)
        answer = json.loads(line)
        if isinstance(answer, str):
            raise Dropped(answer)
        return [part if isinstance(part, str) else _image(**part) for part in answer]

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.communicate()
            self._process = None

    def _start(self) -> "subprocess.Popen[bytes]":
        paths = os.pathsep.join(filter(None, sys.path))
        # Without the safe path, a module in the working directory could stand in for one of ours.
        environment = {**os.environ, "PYTHONPATH": paths, "PYTHONSAFEPATH": "1"}
        command = f"from {__name__} import serve; serve({self.cpu_seconds})"
        process = subprocess.Popen(
            [sys.executable, "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"the process that parses pages did not start (exit status {process.wait()})")
        self._process = process
        return process


def _image(url: str, alt: str | None, other_urls: list[str]) -> PageImage:
    return PageImage(url, alt, tuple(other_urls))


@functools.cache
def page_parser() -> PageParser:
    """The parser of this process."""
    parser = PageParser()
    atexit.register(parser.close)
    return parser


def serve(cpu_seconds: float) -> None:
    """Answer each line of standard input, a page, with a line: its parts, or the reason why it is dropped."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks ends this one
    _limit_memory()
    pages, answers = sys.stdin.buffer, sys.stdout.buffer
    answers.write(b"ready\n")
    answers.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # what the parser says when memory ends
    for line in pages:
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)  # SIGPROF ends the process, also within compiled code
        answers.write(json.dumps(_answer(*json.loads(line)), default=asdict).encode() + b"\n")
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.flush()


def _answer(html: str, url: str) -> list[str | PageImage] | str:
    try:
        return parse_page(html, url)
    except Dropped as error:
        return error.reason


def _limit_memory() -> None:
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
    with contextlib.suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
