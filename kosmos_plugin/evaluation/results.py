"""Results: one for each benchmark, split and number of shots, kept in `results.json`."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.files import write_text

RESULTS_FILE = "results.json"


@dataclass(frozen=True)
class Result:
    """A measured benchmark."""

    benchmark: str
    title: str
    section: str  # of the paper; "" if the benchmark is not in it
    split: str
    shots: int  # number of demonstrations
    items: int  # number of items
    problems: int  # items that are longer than the model's context; they count as wrong
    metrics: dict[str, float]  # in percent, the headline first; empty for a split without public answers
    interval: tuple[float, float] | None  # 95%, of the headline
    folder: str  # of its predictions and its page, relative to results.json
    checkpoint: str
    seed: int
    submission: str = ""  # file name within `folder`, for the benchmark's test server
    limit: int | None = None  # if set, only the split's first items were measured

    @property
    def key(self) -> tuple[str, str, int]:
        """(benchmark, split, shots), which identifies a result within its results.json."""
        return self.benchmark, self.split, self.shots

    @property
    def place(self) -> str:
        """Where the paper has the benchmark: "§4.1"; "" if it is not in the paper."""
        return f"§{self.section}" if self.section else ""

    @property
    def headline(self) -> str:
        """The name of the metric that is compared with the paper's; "" if there are no metrics."""
        return next(iter(self.metrics), "")


def read_results(out: Path) -> list[Result]:
    """Read the results in a folder; empty if it has no results.json yet.

    Raises:
        UserError: The file is not valid.
    """
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
    """Write results.json."""
    entries = [dataclasses.asdict(result) for result in results]
    write_text(out / RESULTS_FILE, json.dumps(entries, indent=1, ensure_ascii=False) + "\n")
