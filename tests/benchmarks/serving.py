"""kosmos-serve beside `transformers serve`, which serves the same model as an exported folder.

The model has the size of `kosmos_base`: the decoder and vision encoder of `generation.py` with random weights, 64 image
tokens. 16 clients want a caption each, all at the same time or one after the other; answers are streamed. Each image
is new to the server that sees it, and comes to both, whose captions must be equal. `transformers serve` is asked in the
same ways; it generates one request after the other, as its continuous batching takes no images.
"""

import base64
import contextlib
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx2
import torch
import transformers

from kosmos_plugin.checkpoints.convert import convert
from tests import tiny
from tests.benchmarks.generation import IMAGE_TOKENS, PIECES, TEXT, VISION
from tests.benchmarks.peers import transformers_generation
from tests.benchmarks.result import Result, Spread

CLIENTS, NEW_TOKENS, TURNS = 16, 32, 3
ALONE = 4  # captions of a turn, one after the other
COLUMNS = [
    "server", "16 at a time, tokens/s", "one by one, tokens/s", "at a time / one by one", "first token at a time, s",
    "first token one by one, s",
]  # fmt: skip


@dataclass(frozen=True)
class Caption:
    """A streamed answer."""

    text: str
    tokens: int
    first: float  # seconds until it had text


@dataclass(frozen=True)
class Server:
    """A running server."""

    name: str
    model: str
    client: httpx2.Client

    def caption(self, image: bytes) -> Caption:
        """Ask for the caption of an image: a message of an image alone."""
        url = f"data:image/png;base64,{base64.b64encode(image).decode()}"
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}],
            "max_tokens": NEW_TOKENS,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        begin, first, text, tokens = time.perf_counter(), None, "", 0
        with self.client.stream("POST", "v1/chat/completions", json=body) as answer:
            if answer.status_code != 200:
                raise RuntimeError(f"{self.name} answered {answer.status_code}: {answer.read().decode()}")
            for line in answer.iter_lines():
                if not line.startswith("data: {"):
                    continue
                chunk = json.loads(line.removeprefix("data: "))
                text += "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
                if text and first is None:
                    first = time.perf_counter() - begin
                if chunk.get("usage"):
                    tokens = chunk["usage"]["completion_tokens"]
        if first is None:
            raise RuntimeError(f"{self.name} answered without text")
        return Caption(" ".join(text.split()), tokens, first)


Way = Callable[[Callable[[bytes], Caption], Sequence[bytes]], list[Caption]]


def at_a_time(ask: Callable[[bytes], Caption], images: Sequence[bytes]) -> list[Caption]:
    with ThreadPoolExecutor(CLIENTS) as clients:
        return list(clients.map(ask, images))


def one_by_one(ask: Callable[[bytes], Caption], images: Sequence[bytes]) -> list[Caption]:
    return list(map(ask, images))


WAYS: dict[Way, int] = {at_a_time: CLIENTS, one_by_one: ALONE}  # and captions of a turn


@dataclass(frozen=True)
class Measured:
    """The captions of one server in one way and turn."""

    captions: list[Caption]
    seconds: float

    @property
    def speed(self) -> float:
        """Tokens per second."""
        return sum(caption.tokens for caption in self.captions) / self.seconds

    @property
    def first(self) -> float:
        """The median time to the first token."""
        return statistics.median(caption.first for caption in self.captions)


def measure(server: Server, way: Way, images: Sequence[bytes]) -> Measured:
    begin = time.perf_counter()
    captions = way(server.caption, images)
    return Measured(captions, time.perf_counter() - begin)


def compare(servers: Sequence[Server]) -> tuple[list[list], int, int]:
    """The rows of the table; how many captions were equal, and of how many."""
    rng = random.Random(1)
    image = partial(tiny.png, rng, 224)
    for server in servers:
        server.caption(image())
    found: dict[tuple[Server, Way], list[Measured]] = {(server, way): [] for server in servers for way in WAYS}
    for turn in range(TURNS):
        for way, count in WAYS.items():
            images = [image() for _ in range(count)]
            for server in servers if turn % 2 == 0 else reversed(servers):
                found[server, way].append(measure(server, way, images))
    rows = []
    for server in servers:
        together, alone = found[server, at_a_time], found[server, one_by_one]
        rows.append(
            [
                server.name,
                *(Spread(tuple(one.speed for one in turns)) for turns in (together, alone)),
                Spread(tuple(a.speed / b.speed for a, b in zip(together, alone, strict=True))),
                *(Spread(tuple(one.first for one in turns)) for turns in (together, alone)),
            ]
        )
    texts = [
        [caption.text for way in WAYS for turn in found[server, way] for caption in turn.captions] for server in servers
    ]
    return rows, sum(ours == theirs for ours, theirs in zip(*texts, strict=True)), len(texts[0])


@contextlib.contextmanager
def serving(name: str, model: str, command: Sequence[str | Path], port: int, log: Path) -> Iterator[Server]:
    """Start a server in a process of its own, and end it."""
    with log.open("w") as file:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(log.parent / "modules")}
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=600) as client:
            while True:
                if process.poll() is not None:
                    raise RuntimeError(f"{name} has ended: {log.read_text()[-2000:]}")
                with contextlib.suppress(httpx2.TransportError):
                    client.get("health")
                    break
                time.sleep(0.2)
            yield Server(name, model, client)
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def run(out: Path) -> Result:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        transformers_generation.build_pair(folder, PIECES, TEXT, VISION, IMAGE_TOKENS)
        checkpoint, exported = folder / "ours" / "model.pt", folder / "exported"
        convert(checkpoint, exported, "transformers")
        programs, ports = Path(sys.executable).parent, (free_port(), free_port())
        device = "cuda" if torch.cuda.is_available() else "cpu"
        shared = ["--device", device, "--dtype", "float32"]
        ours = [programs / "kosmos-serve", "--path", checkpoint, *shared, "--port", str(ports[0])]
        theirs = [programs / "transformers", "serve", exported, *shared, "--port", str(ports[1]), "--trust-remote-code"]
        version = f"`transformers serve` {transformers.__version__}"
        with (
            serving("kosmos-serve", "model", ours, ports[0], folder / "ours.log") as first,
            serving(version, str(exported), theirs, ports[1], folder / "theirs.log") as second,
        ):
            rows, equal, count = compare([first, second])
    return Result(
        title="Serving",
        columns=COLUMNS,
        rows=rows,
        notes=[
            f"Captions of at most {NEW_TOKENS} tokens, greedy, float32, streamed over HTTP; each server is a process.",
            f"In each of {TURNS} turns {CLIENTS} captions at the same time and {ALONE} one after the other, the "
            "servers in alternation. A turn's time to the first token is the median of its captions.",
            f"The servers' captions are equal for {equal} of {count} images.",
            "Target: at least 3 times as many tokens per second at a time as one by one.",
        ],
    )
