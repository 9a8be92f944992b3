"""Answers on disk: a line of JSON for each item, written as they are made, so that a killed run goes on.

OUT/FOLDER/settings.json           what the answers depend on; another run must agree
OUT/FOLDER/part-RANK.jsonl         a rank's answers while items are still to be answered
OUT/FOLDER/predictions.jsonl       all answers in the release's order, with each item's score
"""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmark import Answer, Item
from kosmos_plugin.evaluation.files import read_json, read_json_lines, write_text

SETTINGS_FILE = "settings.json"
PREDICTIONS_FILE = "predictions.jsonl"


class Predictions:
    """The answers of one benchmark with one number of shots, in `folder`."""

    def __init__(self, folder: Path, settings: dict):
        self.folder = folder
        self.settings = json.loads(json.dumps(settings))

    def begin(self) -> None:
        """Make the folder, or mend what a killed run left; UserError if its answers were made with other settings."""
        path = self.folder / SETTINGS_FILE
        if not path.is_file():
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"{self.folder} cannot be made: {error.strerror}.") from None
            write_text(path, json.dumps(self.settings, indent=1) + "\n")
            return
        found = read_json(path)
        differing = [name for name, value in self.settings.items() if found.get(name) != value]
        if differing:
            then, now = (", ".join(f"{name} {of.get(name)!r}" for name in differing) for of in (found, self.settings))
            raise UserError(f"{self.folder} holds answers made with {then}, not {now}: give another --out.")
        for part in self.folder.glob("part-*.jsonl"):
            whole, newline, _torn = part.read_bytes().rpartition(b"\n")
            with open(part, "r+b") as file:
                file.truncate(len(whole + newline))

    def read(self) -> dict[str, Answer]:
        """Item → answer, of all that was answered so far, by any rank of any run."""
        paths = [*sorted(self.folder.glob("part-*.jsonl")), self.folder / PREDICTIONS_FILE]
        lines = (line for path in paths if path.is_file() for line in read_json_lines(path))
        return {line["id"]: _answer(line) for line in lines}

    def append(self, rank: int, items: Sequence[Item], answers: Sequence[Answer]) -> None:
        lines = "".join(_line(item, answer) for item, answer in zip(items, answers, strict=True))
        with open(self.folder / f"part-{rank}.jsonl", "a", encoding="utf-8") as file:
            file.write(lines)

    def finish(self, items: Sequence[Item], answers: Sequence[Answer], scores: Iterable[float | None]) -> None:
        """Write all answers with their scores, and remove the parts."""
        lines = (_line(*of_item) for of_item in zip(items, answers, scores, strict=True))
        write_text(self.folder / PREDICTIONS_FILE, "".join(lines))
        for path in self.folder.glob("part-*.jsonl"):
            path.unlink()


def _line(item: Item, answer: Answer, score: float | None = None) -> str:
    entry = {"id": item.id, "score": score, "reference": item.reference, **dataclasses.asdict(answer)}
    return json.dumps(entry, ensure_ascii=False) + "\n"


def _answer(line: dict) -> Answer:
    values = {field.name: line[field.name] for field in dataclasses.fields(Answer)}
    return Answer(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
