"""Two hundred requests of twenty clients, a third of them broken: all good ones are right, and memory stays flat."""

import base64
import io
import json
import os
import random
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from PIL import Image

from kosmos_plugin.serving.options import EngineOptions, ServerOptions
from tests import tiny
from tests.serving.conftest import serving

pytestmark = pytest.mark.slow

REQUESTS, CLIENTS = 200, 20
PATH = "/v1/chat/completions"


def uri(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def chat(text, images=(), **options):
    content = [{"type": "image_url", "image_url": {"url": image}} for image in images]
    content.append({"type": "text", "text": text})
    return {"messages": [{"role": "user", "content": content}], **options}


def resident_bytes() -> int:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Load:
    """Requests against a server, good and broken, all functions of their number."""

    def __init__(self, served, kosmos):
        self.served = served
        self.kosmos = kosmos
        self.client = httpx2.Client(base_url=served.url, timeout=300)
        buffer = io.BytesIO()
        Image.new("1", (7000, 7000)).save(buffer, "PNG")
        self.huge = uri(buffer.getvalue())
        self.lock = threading.Lock()

    def good(self, rng):
        """A caption, a text, or a sampled one; streamed or not; its text must be that of `generate`."""
        text, images = tiny.sentence(rng, (1, 30)), [tiny.png(rng) for _ in range(rng.choice([0, 1, 1, 2]))]
        length, sampled = rng.randint(1, 20), rng.random() < 0.4
        body = chat(text, map(uri, images), max_tokens=length, stream=rng.random() < 0.5)
        options = {"max_new_tokens": length}
        if sampled:
            body |= {"temperature": 1.0, "seed": 7, "top_p": 0.9}
            options |= {"do_sample": True, "seed": 7, "top_p": 0.9}
        answer = self.client.post(PATH, json=body)
        assert answer.status_code == 200, answer.text
        if body["stream"]:
            *events, done, end = answer.text.split("\n\n")
            assert (done, end) == ("data: [DONE]", "")
            chunks = [json.loads(event.removeprefix("data: ")) for event in events]
            found = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
        else:
            found = answer.json()["choices"][0]["message"]["content"]
        with self.lock:
            expected = self.kosmos.generate(" ".join([*["<image>"] * len(images), text]), images, **options)
        assert found == expected

    def broken(self, rng, number):
        """One of the ways in which requests are broken."""
        refused = [
            chat("a cat", [uri(b"no image")]),
            chat("a cat", [self.huge]),
            chat("a cat", max_tokens=10_000),
            chat("a cat " * 10_000),
            chat("a cat", ["http://169.254.169.254/latest/meta-data/"]),
            chat("a cat", ["http://localhost/cat.png"]),
        ]
        kind = number % (len(refused) + 3)
        if kind < len(refused):
            assert self.client.post(PATH, json=refused[kind]).status_code == 400
        elif kind == len(refused):
            answer = self.client.post(PATH, content=b'{"messages": [', headers={"Content-Type": "application/json"})
            assert answer.status_code == 400
        elif kind == len(refused) + 1:  # the connection is cut before the answer
            body = json.dumps(chat("a dog", max_tokens=200, temperature=3)).encode()
            head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            with socket.create_connection(("127.0.0.1", self.served.port)) as connection:
                connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        else:  # and within a stream
            with self.client.stream(
                "POST", PATH, json=chat("a dog", max_tokens=200, temperature=3, stream=True)
            ) as stream:
                next(stream.iter_lines())

    def run(self, seed):
        """All requests; raises what the first of them raises."""

        def one(number):
            rng = random.Random(f"{seed} {number}")
            self.broken(rng, number // 3) if number % 3 == 0 else self.good(rng)

        with ThreadPoolExecutor(CLIENTS) as clients:
            list(clients.map(one, range(REQUESTS)))
        self.served.wait_until_idle()


def test_many_clients(kosmos):
    options = ServerOptions(template="plain", allow_remote_images=True)
    with serving(kosmos, EngineOptions(max_sequences=8, max_queue=200), options) as served:
        load = Load(served, kosmos)
        load.run("the first time, in which libraries load their parts")
        before = resident_bytes()
        load.run("again")
        grown = resident_bytes() - before
        assert httpx2.get(f"{served.url}/health").status_code == 200
        assert served.engine.counters.failed == 0
        assert grown < 40 * 2**20, f"memory has grown by {grown / 2**20:.0f} MiB"
