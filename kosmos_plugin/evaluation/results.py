"""What was measured: one Result for each benchmark and number of shots, kept in `results.json`."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.files import write_text

RESULTS_FILE = "results.json"


@dataclass(frozen=True)
class Result:
    """A benchmark measured with `shots` demonstrations.

    `metrics`: name → value in percent, the headline first; `interval`: of the headline, 95%. `problems`: how many of
    the `items` could not be asked, since they do not fit in the model; they count as wrong. `folder`: where its
    predictions and its page are, relative to results.json. `limit`: if given, the items are only so many of the first.
    A split without answers has no metrics, but a submission.
    """

    benchmark: str
    title: str
    section: str
    split: str
    shots: int
    items: int
    problems: int
    metrics: dict[str, float]
    interval: tuple[float, float] | None
    folder: str
    checkpoint: str
    seed: int
    submission: str = ""
    limit: int | None = None

    @property
    def key(self) -> tuple[str, str, int]:
        return self.benchmark, self.split, self.shots

    @property
    def headline(self) -> str:
        """The name of the metric that is compared with the paper's."""
        return next(iter(self.metrics), "")


def read_results(out: Path) -> list[Result]:
    """All results in the folder `out`; none if there is no results.json yet."""
    path = out / RESULTS_FILE
    if not path.is_file():
        return []
    try:
        return [
            Result(**{**entry, "interval": entry["interval"] and tuple(entry["interval"])})
            for entry in json.loads(path.read_text(encoding="utf-8"))
        ]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is not a results.json of kosmos-evaluate: {error}") from None


def write_results(out: Path, results: list[Result]) -> None:
    entries = [dataclasses.asdict(result) for result in results]
    write_text(out / RESULTS_FILE, json.dumps(entries, indent=1, ensure_ascii=False) + "\n")
