"""The records of the quickstart's shards, and the prompts, which are the same in training and evaluation."""

import io
import json
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

from corpora import easy_vqa_folder, progress
from things import Drawing

CAPTION_PROMPT = "An image of"  # the paper's


# ---- Prompts ----


def question_prompt(question: str) -> str:
    """The paper's prompt for visual question answering; the model continues it."""
    return f"Question: {question} Answer:"


def question_text(question: str, answer: str) -> str:
    """A question with its answer, as in the training documents; a full stop ends the answer."""
    return f"{question_prompt(question)} {answer}."


def description(name: str) -> str:
    """The caption of an image of `a blue circle`; it starts with the paper's prompt for captions."""
    return f"{CAPTION_PROMPT} {name}"


def answer_of(generated: str) -> str:
    """Extract the answer from what a model generated after `question_prompt`."""
    return generated.partition(".")[0].strip()


# ---- Records: file extension → bytes ----


def thing_record(drawing: Drawing) -> dict[str, bytes]:
    """A record in img2dataset's naming: image, caption, and JSON metadata."""
    caption = description(drawing.name)
    about = {"caption": caption, "emoji": drawing.character, "color": drawing.color}
    return {"png": drawing.png, "txt": caption.encode(), "json": to_json(about)}


def shape_record(picture: tuple[int, str]) -> dict[str, bytes]:
    """A record of an easy-VQA training image and its description."""
    image, shape = picture
    return {"png": training_image(image), "txt": description(f"a {shape}").encode()}


def interleaved_record(document: list[tuple[bytes, list[tuple[str, str]]]]) -> dict[str, bytes]:
    """A record of JSON segments and the numbered images they name; answers are in the loss, questions are not.

    Args:
        document: Images, each with (question, answer) pairs.
    """
    segments = []
    for number, (_, asked) in enumerate(document):
        segments.append({"image": number})
        for question, answer in asked:
            segments += [{"text": question_prompt(question), "in_loss": False}, {"text": f"{answer}."}]
    images = {f"{number}.png": png for number, (png, _) in enumerate(document)}
    return {"json": to_json({"segments": segments}), **images}


def training_image(image: int) -> bytes:
    """An easy-VQA training image."""
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


def to_json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def write_json_lines(path: Path, rows: Iterable[dict]) -> None:
    path.write_bytes(b"".join(to_json(row) + b"\n" for row in rows))
