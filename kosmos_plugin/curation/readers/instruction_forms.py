"""Records of instruction data, in the forms of their releases → examples: prompts, answers and images.

    {"instruction": …, "instances": [{"input": …, "constraints": …, "output": …}],      Unnatural Instructions
     "reformulations": [{"instruction": …, "input": …, "output": …}]}                   and its full_data
    {"inputs": …, "targets": …}, also with "definition"                                 FLAN v2, Natural Instructions
    {"instruction": …, "input" or "context": …, "output" or "response": …}              Alpaca, Dolly
    {"prompt": …, "completion" or "response": …}
    {"image": …, "question": …, "answer": …}                                            visual question answering
    {"image": …, "conversations": [{"from": "human", "value": "<image>…"}, …]}          LLaVA
    {"images": [{"bytes": …}], "texts": [{"user": …, "assistant": …}, …]}               The Cauldron
    {"images": […], "messages": [{"role": "user", "content": …}, …]}                    chat; content may be parts

Numbers count as text. `datasets` may give a list of objects as an object of lists. `<image>` in a prompt is the place
of an image; without a mark, images come first.
"""

import collections
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kosmos_plugin.curation.pipeline.dropped import Dropped
from kosmos_plugin.curation.readers.image_values import IMAGE_NAME

IMAGE_MARK = "<image>"
PROMPT_FIELDS = (
    "system_prompt", "definition", "instruction", "prompt", "query", "context", "inputs", "input",
)  # fmt: skip
OUTPUT_FIELDS = (
    "output", "response", "completion", "targets", "target", "answer", "multiple_choice_answer", "answers",
)  # fmt: skip
IMAGE_FIELDS = ("images", "image", "image_path", "img", "img_path", "image_file")
_PROMPT_ROLES = ("human", "user", "system")
_ANSWER_ROLES = ("gpt", "assistant", "bot", "model")


@dataclass(frozen=True)
class Example:
    """An example: turns of a prompt and its answer, and the images of the prompts, as `image_values` reads them."""

    turns: tuple[tuple[str, str], ...]
    images: tuple[object, ...] = ()


def examples(record: object) -> Iterator[Example | Dropped]:
    """The examples of a record, and why others of it cannot be used. Raises Dropped if it has none."""
    if not isinstance(record, dict):
        raise Dropped("not a JSON object")
    images = _images(record)
    if record.get("instances") is not None:
        yield from _unnatural_instructions(record)
    elif (turns := record.get("conversations", record.get("messages"))) is not None:
        yield _conversation(_objects(turns), images)
    elif isinstance(record.get("texts"), list | dict):
        pairs = [
            (_text(turn.get("user"), "user"), _text(turn.get("assistant"), "assistant"))
            for turn in _objects(record["texts"])
        ]
        yield _with_images([(_lines([user]), assistant) for user, assistant in pairs], images)
    elif record.get("question") is not None:
        yield _with_images([(_question(record), _answer(record))], images)
    else:
        yield _with_images([(_prompt(record), _answer(record))], images)


def _unnatural_instructions(record: dict[str, Any]) -> Iterator[Example | Dropped]:
    for instance in _objects(record["instances"]):
        instance = {"instruction": record.get("instruction"), **instance}
        if str(instance.get("constraints") or "").strip().lower() in ("none", "none."):
            instance["constraints"] = None  # the release's way to say that there are none
        yield _of_instance(instance)
    for reformulation in _objects(record.get("reformulations") or []):
        yield _of_instance(reformulation)


def _of_instance(instance: dict[str, Any]) -> Example | Dropped:
    try:
        parts = [_text(instance.get(name), name) for name in ("instruction", "constraints", "input")]
        if "{INPUT}" in parts[0]:  # the place of the input in a reformulation
            parts = [parts[0].replace("{INPUT}", parts[2]), parts[1]]
        return Example(((_lines(parts), _answer(instance)),))
    except Dropped as error:
        return error


