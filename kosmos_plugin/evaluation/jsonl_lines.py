"""The lines of a JSONL benchmark: FILE.jsonl → a Line for each; errors name FILE:LINE."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kosmos_plugin.errors import UserError, did_you_mean
from kosmos_plugin.evaluation.benchmark import Item
from kosmos_plugin.evaluation.files import identifier, parse_json, read_text, shown
from kosmos_plugin.evaluation.jsonl_metrics import METRICS, reference_of
from kosmos_plugin.evaluation.requests import Generate, Prompt
from kosmos_plugin.generation.prompt import IMAGE_MARK, parse_prompt


@dataclass(frozen=True)
class Settings:
    """What all lines of a file have in common."""

    metric: str
    num_beams: int = 1
    max_new_tokens: int = Generate.max_new_tokens
    stop: tuple[str, ...] = ()  # texts that end generation
    by_length: bool = False  # whether the likelihood of candidates is divided by their lengths


SETTINGS = tuple(field.name for field in dataclasses.fields(Settings))
OF_GENERATION, OF_CANDIDATES = ("num_beams", "max_new_tokens", "stop"), ("by_length",)
KEYS = ("prompt", "images", "candidates", "answer", "id", *SETTINGS)


@dataclass(frozen=True)
class Line(Item):
    """One line. Its reference has the form that the metric takes."""

    prompt: Prompt
    candidates: tuple[str, ...]  # empty if the answer is generated
    answers: tuple[str, ...]  # right answers; empty if the file has none
    settings: Settings


def read_lines(path: Path, ids: str = "") -> list[Line]:
    """Read and check all lines. Blank lines are skipped; the images must exist, and are read when they are needed.

    Args:
        path: The file.
        ids: Prefix of the ids of lines that have none, before the line's number.

    Raises:
        UserError: The file cannot be read, or a line is wrong; the message names the line.
    """
    text = read_text(path)
    if text.lstrip().startswith("["):
        raise UserError(f"{path} is a JSON list: write one JSON object a line.")
    lines: list[Line] = []
    line_of: dict[str, int] = {}  # id → number of its line
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines() would also split at U+2028 within texts
        if not line.strip():
            continue
        where = f"{path}:{number}"
        found = _line(parse_json(line, where), path.parent, f"{ids}{number}", where)
        if lines:
            _require_same(lines[0], found, where)
        if found.id in line_of:
            raise UserError(f"{where}: line {line_of[found.id]} has the same id, {found.id!r}.")
        line_of[found.id] = number
        lines.append(found)
    if not lines:
        raise UserError(f"{path} has no lines: write one JSON object a line.")
    return lines


def _line(record: Any, folder: Path, default_id: str, where: str) -> Line:
    if not isinstance(record, dict):
        raise UserError(f"{where}: a line must be a JSON object; it is {shown(record)}.")
    record = {key: value for key, value in record.items() if value is not None}
    for key in record:
        if key not in KEYS:
            hint = did_you_mean(key, KEYS) or f" The keys are {', '.join(KEYS)}."
            raise UserError(f"{where}: there is no key {key!r}.{hint}")
    candidates = _candidates(record, where)
    settings = _settings(record, bool(candidates), where)
    if settings.metric == "roc_auc" and len(candidates) != 2:
        raise UserError(f'{where}: "roc_auc" takes two candidates, not {len(candidates)}.')
    answers = _answers(record, candidates, where)
    number = str(identifier(record, "id", where)) if "id" in record else default_id
    prompt = _prompt(record, folder, where)
    return Line(number, reference_of(settings.metric, answers, where), prompt, candidates, answers, settings)


def _prompt(record: dict[str, Any], folder: Path, where: str) -> Prompt:
    prompt, names = record.get("prompt"), record.get("images", [])
    if not isinstance(prompt, str) or not prompt.strip():
        raise UserError(f'{where}: "prompt" must be a text; it is {shown(prompt)}.')
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise UserError(f'{where}: "images" must be a list of file names; it is {shown(names)}.')
    inline = ("data:", "http://", "https://")  # parse_prompt reads the first and refuses the others
    images = [name if name.startswith(inline) else str(folder / name) for name in names]
    return parse_prompt(prompt, images, where).segments


def _candidates(record: dict[str, Any], where: str) -> tuple[str, ...]:
    if "candidates" not in record:
        return ()
    candidates = _texts(record, "candidates", where) if isinstance(record["candidates"], list) else ()
    if len(candidates) < 2:
        raise UserError(
            f'{where}: "candidates" must be a list of at least two texts; it is {shown(record["candidates"])}.'
        )
    twice = next((text for text in candidates if candidates.count(text) > 1), None)
    if twice is not None:
        raise UserError(f'{where}: "candidates" has {shown(twice)} twice.')
    return candidates


def _answers(record: dict[str, Any], candidates: Sequence[str], where: str) -> tuple[str, ...]:
    answer = record.get("answer")
    if answer is None:
        return ()
    if not candidates:
        return _texts(record, "answer", where)
    if not isinstance(answer, str) or answer.strip() not in candidates:
        hint = did_you_mean(answer, candidates)
        raise UserError(f'{where}: "answer" must be one of "candidates", as its text; it is {shown(answer)}.{hint}')
    return (answer.strip(),)


def _texts(record: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    """Return a field with a text or a list of texts, without the white space around them."""
    value = record[key]
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise UserError(f'{where}: "{key}" must be a text or a list of texts; it is {shown(value)}.')
    marked = next((text for text in texts if IMAGE_MARK in text), None)
    if marked is not None:
        raise UserError(f'{where}: "{key}" cannot have images; it is {shown(marked)}.')
    return tuple(text.strip() for text in texts)


def _settings(record: dict[str, Any], ranks: bool, where: str) -> Settings:
    of_others = OF_GENERATION if ranks else OF_CANDIDATES
    idle = next((key for key in of_others if key in record), None)
    if idle is not None:
        kind = "generated answers: this line has candidates" if ranks else "candidates: this line has none"
        raise UserError(f'{where}: "{idle}" is for {kind}.')
    possible = [name for name, metric in METRICS.items() if metric.ranks == ranks]
    metric = record.get("metric", possible[0])
    if metric not in possible:
        hint = did_you_mean(metric, possible)
        kind = "with" if ranks else "without"
        raise UserError(
            f'{where}: "metric" must be one of {", ".join(possible)} for a line {kind} candidates; it is '
            f"{shown(metric)}.{hint}"
        )
    given: dict[str, Any] = {"metric": metric}
    for key in ("num_beams", "max_new_tokens"):
        if key in record:
            given[key] = _count(record[key], key, where)
    if "stop" in record:
        given["stop"] = _texts(record, "stop", where)
    if "by_length" in record:
        given["by_length"] = record["by_length"]
        if not isinstance(given["by_length"], bool):
            raise UserError(f'{where}: "by_length" must be true or false; it is {shown(record["by_length"])}.')
    return Settings(**given)


def _count(value: Any, key: str, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f'{where}: "{key}" must be a whole number from 1; it is {shown(value)}.')
    return value


def _require_same(first: Line, line: Line, where: str) -> None:
    """Raise UserError unless a line is of the same kind, and has the same settings, as the first one."""
    for key in ("candidates", "answers"):
        one, other = bool(getattr(first, key)), bool(getattr(line, key))
        if one != other:
            has, has_not = ("this one", "the first line") if other else ("the first line", "this one")
            raise UserError(f'{where}: {has} has "{key.replace("answers", "answer")}", {has_not} has not.')
    for key in SETTINGS:
        one, other = getattr(first.settings, key), getattr(line.settings, key)
        if one != other:
            raise UserError(
                f'{where}: "{key}" must be the same in all lines; it is {shown(other)}, and {shown(one)} in the first.'
            )
    if line.settings.metric == "roc_auc" and line.candidates != first.candidates:
        raise UserError(
            f'{where}: "candidates" must be the same in all lines for "roc_auc": it is {shown(line.candidates)}, and '
            f"{shown(first.candidates)} in the first."
        )
