"""The releases of the language tasks (§4.8), in miniature."""

import csv
import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.tiny import sentence

TRAINING = 8


def write_storycloze(folder: Path, count: int = 6, seed: int = 0) -> None:
    rng = random.Random(seed)
    columns = [
        "InputStoryid",
        *(f"InputSentence{number}" for number in (1, 2, 3, 4)),
        "RandomFifthSentenceQuiz1",
        "RandomFifthSentenceQuiz2",
        "AnswerRightEnding",
    ]
    for split, stories in (("val", TRAINING), ("test", count)):
        path = folder / f"cloze_test_{split}__spring2016 - cloze_test_ALL_{split}.csv"
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            for number in range(stories):
                writer.writerow([f"{split}-{number}", *(_said(rng) for _ in range(6)), 1 + number % 2])


def write_hellaswag(folder: Path, count: int = 6, seed: int = 0) -> None:
    """Write records, half of them like those from ActivityNet, half like those from WikiHow."""

    def activity(rng: random.Random, number: int) -> dict:
        label, context, beginning, ending = (
            ("Watching birds", _said(rng), "the cat and Tom", "{}."),
            (
                "Pets",
                f"[header] How to see birds [title] {_said(rng)} [step] Then, ",
                "",
                "{} [title] {} [substeps] {}.",
            ),
        )[number // 4 % 2]
        return {
            "ind": number,
            "activity_label": label,
            "ctx_a": context,
            "ctx_b": beginning,
            "ctx": f"{context} {beginning}".strip(),
            "split_type": "indomain",
            "label": number % 4,
            "endings": [ending.format(*(sentence(rng, (2, 3)) for _ in range(3))) for _ in range(4)],
            "source_id": f"activitynet~v_{number}",
        }

    _write_splits(folder / "hellaswag_{}.jsonl", {"train": TRAINING, "val": count}, activity, seed)


def write_winograd(folder: Path, count: int = 6, seed: int = 0) -> None:
    """Write pairs of schemas with the same start: a pronoun within a sentence, at its start, and a possessive."""
    rng = random.Random(seed)
    schemas = []
    for number in range(count):
        if number % 2 == 0:
            before = sentence(rng, (3, 6))
        end, pronoun = ((" because", "it"), (".", "It"), (", and", "his"))[number // 2 % 3]
        schemas.append(
            f"<schema>\n<text>\n<txt1>\nThe cat saw\nthe dog {before}{end} \n</txt1>\n<pron> {pronoun}  </pron>\n"
            f"<txt2> \n{sentence(rng, (3, 6))}.\n</txt2>\n</text>\n<quote>\n<pron>it </pron>\n<quote2> saw</quote2>\n"
            "</quote>\n<answers>\n<answer>The cat </answer>\n<answer> The small dog </answer>\n</answers>\n"
            f"<correctAnswer> {'AB'[number % 2]}.  </correctAnswer>\n<source> nobody </source>\n</schema>\n\n"
        )
    head = '<?xml version="1.0" encoding="ISO-8859-1"?>\n<?xml-stylesheet type="text/xsl" href="WSExample.xsl"?>\n\n'
    text = f"{head}<collection>\n{''.join(schemas)}</collection>\n"
    (folder / "WSCollection.xml").write_text(text, encoding="iso-8859-1")


def write_winogrande(folder: Path, count: int = 6, seed: int = 0) -> None:
    def blank(rng: random.Random, number: int) -> dict:
        return {
            "qID": f"{rng.getrandbits(64):X}-{1 + number % 2}",
            "sentence": f"The cat saw the dog near {sentence(rng, (3, 6))} so _ {sentence(rng, (3, 6))}.",
            "option1": "the cat",
            "option2": "the small dog",
            "answer": str(1 + number % 2),
        }

    _write_splits(folder / "{}.jsonl", {"train_xl": TRAINING, "dev": count}, blank, seed)


def write_piqa(folder: Path, count: int = 6, seed: int = 0) -> None:
    def goal(rng: random.Random, number: int) -> dict:
        return {"goal": sentence(rng, (3, 6)), "sol1": _said(rng), "sol2": _said(rng)}

    counts = {"train": TRAINING, "valid": count}
    _write_splits(folder / "{}.jsonl", counts, goal, seed)
    for split, records in counts.items():
        (folder / f"{split}-labels.lst").write_text("".join(f"{number % 2}\n" for number in range(records)))


def write_superglue(folder: Path, count: int = 6, seed: int = 0) -> None:
    def boolq(rng: random.Random, number: int) -> dict:
        question = f"is the {sentence(rng, (3, 6))}"
        return {"question": question, "passage": _said(rng), "idx": number, "label": number % 2 == 0}

    def cb(rng: random.Random, number: int) -> dict:
        label = ("entailment", "contradiction", "neutral")[number % 3]
        return {"premise": _said(rng), "hypothesis": sentence(rng, (3, 6)), "label": label, "idx": number}

    def copa(rng: random.Random, number: int) -> dict:
        return {
            "premise": _said(rng),
            "choice1": _said(rng),
            "choice2": _said(rng),
            "question": ("cause", "effect")[number // 2 % 2],
            "label": number % 2,
            "idx": number,
        }

    for task, record in (("BoolQ", boolq), ("CB", cb), ("COPA", copa)):
        (folder / task).mkdir()
        _write_splits(folder / task / "{}.jsonl", {"train": TRAINING, "val": count}, record, seed)


def write_json_lines(path: Path, records: Iterable) -> None:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")


def _write_splits(path: Path, counts: dict[str, int], record: Callable[[random.Random, int], dict], seed: int) -> None:
    rng = random.Random(seed)
    for split, count in counts.items():
        write_json_lines(Path(str(path).format(split)), [record(rng, number) for number in range(count)])


def _said(rng: random.Random) -> str:
    """A sentence that starts with a capital and ends in a full stop."""
    return f"{sentence(rng, (4, 7)).capitalize()}."
