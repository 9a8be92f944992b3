"""`transformers serve` answers requests of OpenAI's client for an exported folder as the model does here."""

import base64
import contextlib
import os
import random
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kosmos_plugin.checkpoints.convert import convert
from kosmos_plugin.generation.generator import Generator, load
from tests import tiny
from tests.checkpoints import exported, peer

openai = pytest.importorskip("openai")
pytestmark = pytest.mark.slow
TIMEOUT = 120  # seconds until it listens


@contextlib.contextmanager
def transformers_serve(folder: Path) -> Iterator[str]:
    """The address of a `transformers serve` for one folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("transformers"), "serve", folder, "--trust-remote-code"]
    options = ["--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    log = folder.with_suffix(".log")
    with log.open("w") as file:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(folder.parent / "modules")}
        process = subprocess.Popen([*command, *options], stdout=file, stderr=subprocess.STDOUT, env=environment)
    try:
        end = time.monotonic() + TIMEOUT
        while True:
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health"):
                break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


def write_folder(folder: Path, variant: str) -> tuple[Path, Path]:
    """The paths of a checkpoint and of its export; "huggingface" is transformers' own KOSMOS-2."""
    if variant != "huggingface":
        return exported.write_folder(folder, variant)
    convert(peer.write_folder(folder / "theirs"), folder / "ours", "fairseq")
    convert(folder / "ours" / "model.pt", folder / "exported", "huggingface")
    return folder / "ours" / "model.pt", folder / "exported"


@pytest.mark.parametrize("variant", ["clip", "efficientnet", "kosmos_2", "huggingface"])
def test_requests_of_the_openai_client(tmp_path: Path, variant: str):
    checkpoint, folder = write_folder(tmp_path, variant)
    kosmos: Generator = load(checkpoint)
    rng = random.Random(0)
    images = [tiny.png(rng, 50) for _ in range(2)]
    parts = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(image).decode()}"}}
        for image in images
    ]
    question = {"type": "text", "text": "what is the red cat?"}
    asked = "Question: what is the red cat? Answer:"
    answer = {"role": "assistant", "content": "a dog"}
    dialogue = [{"role": "user", "content": [parts[0], question]}, answer, {"role": "user", "content": "the house:"}]
    cases = [  # messages, and the same for `generate`
        ([parts[0], question], f"<image> {asked}", images[:1]),
        ([*parts, question], f"<image> <image> {asked}", images),
        ([parts[0]], "<image>", images[:1]),
        ("what is the red cat?", asked, []),
        ([question], asked, []),
        (dialogue, f"<image> {asked} a dog the house:", images[:1]),
    ]
    with transformers_serve(folder) as url, openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        stopped = 0
        for content, prompt, given in cases:
            messages = content if content is dialogue else [{"role": "user", "content": content}]
            body = {"model": str(folder), "messages": messages, "max_tokens": 12, "temperature": 0}
            expected = known(kosmos.generate(prompt, given, max_new_tokens=12))
            assert known(client.chat.completions.create(**body).choices[0].message.content) == expected
            assert known(streamed(client, body)) == expected
            stop = expected[3:5]
            if stop.strip() == stop != "" and variant != "huggingface":  # transformers' model takes no stop texts there
                body["stop"] = [stop]
                begin = expected[: expected.index(stop) + len(stop)]  # transformers shows it
                for text in (client.chat.completions.create(**body).choices[0].message.content, streamed(client, body)):
                    assert known(text).startswith(begin)
                    stopped += known(text) != expected
        assert stopped or variant == "huggingface"


def streamed(client: Any, body: dict[str, Any]) -> str:
    """The text of a streamed answer."""
    chunks = client.chat.completions.create(**body, stream=True)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def known(text: str) -> str:
    """A text without unknown characters, which transformers leaves out, and KOSMOS-2's places, which it writes."""
    return " ".join(re.sub("⁇|<[^>]*>", " ", text).split())
