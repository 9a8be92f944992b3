"""Evaluates a model on one benchmark, from the release to a Result.

items → batches of consecutive items, distributed over the ranks → requests → answers → part-RANK.jsonl
  → once all ranks are done, on the first: scores → predictions.jsonl, page.html, a submission, Result
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.answering import answer
from kosmos_plugin.evaluation.benchmark import Benchmark, Item
from kosmos_plugin.evaluation.contract import checked_items, checked_request, checked_scores, errors_of_user_code
from kosmos_plugin.evaluation.files import write_text
from kosmos_plugin.evaluation.metrics.accuracy import bootstrap_interval
from kosmos_plugin.evaluation.predictions import Predictions
from kosmos_plugin.evaluation.ranks import Ranks
from kosmos_plugin.evaluation.reporting.page import PAGE_FILE, write_page
from kosmos_plugin.evaluation.requests import Request
from kosmos_plugin.evaluation.responder import Responder
from kosmos_plugin.evaluation.results import Result


@dataclass(frozen=True)
class Run:
    """A benchmark with a number of demonstrations, to be answered by one checkpoint."""

    benchmark: Benchmark[Any]
    shots: int
    checkpoint: str  # path, for the report
    digest: str  # of the checkpoint's file: answers of another one are never mixed in
    seed: int = 1  # of the demonstrations
    limit: int | None = None  # if set, only the split's first items
    dtype: str = "float32"  # the model's precision
    benchmark_digest: str = ""  # of the user's files that define the benchmark; "" for one of the package

    @property
    def folder(self) -> str:
        """The folder of its answers, relative to the folder of all results."""
        return f"{self.benchmark.name}/{self.benchmark.split}-{self.shots}-shot"

    def settings(self) -> dict[str, Any]:
        """All settings that its answers depend on; batch size and number of ranks are not among them."""
        of_benchmark = {"benchmark's digest": self.benchmark_digest} if self.benchmark_digest else {}
        return {
            "checkpoint's digest": self.digest,
            "shots": self.shots,
            "seed": self.seed,
            "limit": self.limit,
            "dtype": self.dtype,
            **of_benchmark,
        }

    def items(self) -> list[Item]:
        """Read the items to answer.

        Raises:
            UserError: There are none, two have the same id, or they are not Items.
        """
        items = checked_items(self.benchmark, self.benchmark.items(), self.limit)
        if not items:
            raise UserError(
                f"{self.benchmark.name}: there are no items of {self.benchmark.split} in {self.benchmark.folder}."
            )
        twice = [item_id for item_id, count in Counter(item.id for item in items).items() if count > 1]
        if twice:
            raise UserError(f"{self.benchmark.name}: {self.benchmark.folder} has {twice[0]!r} more than once.")
        return items

    def requests(self) -> Callable[[Item], Request]:
        """Return the function from an item to its request."""
        pool = checked_items(self.benchmark, self.benchmark.training_items()) if self.shots else []

        def request(item: Item) -> Request:
            demonstrations = self.benchmark.demonstrations(item, pool, self.shots, self.seed)
            return checked_request(self.benchmark, item, self.benchmark.request(item, demonstrations))

        return request


def evaluate(run: Run, responder: Responder, out: Path, batch_size: int, ranks: Ranks) -> Result | None:
    """Answer the items that have no answer yet, then score all.

    Args:
        run: The benchmark and its settings.
        responder: The model.
        out: The folder of all results; answers go to `out / run.folder`.
        batch_size: Items per batch; it does not affect the answers.
        ranks: The processes that share the items.

    Returns:
        The result on the first rank, None on the others.

    Raises:
        UserError: The release, an image or the folder `out` cannot be used, or a user's benchmark has an error. Answers
            made so far are kept.
    """
    predictions = Predictions(out / run.folder, run.settings())
    with ranks.together(), errors_of_user_code(run.benchmark):
        items, request = run.items(), run.requests()
        if ranks.is_first:
            predictions.begin()
    with ranks.together():  # no rank writes while others read
        answered = predictions.read()
    batches = [items[begin : begin + batch_size] for begin in range(0, len(items), batch_size)]
    name = f"{run.benchmark.name}, {run.shots} shots"
    with ranks.together(), errors_of_user_code(run.benchmark):
        for batch in tqdm(batches[ranks.rank :: ranks.count], desc=name, disable=not ranks.is_first):
            left = [item for item in batch if item.id not in answered]
            if left:
                predictions.append(ranks.rank, left, answer(responder, [request(item) for item in left]))
    if not ranks.is_first:
        return None
    with errors_of_user_code(run.benchmark):
        return _measure(run, predictions, items, request)


def _measure(run: Run, predictions: Predictions, items: list[Item], request: Callable[[Item], Request]) -> Result:
    """Score all answers; write them, their page and their submission."""
    benchmark, answered = run.benchmark, predictions.read()
    answers = [answered[item.id] for item in items]
    unknown = any(item.reference is None for item in items)
    scores = None if unknown else checked_scores(benchmark, benchmark.score(items, answers), items)
    per_item = None if scores is None else scores.per_item
    interval = None if scores is None else scores.interval
    if interval is None and per_item is not None:
        interval = bootstrap_interval(per_item)
    predictions.finish(items, answers, per_item or [None] * len(items))
    submission = benchmark.submission(items, answers)
    if submission is not None:
        write_text(predictions.folder / submission[0], submission[1])
    result = Result(
        benchmark=benchmark.name,
        title=benchmark.title,
        section=benchmark.section,
        split=benchmark.split,
        shots=run.shots,
        items=len(items),
        problems=sum(bool(answer.problem) for answer in answers),
        metrics={} if scores is None else scores.metrics,
        interval=interval,
        folder=run.folder,
        checkpoint=run.checkpoint,
        seed=run.seed,
        submission="" if submission is None else submission[0],
        limit=run.limit,
    )
    write_page(predictions.folder / PAGE_FILE, result, items, answers, scores, request)
    return result
