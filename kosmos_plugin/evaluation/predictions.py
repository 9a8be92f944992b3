"""Answers on disk: one JSON line per item, written as they are made, so that an interrupted run can resume.

OUT/FOLDER/settings.json         the settings that the answers depend on; a resumed run must have the same
OUT/FOLDER/part-RANK.jsonl       the answers of one rank, while the run is unfinished
OUT/FOLDER/predictions.jsonl     all answers in the release's order, each with its item's score
"""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmark import Answer, Item
from kosmos_plugin.evaluation.files import read_json, read_json_lines, write_text

SETTINGS_FILE = "settings.json"
PREDICTIONS_FILE = "predictions.jsonl"


class Predictions:
    """The answers of one benchmark with one number of shots.

    Args:
        folder: The folder of the answers.
        settings: What the answers depend on, as JSON values.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]):
        self.folder = folder
        self.settings = json.loads(json.dumps(settings))

    def begin(self) -> None:
        """Create the folder, or drop the incomplete last lines that an interrupted run left in it.

        Raises:
            UserError: The answers in it were made with other settings, or it cannot be created.
        """
        path = self.folder / SETTINGS_FILE
        if not path.is_file():
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"{self.folder} cannot be created: {error.strerror}.") from None
            write_text(path, json.dumps(self.settings, indent=1) + "\n")
            return
        found = read_json(path)
        if not isinstance(found, dict):
            raise UserError(f"{path} was not written by kosmos-evaluate: give another --out.")
        found.setdefault("dtype", "float32")  # version 0.1 knew no other, and does not say so
        differing = [name for name, value in self.settings.items() if found.get(name) != value]
        if differing:
            then, now = (
                ", ".join(f"{name} {settings.get(name)!r}" for name in differing) for settings in (found, self.settings)
            )
            raise UserError(f"{self.folder} holds answers made with {then}, not {now}: give another --out.")
        for part in self.folder.glob("part-*.jsonl"):
            whole, newline, _incomplete = part.read_bytes().rpartition(b"\n")
            with open(part, "r+b") as file:
                file.truncate(len(whole + newline))

    def read(self) -> dict[str, Answer]:
        """Read the answers made so far, by any rank of any run, by their items' ids.

        Raises:
            UserError: A file cannot be read, or holds something else.
        """
        answers = {}
        for path in (*sorted(self.folder.glob("part-*.jsonl")), self.folder / PREDICTIONS_FILE):
            for line in read_json_lines(path) if path.is_file() else []:
                try:
                    answers[line["id"]] = _answer(line)
                except (KeyError, TypeError):
                    raise UserError(
                        f"{path} holds something that is not an answer of kosmos-evaluate: give another --out, or "
                        "remove the file to ask again."
                    ) from None
        return answers

    def append(self, rank: int, items: Sequence[Item], answers: Sequence[Answer]) -> None:
        """Append answers to the part of a rank."""
        lines = "".join(_line(item, answer) for item, answer in zip(items, answers, strict=True))
        with open(self.folder / f"part-{rank}.jsonl", "a", encoding="utf-8") as file:
            file.write(lines)

    def finish(self, items: Sequence[Item], answers: Sequence[Answer], scores: Iterable[float | None]) -> None:
        """Write all answers with their scores, and remove the parts."""
        lines = [_line(*entry) for entry in zip(items, answers, scores, strict=True)]
        write_text(self.folder / PREDICTIONS_FILE, "".join(lines))
        for path in self.folder.glob("part-*.jsonl"):
            path.unlink()


def _line(item: Item, answer: Answer, score: float | None = None) -> str:
    entry = {"id": item.id, "score": score, "reference": item.reference, **dataclasses.asdict(answer)}
    return json.dumps(entry, ensure_ascii=False) + "\n"


def _answer(line: dict[str, Any]) -> Answer:
    values: dict[str, Any] = {field.name: line[field.name] for field in dataclasses.fields(Answer)}
    for name, value in values.items():
        values[name] = tuple(value) if isinstance(value, list) else value
    return Answer(**values)
