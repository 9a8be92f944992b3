"""Visual question answering (§4.1): VQAv2 and VizWiz.

VQAv2 (visualqa.org/download), in one folder; the images are COCO's:

    v2_OpenEnded_mscoco_{train2014,val2014,test-dev2015,test2015}_questions.json
        {"questions": [{"question_id", "image_id", "question"}, …]}
    v2_mscoco_{train2014,val2014}_annotations.json
        {"annotations": [{"question_id", "answer_type", "answers": [{"answer"}, …]}, …]}
    {train2014,val2014,test2015}/COCO_{train2014,val2014,test2015}_000000000001.jpg

The paper measures test-dev, a part of test2015. Only the server (EvalAI) has the answers. It takes a file that answers
every question of test2015, so questions that are not in test-dev get an empty answer.

VizWiz (vizwiz.org/tasks-and-datasets/vqa), one question per image:

    Annotations/{train,val,test}.json   [{"image", "question", "answer_type", "answers": [{"answer"}, …]}, …]
                                        (or without the folder: Annotations.zip has none)
    {train,val,test}/VizWiz_test_00000000.jpg

The paper measures test-dev, a part of test that only the server (EvalAI) knows: it takes an answer to every question of
test, and the phase of the submission decides what is measured. Not all versions of the files have `answer_type`.

An answer is generated greedily until `</s>` (as in the paper), an image (as after a demonstration's answer) or the 16th
token (as in lmms-eval). Nothing is cut from it: "red Question: …" is wrong. A demonstration has the answer that most
people gave, the first of them in a tie.
"""

import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kosmos_plugin.data.documents import Image
from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmark import Answer, Benchmark, Item, Scores
from kosmos_plugin.evaluation.files import field, identifier, image_file, is_missing, read_json, whole_number
from kosmos_plugin.evaluation.metrics.vqa_accuracy import normalize, vqa_accuracies
from kosmos_plugin.evaluation.requests import Generate, Prompt, Request, question

MAX_NEW_TOKENS = 16
# VQAv2's splits → their names in its file names
SUBSETS = {"train": "train2014", "val": "val2014", "test-dev": "test-dev2015", "test": "test2015"}


@dataclass(frozen=True)
class Question(Item):
    """A question about an image. The reference is {"answers": people's answers, "answer_type": a word or None}."""

    question: str
    image: Image

    @property
    def prompt(self) -> Prompt:
        return question(f"Question: {self.question} Answer:", self.image)

    @property
    def demonstration(self) -> Prompt:
        answers = self.reference["answers"]
        return question(f"Question: {self.question} Answer: {max(answers, key=answers.count)}", self.image)


class VisualQuestionAnswering(Benchmark[Question]):
    """The common part of both benchmarks. A subclass reads its release."""

    section = "4.1"
    shots = (0, 2, 4, 8)
    few_shot = True

    def items(self) -> list[Question]:
        return self._read(self.split)

    def training_items(self) -> list[Question]:
        return self._read("train")

    @abstractmethod
    def _read(self, split: str) -> list[Question]:
        """Read the questions of a split."""

    def request(self, item: Question, demonstrations: Sequence[Question]) -> Request:
        shown = tuple(demonstration.demonstration for demonstration in demonstrations)
        return Generate(item.prompt, max_new_tokens=MAX_NEW_TOKENS, demonstrations=shown)

    def score(self, items: Sequence[Item], answers: Sequence[Answer]) -> Scores:
        return vqa_accuracies(items, answers)


