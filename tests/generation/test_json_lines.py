"""JSON lines on standard input of kosmos-generate: each is answered with valid JSON, or refused with one line."""

import io
import json
import random
import sys
import time

import pytest

import kosmos_plugin
from fairseq_cli_ext import generate
from kosmos_plugin.errors import UserError
from kosmos_plugin.generation.options import SearchOptions
from tests import tiny

GOOD = '{"prompt": "a red cat", "images": [], "id": "é \\\\u00e9"}'

DAMAGE = [
    "[" * 100_000,
    '{"a":' * 100_000,
    "[" * 900 + "]" * 900,
    "9" * 5000,
    "1e999",
    "-Infinity",
    "NaN",
    "\\ud83d",
    "\\udc80",
    "\ud83d",
    "\udc80",
    "\\u0000",
    "\x00",
    "x" * 5000,
    "../" * 2000,
    "<image>",
    '"images": ["' + "x" * 5000 + '"]',
    '"images": ["\\u0000"]',
    '"images": ["\\ud83d"]',
    '"images": ["/"]',
    '"images": [1]',
    '"prompt": ""',
    '"prompt": "<image>"',
    '"prompt": null',
    '"prompt": "\\ud83d"',
    '"x": NaN',
    "\u2028",
    "\ufeff",
    ",",
    '"',
    "}",
    "null",
]


@pytest.fixture(scope="module")
def kosmos(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return kosmos_plugin.load(tiny.train(data, folder, "--cpu", "--num-workers", "0", "--max-update", "1"))


def damaged(rng: random.Random) -> bytes:
    text = GOOD
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(len(text))
        text = text[:start] + rng.choice(DAMAGE) + text[min(start + rng.choice([0, 0, 1, 10]), len(text)) :]
    if rng.random() < 0.5:  # a whole field more
        text = f"{GOOD[:-1]}, {rng.choice(DAMAGE)}}}"
    line = bytearray(text.encode("utf-8", "surrogatepass"))
    if rng.random() < 0.2:
        line[rng.randrange(len(line))] = rng.randrange(256)
    return bytes(line).replace(b"\n", b" ").replace(b"\r", b" ") + b"\n"


def answer(kosmos, monkeypatch, lines: bytes, encoding: str = "utf-8") -> list[str]:
    """The lines that the command prints on a terminal of this encoding, for these lines on its standard input."""
    output = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines), encoding=encoding))
    monkeypatch.setattr(sys, "stdout", output)
    generate.answer_standard_input(kosmos, 16, SearchOptions(max_new_tokens=1))
    output.flush()
    return output.buffer.getvalue().decode(encoding).split("\n")[:-1]


def strict(line: str) -> dict:
    return json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_damaged_lines(kosmos, monkeypatch):
    rng = random.Random(0)
    answered = 0
    for _ in range(2500):
        line = damaged(rng)
        started = time.process_time()
        try:
            for printed in answer(kosmos, monkeypatch, line):
                found, given = strict(printed), json.loads(line.decode("utf-8-sig"))
                assert {key: found[key] for key in given} == given
                answered += 1
        except UserError as error:
            assert "\n" not in str(error) and ("line 1" in str(error) or "The image" in str(error)), line
            assert len(str(error)) < 1000
        assert time.process_time() - started < 2
    assert answered > 100


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_records_come_back_as_they_were_in_any_locale(kosmos, monkeypatch, encoding):
    records = [{"prompt": "a", "id": value} for value in ("é", "\ud83d", "猫", "\u2028", [1.5, None, {"a": "ß"}])]
    records.append({"prompt": "a cat é 猫"})
    lines = b"\xef\xbb\xbf" + b"".join(json.dumps(record).encode() + b"\n" for record in records)
    for record, line in zip(records, answer(kosmos, monkeypatch, lines, encoding), strict=True):
        found = strict(line)
        assert {key: found[key] for key in record} == record
    raw = '{"prompt": "a", "id": "é 猫"}\n'.encode()
    assert strict(answer(kosmos, monkeypatch, raw, encoding)[0])["id"] == "é 猫"


@pytest.mark.parametrize(
    "line, words",
    [
        (b"[" * 100_000, "line 2, is nested too deeply"),
        (b'{"prompt": "a \xff"}', "line 2, is not valid UTF-8"),
        (b'{"prompt": "a", "x": NaN}', "line 2, is not valid JSON: the number NaN is not finite"),
        (b'{"prompt": "a", "x": 1e999}', "line 2, is not valid JSON: the number 1e999 is not finite"),
        (b'{"prompt": "<image>", "images": ["' + b"x" * 5000 + b'"]}', "The image x* does not exist"),
        (b'{"prompt": "<image>", "images": ["\\u0000"]}', "The image .* does not exist"),
        (b'{"prompt": "a", "x": ' + b"9" * 5000 + b"}", "line 2, is not valid JSON: Exceeds the limit"),
    ],
)
def test_says_what_is_wrong(kosmos, monkeypatch, line, words):
    with pytest.raises(UserError, match=words):
        answer(kosmos, monkeypatch, b'{"prompt": "a"}\n' + line + b"\n")
