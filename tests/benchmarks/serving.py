"""kosmos-serve at the size of `kosmos_base`: captions of many clients at the same time, against one after the other.

The model is that of `generation.py`: a decoder with 12 layers of width 768 and a vocabulary of about 65,000, ViT-B/32,
64 image tokens, random weights. Requests go over HTTP; both sides must give the same captions.
"""

import base64
import random
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import uvicorn

from kosmos_plugin.generation.generator import Generator
from kosmos_plugin.serving.app import create_app
from kosmos_plugin.serving.engine import Engine
from kosmos_plugin.serving.listening import listening_socket
from kosmos_plugin.serving.options import EngineOptions, ServerOptions
from tests import tiny
from tests.benchmarks.generation import IMAGE_TOKENS, PIECES, TEXT, VISION
from tests.benchmarks.peers import transformers_generation
from tests.benchmarks.result import Cell, Result
from tests.benchmarks.side_by_side import COLUMNS, side_by_side

CLIENTS, NEW_TOKENS, TURNS = 16, 32, 3
SYSTEM_WORDS = 400


def ask(client: httpx2.Client, system: str, image: bytes) -> str:
    """The caption of an image."""
    picture = {"url": f"data:image/png;base64,{base64.b64encode(image).decode()}"}
    content = [{"type": "image_url", "image_url": picture}, {"type": "text", "text": "An image of"}]
    messages = [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": content}]
    body = {"messages": messages, "max_tokens": NEW_TOKENS}
    return client.post("/v1/chat/completions", json=body).raise_for_status().json()["choices"][0]["message"]["content"]


def captions(kosmos: Generator, url: str, system_words: int) -> list[Cell]:
    """All clients at the same time, against one after the other. The images are new each time, the rest is not."""
    rng = random.Random(system_words)
    system = tiny.sentence(rng, (system_words, system_words))
    found: list[list[str]] = [[], []]
    with httpx2.Client(base_url=url, timeout=600) as client, ThreadPoolExecutor(CLIENTS) as clients:
        turns = [[tiny.png(rng, 224) for _ in range(CLIENTS)] for _ in range(TURNS + 1)]
        images = [iter(turns), iter(turns)]

        def together() -> None:
            found[0] += clients.map(lambda image: ask(client, system, image), next(images[0]))

        def one_by_one() -> None:
            found[1] += [ask(client, system, image) for image in next(images[1])]

        times = side_by_side(together, one_by_one, TURNS)
    if found[0] != found[1]:
        raise RuntimeError("Captions differ with the requests beside them")
    name = f"captions of {CLIENTS} clients at the same time, vs one after the other"
    if system_words:
        name += f", with the same {system_words} words before each"
    return times.row(name, CLIENTS * NEW_TOKENS, "tokens/s", 3.0, None)


def run(out: Path) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        kosmos, _ = transformers_generation.build_pair(Path(folder), PIECES, TEXT, VISION, IMAGE_TOKENS)
    with listening_socket("127.0.0.1", 0) as listening, Engine(kosmos, EngineOptions()) as engine:
        # Nothing is shared but beginnings: each image is encoded each time.
        engine.images.max_images = 0
        server = uvicorn.Server(
            uvicorn.Config(create_app(engine, ServerOptions(template="plain"), "base"), log_config=None)
        )
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        rows = [captions(kosmos, url, words) for words in (0, SYSTEM_WORDS)]
        server.should_exit = True
        thread.join()
    return Result(
        title="Serving",
        columns=COLUMNS,
        rows=rows,
        notes=[
            f"Over HTTP, {NEW_TOKENS} new tokens each, greedy; the time includes decoding and encoding the images.",
            "Both sides have the engine of kosmos-serve, with its cache of shared beginnings.",
        ],
    )
