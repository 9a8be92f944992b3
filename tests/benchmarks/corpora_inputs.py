"""Random raw data of any size for the corpora benchmarks: texts, captioned images, crawled pages, from a seed.

Word frequencies are those of the standard library's help pages; a tenth of the texts are copies with one word changed.
"""

import functools
import io
import json
import random
import re
from collections import Counter
from itertools import accumulate
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
from fastwarc.stream_io import GzipWriter
from fastwarc.warc import WarcRecord, WarcRecordType
from PIL import Image

from tests import tiny

MENU = "".join(f'<li><a href="/{i}">Section {i}</a></li>' for i in range(40))
SCRIPT = "<script>" + "window.settings = {measure: true, color: 'red', depth: 3};\n" * 40 + "</script>"


@functools.cache
def _vocabulary() -> tuple[list[str], list[int]]:
    counts = Counter(re.findall(r"[a-z]+", " ".join(topics.values()).lower()))
    return list(counts), list(accumulate(counts.values()))


def sentence(rng: random.Random, words: int) -> str:
    known, weights = _vocabulary()
    return " ".join(rng.choices(known, cum_weights=weights, k=words)).capitalize() + "."


def texts(seed: int, number: int) -> list[str]:
    """Texts of 150 to 250 words; every tenth is an earlier one with one word changed."""
    rng = random.Random(seed)
    made: list[str] = []
    for i in range(number):
        if i % 10 == 9:
            copied = rng.choice(made).split()
            copied[rng.randrange(len(copied))] = "changed"
            made.append(" ".join(copied))
        else:
            made.append(sentence(rng, rng.randint(150, 250)))
    return made


def write_texts(folder: Path, files: int, documents: int) -> int:
    """Write JSON lines with `documents` texts per file; return the number of texts."""
    folder.mkdir()
    for file in range(files):
        lines = (json.dumps({"text": text}) + "\n" for text in texts(file, documents))
        (folder / f"{file:05d}.jsonl").write_text("".join(lines), encoding="utf-8")
    return files * documents


@functools.cache
def pictures() -> list[bytes]:
    """JPEGs of 320 × 240 pixels, about 8 KB each."""
    draw = np.random.default_rng(0)
    made = []
    for _ in range(50):
        small = Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        small.resize((320, 240), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        made.append(buffer.getvalue())
    return made


def write_captions(folder: Path, files: int, samples: int) -> int:
    """Write img2dataset's tars of `samples` pairs each; return the number of pairs."""
    for file in range(files):
        rng = random.Random(file)
        members = []
        for sample in range(samples):
            key, caption = f"{file:05d}{sample:04d}", sentence(rng, rng.randint(6, 20))
            about = {"url": f"https://example.org/{key}.jpg", "caption": caption, "key": key, "status": "success"}
            members += [(f"{key}.jpg", rng.choice(pictures())), (f"{key}.txt", caption.encode())]
            members.append((f"{key}.json", json.dumps(about).encode()))
        tiny.write_tar(folder / f"{file:05d}.tar", members)
    return files * samples


def page(rng: random.Random, name: str) -> str:
    """HTML with a menu, eight paragraphs, two images, scripts and a footer: about 12 KB."""
    paragraphs = [f"<p>{sentence(rng, rng.randint(40, 80))}</p>" for _ in range(8)]
    paragraphs.insert(2, f'<figure><img src="/{name}/a.jpg" alt="a picture"></figure>')
    paragraphs.insert(6, f'<div><img src="/{name}/b.jpg"></div>')
    body = f"<nav><ul>{MENU}</ul></nav>{SCRIPT}<article><h1>{name}</h1>{''.join(paragraphs)}</article>"
    return f"<html><head><title>{name}</title></head><body>{body}<footer>Imprint</footer></body></html>"


def write_crawl(folder: Path, files: int, pages: int) -> int:
    """Write WARC files of `pages` pages each, with their images; return the number of pages."""
    folder.mkdir()
    for file in range(files):
        rng = random.Random(file)
        with open(folder / f"{file:05d}.warc.gz", "wb") as stream:
            writer = GzipWriter(stream)
            for number in range(pages):
                name = f"{file}-{number}"
                bodies = [("", "text/html", page(rng, name).encode())]
                bodies += [(f"/{picture}.jpg", "image/jpeg", rng.choice(pictures())) for picture in "ab"]
                for path, media_type, body in bodies:
                    record = WarcRecord()
                    record.init_headers(WarcRecordType.response)
                    record.headers["WARC-Target-URI"] = f"https://example.org/{name}{path}"
                    record.is_http = True
                    record.set_bytes_content(f"HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\n\r\n".encode() + body)
                    record.write(writer)
                    writer.finish()
            writer.close()
    return files * pages
