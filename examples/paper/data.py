"""Write the data of all worlds: streams to train on, and benchmarks.

OUT/text/{train,valid}.{bin,idx}        all worlds' texts
OUT/captions/…  OUT/WORLD/…             shards of captions, and of each world's interleaved documents
OUT/instructions/…                      shards of `kosmos-prepare instructions`, made from OUT/instructions.jsonl
OUT/vocabulary/                         SentencePiece, trained on all of these
OUT/benchmarks/NAME.jsonl               questions for `kosmos-evaluate --benchmark`; NAME_shuffled: with wrong pictures
OUT/benchmarks/raven_iq{,_shuffled}/    matrices in the layout of the package's `raven_iq`
"""

import hashlib
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import captions
import commonsense
import few_shot
import matrices
import pictures
import reading
from prepare_text import write_text, write_vocabulary
from records import to_json, write_json_lines, write_shards
from world import Document, Question, World, shuffled

VOCABULARY_SIZE = 1100
VALID = 100  # one document in so many is held out
SHARDS = 4
STAMP = "prepared.json"
RECIPE = (
    "world", "things_and_words", "pictures", "few_shot", "captions", "commonsense", "reading", "matrices", __name__,
    "things", "records", "prepare_text",
)  # fmt: skip


@dataclass(frozen=True)
class Size:
    """How much is made of each world."""

    documents: int = 4000  # interleaved ones
    questions: int = 200  # of a benchmark


WORLDS: dict[str, Callable[[int, int], World]] = {
    "few_shot": few_shot.new_words,
    "descriptions": few_shot.descriptions,
    "questions": captions.captions,
    "shapes": captions.shapes,
    "styles": captions.styles,
    "instructions": captions.instructions,
    "commonsense": commonsense.commonsense,
    "reading": reading.reading,
    "pages": reading.pages,
    "matrices": matrices.matrices,
}


def write_data(out: Path, size: Size = Size()) -> None:
    """Write everything, unless the same code has written it already."""
    made_from = {"size": vars(size), "recipe": recipe()}
    stamp = out / STAMP
    if stamp.is_file() and json.loads(stamp.read_text("utf-8")) == made_from:
        return
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    worlds = {name: make(size.documents, size.questions) for name, make in WORLDS.items()}
    _write_streams(out, worlds)
    _write_benchmarks(out / "benchmarks", worlds, size.questions)
    stamp.write_text(json.dumps(made_from), encoding="utf-8")


def recipe() -> str:
    """A digest of the code that makes the data."""
    files = [Path(str(sys.modules[name].__file__)) for name in RECIPE]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


# ---- Streams ----


def _write_streams(out: Path, worlds: dict[str, World]) -> None:
    from kosmos_plugin.vocabulary import Vocabulary

    interleaved = {name: world.interleaved for name, world in worlds.items() if world.interleaved}
    for folder in ("text", "vocabulary", "captions", *interleaved):
        (out / folder).mkdir()
    write_json_lines(out / "instructions.jsonl", [line for world in worlds.values() for line in world.instructions])
    write_vocabulary(out / "vocabulary", list(_all_texts(worlds)), VOCABULARY_SIZE)
    vocabulary = Vocabulary.load(out / "vocabulary")
    texts = [text for world in worlds.values() for text in world.text]
    random.Random(1).shuffle(texts)
    for split, part in _split(texts).items():
        write_text(out / "text" / split, part, vocabulary)
    pairs = [pair for world in worlds.values() for pair in world.captions]
    random.Random(1).shuffle(pairs)
    for split, part in _split(pairs).items():
        write_shards(out / "captions" / split, part, SHARDS if split == "train" else 1, _caption_record)
    for name, documents in interleaved.items():
        for split, part in _split(documents).items():
            prefix = out / name / f"documents-{split}"
            write_shards(prefix, part, SHARDS if split == "train" else 1, _document_record)
    command = [sys.executable, "-m", "fairseq_cli_ext.prepare", "instructions", str(out / "instructions.jsonl")]
    command += ["--out", str(out / "instructions"), "--vocabulary", str(out / "vocabulary")]
    subprocess.run(command, check=True)


def _all_texts(worlds: dict[str, World]) -> Iterator[str]:
    for world in worlds.values():
        yield from world.text
        yield from (caption for _, caption in world.captions)
        yield from (text for document in world.interleaved for text in document if isinstance(text, str))
        yield from (f"{line['inputs']} {line['targets']}" for line in world.instructions)


def _split(items: list) -> dict[str, list]:
    held_out = max(1, len(items) // VALID)
    return {"train": items[held_out:], "valid": items[:held_out]}


def _caption_record(pair: tuple[bytes, str]) -> dict[str, bytes]:
    return {"png": pair[0], "txt": pair[1].encode()}


def _document_record(document: Document) -> dict[str, bytes]:
    images = list(dict.fromkeys(part for part in document if isinstance(part, bytes)))
    segments = [{"text": part} if isinstance(part, str) else {"image": images.index(part)} for part in document]
    return {"json": to_json({"segments": segments}), **{f"{number}.png": png for number, png in enumerate(images)}}


# ---- Benchmarks ----


def _write_benchmarks(folder: Path, worlds: dict[str, World], questions: int) -> None:
    (folder / "pictures").mkdir(parents=True)
    for world in worlds.values():
        for name, asked in world.benchmarks.items():
            write_json_lines(folder / f"{name}.jsonl", [_line(folder, question) for question in asked])
            if all(isinstance(part, str) for question in asked for part in question.prompt):
                continue
            wrong = shuffled(asked, name)
            write_json_lines(folder / f"{name}_shuffled.jsonl", [_line(folder, question) for question in wrong])
    drawn = matrices.tested_matrices(questions * 2)
    _write_matrices(folder / "raven_iq", drawn)
    _write_matrices(folder / "raven_iq_shuffled", matrices.shuffled_panels(drawn))


def _line(folder: Path, question: Question) -> dict[str, object]:
    """A line of a benchmark file; its pictures are named by their contents."""
    images, prompt = [], []
    for part in question.prompt:
        if isinstance(part, str):
            prompt.append(part)
            continue
        path = folder / "pictures" / f"{hashlib.sha256(part).hexdigest()[:16]}.png"
        path.write_bytes(part)
        images.append(str(path.relative_to(folder)))
        prompt.append("<image>")
    line: dict[str, object] = {"prompt": " ".join(prompt), "images": images, "answer": question.answer}
    if question.candidates:
        return {**line, "candidates": question.candidates}
    return {**line, "max_new_tokens": 12, **({} if question.answer.endswith(".") else {"stop": "."})}


def _write_matrices(folder: Path, drawn: list[matrices.Matrix]) -> None:
    for number, matrix in enumerate(drawn, 1):
        example = folder / f"exp-{number}"
        example.mkdir(parents=True)
        for place, panel in enumerate(matrix.panels, 1):
            (example / f"query-{place}.png").write_bytes(pictures.panel(*panel))
        for letter, panel in zip("abcdef", matrix.candidates, strict=True):
            (example / f"answer-{letter}.png").write_bytes(pictures.panel(*panel))
