"""What a user's benchmark may do wrong: what its methods return is checked, and what they raise is told in one line."""

import json
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from kosmos_plugin.data.documents import Image, Text
from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmark import Benchmark, Item, Scores
from kosmos_plugin.evaluation.files import shown
from kosmos_plugin.evaluation.requests import Choose, Generate, Request, distinct_prompts


def checked_items(benchmark: Benchmark[Any], found: Any, limit: int | None = None) -> list[Item]:
    """Return the (first `limit`) items that a benchmark gave.

    Raises:
        UserError: They are not Items, or what one has is not what predictions.jsonl can hold.
    """
    if not isinstance(found, Iterable):
        raise UserError(f"{benchmark.name}: items() must give Items; it gives {shown(found)}.")
    items = list(islice(found, limit))
    for item in items:
        if not isinstance(item, Item) or not isinstance(item.id, str):
            raise UserError(f"{benchmark.name}: items() must give Items whose ids are texts, not {shown(item)}.")
    if benchmark.defined_in:
        for item in items:
            try:
                json.dumps(item.reference)
            except (TypeError, ValueError):
                raise UserError(
                    f"{benchmark.name}: the reference of item {item.id!r} must be of JSON's types; it is "
                    f"{shown(item.reference)}."
                ) from None
    return items


def checked_request(benchmark: Benchmark[Any], item: Item, request: Any) -> Request:
    """Return the request that a benchmark made.

    Raises:
        UserError: It is not a request.
    """
    name = f"{benchmark.name}: the request for item {item.id!r}"
    if not isinstance(request, Generate | Choose):
        raise UserError(f"{name} must be Generate or Choose; it is {shown(request)}.")
    if isinstance(request, Choose) and not request.choices:
        raise UserError(f"{name} has no choices.")
    for prompt in distinct_prompts(request):
        wrong = next((segment for segment in prompt if not isinstance(segment, Text | Image)), None)
        if wrong is not None:
            raise UserError(f"{name}: a prompt is a tuple of Text and Image; it has {shown(wrong)}.")
    return request


def checked_scores(benchmark: Benchmark[Any], scores: Any, items: Sequence[Item]) -> Scores:
    """Return the scores that a benchmark computed.

    Raises:
        UserError: They are not Scores with a metric, or not one for each item.
    """
    if not isinstance(scores, Scores) or not scores.metrics:
        raise UserError(f"{benchmark.name}: score() must give Scores with a metric; it gives {shown(scores)}.")
    if scores.per_item is not None and len(scores.per_item) != len(items):
        raise UserError(f"{benchmark.name}: score() gives {len(scores.per_item)} values for {len(items)} items.")
    return scores


@contextmanager
def errors_of_user_code(benchmark: Benchmark[Any]) -> Iterator[None]:
    """Raise an error of a user's code as a UserError, which names its line; other errors are raised as they are."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if _place(error, benchmark.defined_in) is None:
            raise
        raise UserError(f"{benchmark.name}: {described_error(error, benchmark.defined_in)}") from error


def described_error(error: BaseException, files: Sequence[Path]) -> str:
    """Describe an error in one line, with the last line of the user's files that led to it.

    Args:
        error: The error.
        files: The user's files, as absolute paths.
    """
    place = _place(error, files)
    text = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
    return f"{place or ''}{type(error).__name__}{f': {text}' if text else ''}"


def _place(error: BaseException, files: Sequence[Path]) -> str | None:
    names = set(map(str, files))
    if isinstance(error, SyntaxError) and error.filename in names:
        return f"{error.filename}, line {error.lineno}: "
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in names]
    return f"{frames[-1].filename}, line {frames[-1].lineno}: " if frames else None