class VqaV2(VisualQuestionAnswering):
    """VQAv2."""

    name = "vqav2"
    title = "VQAv2"
    release = "vqav2"
    source = (
        "the questions and annotations (v2_*.json) of visualqa.org/download, and the folders train2014, val2014 and "
        "test2015 of COCO's images"
    )
    splits = ("test-dev", "test", "val")

    def files(self, few_shot: bool) -> list[str]:
        splits = [self.split, self._submitted_split, *(["train"] if few_shot else [])]
        needed = [name for split in splits for name in (_questions(split), *_annotations(split), _images(split))]
        return list(dict.fromkeys(needed))

    def submission(self, items: Sequence[Item], answers: Sequence[Answer]) -> tuple[str, str]:
        answered = _submitted(items, answers)
        path = self.folder / _questions(self._submitted_split)
        numbers = [identifier(record, "question_id", where) for where, record in _records(path, "questions")]
        results = [{"question_id": number, "answer": answered.get(str(number), "")} for number in numbers]
        name = f"vqa_OpenEnded_mscoco_{SUBSETS[self.split]}_kosmos_results.json"
        return name, json.dumps(results, ensure_ascii=False)

    @property
    def _submitted_split(self) -> str:
        """The split whose questions all need an answer in the submission."""
        return "test" if self.split == "test-dev" else self.split

    def _read(self, split: str) -> list[Question]:
        references = {
            whole_number(record, "question_id", where): _reference(record, where)
            for name in _annotations(split)
            for where, record in _records(self.folder / name, "annotations")
        }
        folder = _images(split)
        found = []
        for where, record in _records(self.folder / _questions(split), "questions"):
            number = whole_number(record, "question_id", where)
            if _annotations(split) and number not in references:
                raise UserError(f"{where}: question {number} is not in {_annotations(split)[0]}.")
            name = f"COCO_{folder}_{whole_number(record, 'image_id', where):012d}.jpg"
            text, spelled = field(record, "question", str, where), str(identifier(record, "question_id", where))
            found.append(Question(spelled, references.get(number), text, image_file(self.folder / folder / name)))
        return found


def _submitted(items: Sequence[Item], answers: Sequence[Answer]) -> dict[str, str]:
    """Map each item's id to the answer that is submitted."""
    return {item.id: normalize(answer.prediction) for item, answer in zip(items, answers, strict=True)}


def _questions(split: str) -> str:
    return f"v2_OpenEnded_mscoco_{SUBSETS[split]}_questions.json"


def _annotations(split: str) -> list[str]:
    """Name the file of the split's answers, if they are public."""
    return [] if split.startswith("test") else [f"v2_mscoco_{SUBSETS[split]}_annotations.json"]


def _images(split: str) -> str:
    return SUBSETS["test" if split == "test-dev" else split]


class VizWiz(VisualQuestionAnswering):
    """VizWiz."""

    name = "vizwiz"
    title = "VizWiz"
    release = "vizwiz"
    source = (
        "vizwiz.org/tasks-and-datasets/vqa: the folder Annotations with train.json, val.json and test.json, and the "
        "folders train, val and test of the images"
    )
    splits = ("test", "val")

    def files(self, few_shot: bool) -> list[str]:
        splits = [self.split, "train"] if few_shot else [self.split]
        return [name for split in splits for name in (self._file(split), split)]

    def submission(self, items: Sequence[Item], answers: Sequence[Answer]) -> tuple[str, str]:
        answered = _submitted(items, answers)
        results = [{"image": item.id, "answer": answered.get(item.id, "")} for item in self.items()]
        return f"vizwiz_vqa_{self.split}_kosmos_results.json", json.dumps(results, ensure_ascii=False)

    def _file(self, split: str) -> str:
        return self.either(f"Annotations/{split}.json", f"{split}.json")

    def _read(self, split: str) -> list[Question]:
        found = []
        for where, record in _records(self.folder / self._file(split)):
            name, text = field(record, "image", str, where), field(record, "question", str, where)
            reference = None if split == "test" else _reference(record, where)
            found.append(Question(name, reference, text, image_file(self.folder / split / name)))
        return found


def _records(path: Path, name: str | None = None) -> list[tuple[str, Any]]:
    """Return (its name for error messages, record) for each record of the file's list, or of its list `name`."""
    records = read_json(path)
    if name is not None:
        records = field(records, name, list, str(path))
    if not isinstance(records, list):
        raise UserError(f"{path} must have a list of questions.")
    return [(f"{path}, record {number}", record) for number, record in enumerate(records, start=1)]


def _reference(record: Any, where: str) -> dict[str, Any]:
    answers = [field(answer, "answer", str, where) for answer in field(record, "answers", list, where)]
    if not answers:
        raise UserError(f'{where}: there is no answer in "answers".')
    answer_type = None if is_missing(record, "answer_type") else field(record, "answer_type", str, where)
    return {"answers": answers, "answer_type": answer_type}
