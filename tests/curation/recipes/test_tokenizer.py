"""kosmos-prepare tokenizer: the same bytes each time, a model and dictionary that load, and impossible sizes."""

import json
import random

import pytest

from kosmos_plugin.errors import UserError
from kosmos_plugin.vocabulary import Vocabulary
from tests import tiny
from tests.curation.command import prepare
from tests.curation.recipes.test_text import WRITERS, json_lines


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("texts"), random.Random(0)
    for part in range(2):
        (folder / f"{part}.jsonl").write_bytes(json_lines([tiny.sentence(rng, (20, 60)) for _ in range(200)]))
    return folder / "*.jsonl"


def run(out, *arguments) -> dict:
    prepare(["tokenizer", *map(str, arguments), "--out", str(out)])
    return json.loads((out / "report.json").read_text())["counts"]


@pytest.mark.parametrize("model_type, size", [("unigram", 60), ("bpe", 120)])
def test_same_input_same_bytes_and_the_pair_loads(texts, tmp_path, model_type, size):
    made = []
    for workers in (1, 2):
        out = tmp_path / f"out-{workers}"
        counts = run(out, texts, "--size", size, "--model-type", model_type, "--workers", workers)
        made.append([(out / name).read_bytes() for name in ("sentencepiece.model", "dict.txt", "encoding.json")])
    assert made[0] == made[1]
    vocabulary = Vocabulary.load(out)
    assert counts["kept"]["pieces of text"] == size - 3
    assert len(vocabulary) == size - 3 + 4 + 6
    text = "the red cat runs slowly"
    assert vocabulary.decode(vocabulary.encode(text)) == text
    assert vocabulary.unk not in vocabulary.encode(text)
    assert vocabulary.decode(vocabulary.encode("the red cat\r\n\r\nruns slowly\n")) == "the red cat\nruns slowly"


def test_bytes_spell_what_has_no_piece(texts, tmp_path):
    run(tmp_path / "out", texts, "--size", 310, "--byte-fallback", "--workers", 1)
    vocabulary = Vocabulary.load(tmp_path / "out")
    assert vocabulary.decode(vocabulary.encode("the 😀 cat")) == "the 😀 cat"


@pytest.mark.parametrize("ending", ["txt", "parquet", "jsonl.zst"])
def test_formats(tmp_path, ending):
    rng = random.Random(0)
    WRITERS[ending](tmp_path / f"a.{ending}", [tiny.sentence(rng, (20, 60)) for _ in range(100)])
    counts = run(tmp_path / "out", tmp_path / f"a.{ending}", "--separator", "", "--size", 50, "--workers", 1)
    assert counts["kept"]["documents trained on"] == 100


def test_samples(texts, tmp_path):
    kept = run(tmp_path / "a", texts, "--documents", 150, "--size", 50, "--workers", 1)["kept"]
    assert kept["documents trained on"] == 150
    rng = random.Random(0)
    sentences = [tiny.sentence(rng, (8, 12)) for _ in range(500)]
    long = ["\n".join(rng.choices(sentences, k=7000)) for _ in range(6)]
    (tmp_path / "long.jsonl").write_bytes(json_lines(long))
    kept = run(tmp_path / "b", tmp_path / "long.jsonl", "--megabytes", 1, "--size", 50, "--workers", 1)["kept"]
    assert 1_000_000 <= kept["bytes trained on"] < 1_000_000 + max(map(len, long))  # the last exceeds the limit


@pytest.mark.parametrize("size, model_type", [(64_000, "unigram"), (64_000, "bpe"), (5, "unigram")])
def test_a_size_that_does_not_fit_is_one_clear_error(texts, tmp_path, size, model_type):
    with pytest.raises(UserError, match=f"^--size {size}: ") as raised:
        run(tmp_path / "out", texts, "--size", size, "--model-type", model_type, "--workers", 1)
    assert "\n" not in str(raised.value)


def test_no_text_is_one_clear_error(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": " "}\n')
    with pytest.raises(UserError, match="no text to train on"):
        run(tmp_path / "out", tmp_path / "a.jsonl", "--size", 100, "--workers", 1)
