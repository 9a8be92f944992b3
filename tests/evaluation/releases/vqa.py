"""VQAv2 and VizWiz in miniature."""

import itertools
import json
import random
import statistics
from pathlib import Path

from tests import tiny

TRAINING = 12  # enough for eight demonstrations
NAMES = ("cat", "dog", "bird", "house", "tree", "river", "mountain", "car", "boat")
QUESTIONS = {  # type of answer → question, answers
    "yes/no": ("Is the {} red?", ("yes", "no")),
    "number": ("How many {}s are there?", ("2", "3")),
    "other": ("What is near the {}?", ("house", "tree")),
}


def write_vqav2(folder: Path, count: int = 6, seed: int = 0) -> None:
    """Write `count` questions each of val and test-dev; test has twice that number. An image has two questions."""
    rng = random.Random(seed)
    for subset, number in (("train2014", TRAINING), ("val2014", count), ("test2015", 2 * count)):
        (folder / subset).mkdir()
        questions, annotations = [], []
        for place, (text, annotation) in enumerate(_questions(rng, number)):
            image_id = 9 + 16 * (place // 2)
            image = folder / subset / f"COCO_{subset}_{image_id:012d}.jpg"
            if not image.exists():
                image.write_bytes(tiny.png(rng))
            ids = {"image_id": image_id, "question_id": 1000 * image_id + place % 2}
            questions.append({**ids, "question": text})
            answers = [{**answer, "answer_id": person} for person, answer in enumerate(annotation["answers"], start=1)]
            most = statistics.mode(answer["answer"] for answer in answers)
            annotations.append(
                {**ids, **annotation, "answers": answers, "question_type": "what", "multiple_choice_answer": most}
            )
        rng.shuffle(annotations)  # annotations are matched by id, not by order
        _write_questions(folder, subset, questions)
        if subset == "test2015":
            _write_questions(folder, "test-dev2015", questions[::2])
        else:
            about = {"info": {}, "license": {}, "data_type": "mscoco", "data_subtype": subset}
            path = folder / f"v2_mscoco_{subset}_annotations.json"
            path.write_text(json.dumps({**about, "annotations": annotations}))


def write_vizwiz(folder: Path, count: int = 6, seed: int = 0) -> None:
    """Write `count` questions each of val and test."""
    rng = random.Random(seed)
    (folder / "Annotations").mkdir()
    for split, number in (("train", TRAINING), ("val", count), ("test", count)):
        (folder / split).mkdir()
        records = []
        for place, (text, annotation) in enumerate(_questions(rng, number)):
            record = {"image": f"VizWiz_{split}_{place:08d}.jpg", "question": text}
            (folder / split / record["image"]).write_bytes(tiny.png(rng))
            records.append(record if split == "test" else {**record, **annotation, "answerable": 1})
        (folder / "Annotations" / f"{split}.json").write_text(json.dumps(records))


def _questions(rng: random.Random, count: int):
    """(question, {"answer_type", "answers"}) pairs of all types and right answers in turn; most people are right."""
    kinds = itertools.cycle((kind, number) for number in range(2) for kind in QUESTIONS)
    for place, (kind, number) in zip(range(count), kinds, strict=False):
        text, possible = QUESTIONS[kind]
        answers = [possible[number]] * 6 + [possible[1 - number]] * 2 + ["unanswerable", "a cat"]
        rng.shuffle(answers)
        people = [{"answer": answer, "answer_confidence": rng.choice(("yes", "maybe"))} for answer in answers]
        name = NAMES[place % len(NAMES)]
        yield text.format(name), {"answer_type": kind, "answers": people}


def _write_questions(folder: Path, subset: str, questions: list[dict]) -> None:
    about = {"info": {}, "license": {}, "task_type": "Open-Ended", "data_type": "mscoco", "data_subtype": subset}
    path = folder / f"v2_OpenEnded_mscoco_{subset}_questions.json"
    path.write_text(json.dumps({**about, "questions": questions}))