def _conversation(turns: list[dict[str, Any]], images: list[object]) -> Example:
    """Prompts are what is said before an answer; answers before the first prompt are left out."""
    pairs: list[tuple[str, str]] = []
    said: list[str] = []
    found: list[object] = []
    for turn in turns:
        role = str(turn.get("from", turn.get("role"))).lower()
        text = _content(turn.get("value", turn.get("content")), found)
        if role in _ANSWER_ROLES:
            if said:
                pairs.append((_lines(said), text))
            elif pairs:
                pairs[-1] = (pairs[-1][0], _lines([pairs[-1][1], text]).rstrip("\n"))
            said = []
        elif role in _PROMPT_ROLES:
            said.append(text)
        else:
            raise Dropped("turn of a conversation by neither user nor assistant", f"{role:.40}")
    if not pairs:
        raise Dropped("conversation without an answer")
    return _with_images(pairs, found or images)


def _content(content: object, images: list[object]) -> str:
    """The text of a message, which may be a list of texts and images; images given there are added to `images`."""
    if not isinstance(content, list):
        return _text(content, "conversations")
    parts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            parts.append(_text(part.get("text"), "text"))
        elif kind in ("image", "image_url"):
            parts.append(IMAGE_MARK)
            image = part.get(kind, part.get("url", part.get("path")))
            if isinstance(image, dict) and "url" in image:
                image = image["url"]
            images += [] if image is None else [image]
        else:
            raise Dropped("message with a part that is neither text nor image", f"{part!r:.40}")
    return "\n".join(parts)


def _with_images(pairs: list[tuple[str, str]], images: list[object]) -> Example:
    """Put marks for the images before the first prompt if there are none. Raises Dropped if the numbers differ."""
    marks = sum(prompt.count(IMAGE_MARK) for prompt, _ in pairs)
    if marks == 0 and images and pairs:
        first, answer = pairs[0]
        pairs = [(IMAGE_MARK * len(images) + first, answer), *pairs[1:]]
        marks = len(images)
    if marks != len(images):
        raise Dropped(f"{IMAGE_MARK} marks and images differ in number", f"{marks} and {len(images)}")
    return Example(tuple(pairs), tuple(images))


def _images(record: dict[str, Any]) -> list[object]:
    value = next((record[name] for name in IMAGE_FIELDS if record.get(name)), None)
    if value is None and IMAGE_NAME.search(str(record.get("file_name"))):  # imagefolder's; else of any file
        value = record["file_name"]
    return value if isinstance(value, list) else [] if value is None else [value]


def _question(record: dict[str, Any]) -> str:
    """The prompt of a question, as the paper asks it (§4.2)."""
    if isinstance(record.get("choices", record.get("options")), list):
        raise Dropped("question with a list of choices")
    context, question = (_text(record.get(name), name) for name in ("context", "question"))
    return _lines([context, f"Question: {question} Answer:" if question else ""])


def _prompt(record: dict[str, Any]) -> str:
    known = [*PROMPT_FIELDS, *OUTPUT_FIELDS]
    if not any(name in record for name in known):
        raise Dropped("no instruction or output", f"but the fields {', '.join(map(str, list(record)[:20]))}")
    return _lines([_text(record.get(name), name) for name in PROMPT_FIELDS])


def _answer(record: dict[str, Any]) -> str:
    """The answer; of several, the one that most people gave, and the first of those."""
    field = next((name for name in OUTPUT_FIELDS if record.get(name) is not None), "output")
    value = record.get(field)
    if isinstance(value, dict) and "text" in value:  # SQuAD
        value = value["text"]
    if isinstance(value, list):
        answers = [_text(one.get("answer") if isinstance(one, dict) else one, field) for one in value]
        return collections.Counter(answers).most_common(1)[0][0] if answers else ""
    return _text(value, field)


def _text(value: object, field: str) -> str:
    """A text or number without spaces around it; "" for None."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise Dropped("field that is not text", f"{field}: {value!r:.40}")


def _lines(parts: list[str]) -> str:
    """The parts that are not empty, each with a line feed after it."""
    return "".join(f"{part}\n" for part in parts if part)


def _objects(value: object) -> list[dict[str, Any]]:
    """A list of objects, which may be given as an object of lists."""
    if isinstance(value, dict) and all(isinstance(column, list) for column in value.values()):
        length = max(map(len, value.values()), default=0)
        if any(len(column) != length for column in value.values()):
            raise Dropped("object of lists of different lengths", ", ".join(map(str, list(value)[:20])))
        value = [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise Dropped("field that is not a list of objects", f"{value!r:.40}")
    return value
