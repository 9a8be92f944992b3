"""A tiny model that has 256 positions, behind an engine and behind a server."""

import contextlib
import threading
import time
from collections.abc import Iterator

import httpx2
import pytest
import uvicorn
from fastapi import FastAPI

from kosmos_plugin.checkpoints.fairseq_checkpoint import new_checkpoint, write_fairseq
from kosmos_plugin.data.samples import SampleBuilder
from kosmos_plugin.generation.generator import Generator
from kosmos_plugin.serving.app import create_app
from kosmos_plugin.serving.engine import Engine
from kosmos_plugin.serving.listening import listening_socket
from kosmos_plugin.serving.options import EngineOptions, ServerOptions
from kosmos_plugin.serving.page.files import PageFiles
from tests import tiny

POSITIONS = 256


@pytest.fixture(scope="session")
def kosmos(data) -> Generator:
    task = tiny.task(data)
    model = tiny.model(task)
    model.config.tokens_per_sample = POSITIONS
    return Generator(model, task.vocabulary, SampleBuilder(task.vocabulary, tiny.IMAGE_TOKENS, POSITIONS))


@pytest.fixture(scope="session")
def checkpoint(kosmos, data, tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "caption-model.pt"
    vocabulary = str(data.parent / "vocabulary")
    write_fairseq(new_checkpoint("kosmos_tiny", kosmos.model.config, kosmos.model.state_dict(), vocabulary), path)
    return path


class Served:
    """A server in a thread of this process."""

    def __init__(self, engine: Engine, app: FastAPI, port: int):
        self.engine = engine
        self.app = app
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def wait_until_idle(self) -> None:
        """Wait until no text is generated."""
        wait_until(lambda: self.engine.unfinished == 0 and self.engine.scheduler.pool.in_use == 0)


def wait_until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


@contextlib.contextmanager
def serving(
    kosmos: Generator, engine_options: EngineOptions, options: ServerOptions, files: PageFiles | None = None
) -> Iterator[Served]:
    """Serve the model at any free port, with a page if there are files of one."""
    with listening_socket("127.0.0.1", 0) as listening, Engine(kosmos, engine_options) as engine:
        app = create_app(engine, options, "tiny", files)
        server = uvicorn.Server(
            uvicorn.Config(app, log_config=None, access_log=False, lifespan="on" if files else "off")
        )
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        served = Served(engine, app, listening.getsockname()[1])
        wait_until(lambda: server.started)
        try:
            yield served
        finally:
            server.should_exit = server.force_exit = True
            thread.join()


@pytest.fixture(scope="session")
def served(kosmos) -> Iterator[Served]:
    """A server with the default options, but for a small queue."""
    with serving(kosmos, EngineOptions(max_sequences=4, max_queue=40), ServerOptions(template="plain")) as served:
        yield served


@pytest.fixture
def http(served) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=served.url, timeout=60) as client:
        yield client
