"""What a command did, in counts: for the terminal, and as report.json. It has no times: same run, same report."""

import collections
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# What a count is of: what came in; documents, or parts of them, that a rule took out; what is there at the end.
SECTIONS = ("read", "dropped", "left out", "kept")


@dataclass(frozen=True)
class Report:
    """The counts of a command's run: section (of SECTIONS) → what → how many."""

    command: str
    counts: dict[str, dict[str, int]]

    def as_json(self) -> str:
        return json.dumps({"command": self.command, "counts": self.counts}, indent=2, ensure_ascii=False)

    @classmethod
    def read(cls, file: Path) -> "Report":
        return cls(**json.loads(file.read_text(encoding="utf-8")))

    def as_text(self) -> str:
        lines = []
        for section, counts in self.counts.items():
            for number, (what, count) in enumerate(counts.items()):
                lines.append((section if number == 0 else "", what, f"{count:,}"))
        wide = [max((len(line[column]) for line in lines), default=0) for column in range(3)]
        return "\n".join(f"{a:<{wide[0]}}  {b:<{wide[1]}}  {c:>{wide[2]}}" for a, b, c in lines)


def label(section: str, what: str) -> str:
    """The name by which datatrove keeps a count; its own names have no colon."""
    assert section in SECTIONS
    return f"{section}: {what}"


def read_counts(stages: Iterable[Path]) -> dict[str, dict[str, int]]:
    """The counts of all tasks of the stages, from the files that datatrove keeps of each."""
    counts: dict[str, collections.Counter] = {section: collections.Counter() for section in SECTIONS}
    for stage in stages:
        for file in sorted((stage / "stats").glob("*.json")):
            for step in json.loads(file.read_text(encoding="utf-8")):
                for name, stat in step["stats"].items():
                    section, colon, what = name.partition(": ")
                    if colon and section in SECTIONS:
                        counts[section][what] += int(stat["total"] if isinstance(stat, dict) else stat)
    return {section: dict(of_it) for section, of_it in counts.items() if of_it}
