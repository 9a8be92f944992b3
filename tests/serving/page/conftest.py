"""A server with a page, and Gradio's own client in the place of a browser."""

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kosmos_plugin.serving.engine import Engine
from kosmos_plugin.serving.options import EngineOptions, ServerOptions
from kosmos_plugin.serving.page.files import PageFiles
from kosmos_plugin.serving.scheduler import Work
from tests import tiny
from tests.serving.conftest import Served, serving

SETTINGS = [0, 1, 0, 0, "", 8, 1, 0, ""]  # as Settings has them, with 8 new tokens


@pytest.fixture(scope="session")
def files() -> PageFiles:
    pytest.importorskip("gradio")
    return PageFiles(2**20)


@pytest.fixture(scope="session")
def paged(kosmos, files) -> Iterator[Served]:
    """A server with a page."""
    options = ServerOptions(template="plain", max_body_mib=1, max_image_pixels=10_000)
    with serving(kosmos, EngineOptions(max_sequences=2, max_queue=1), options, files) as served:
        yield served


class Visitor:
    """Someone on the page."""

    def __init__(self, url: str, **options: Any):
        from gradio_client import Client

        self.client = Client(f"{url}/chat", verbose=False, download_files=False, **options)

    def do(self, name: str, *inputs: Any) -> list[tuple]:
        """All updates that an event of the page gives."""
        job = self.client.submit(*inputs, api_name=f"/{name}")
        job.result()
        return job.outputs()

    def ask(self, text: str, *pictures: Path, template: str = "plain", **settings: Any) -> list[dict]:
        """Ask, and return the dialogue as it is shown."""
        from gradio_client import handle_file

        message = {"text": text, "files": [handle_file(str(picture)) for picture in pictures]}
        return shown(self.do("ask", message, template, *with_settings(**settings)))


def with_settings(**settings: Any) -> list[Any]:
    from dataclasses import fields

    from kosmos_plugin.serving.page.answering import Settings

    return [settings.get(field.name, value) for field, value in zip(fields(Settings), SETTINGS, strict=True)]


def shown(updates: list[tuple]) -> list[dict]:
    """The last dialogue in some updates."""
    return next(update[0] for update in reversed(updates) if isinstance(update[0], list))


def texts(messages: list[dict]) -> list[str]:
    return [part["text"] for message in messages for part in message["content"] if part["type"] == "text"]


def slow_steps(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the engine take at least 20 ms for a token."""
    step = engine._step

    def slow_step(work: list[Work]) -> None:
        time.sleep(0.02)
        step(work)

    monkeypatch.setattr(engine, "_step", slow_step)


@pytest.fixture
def visitor(paged) -> Iterator[Visitor]:
    visitor = Visitor(paged.url)
    yield visitor
    visitor.client.close()
    paged.wait_until_idle()


@pytest.fixture(scope="session")
def picture(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "noise.png"
    path.write_bytes(tiny.png(random.Random(5)))
    return path


@pytest.fixture
def warnings(monkeypatch):
    """What is said on the page."""
    gradio = pytest.importorskip("gradio")
    said: list[str] = []
    monkeypatch.setattr(gradio, "Warning", lambda message, title: said.append(message))
    return said
