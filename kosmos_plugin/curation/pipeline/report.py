"""The counts of a run, for the terminal and as report.json. They include no times, so equal runs have equal reports."""

import collections
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# Input; dropped documents; parts of documents, and files, that were left out; output.
SECTIONS = ("read", "dropped", "left out", "kept")
_DROPPED = "dropped_"  # datatrove's filters count under "dropped_REASON"


@dataclass(frozen=True)
class Report:
    """The counts of a run."""

    command: str
    counts: dict[str, dict[str, int]]  # section (one of SECTIONS) → what → number

    def as_json(self) -> str:
        return json.dumps({"command": self.command, "counts": self.counts}, indent=2, ensure_ascii=False)

    @classmethod
    def read(cls, file: Path) -> "Report":
        return cls(**json.loads(file.read_text(encoding="utf-8")))

    def as_text(self) -> str:
        """The counts in aligned columns."""
        lines = []
        for section, counts in self.counts.items():
            for number, (what, count) in enumerate(counts.items()):
                lines.append((section if number == 0 else "", what, f"{count:,}"))
        widths = [max((len(line[column]) for line in lines), default=0) for column in range(3)]
        return "\n".join(f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}" for a, b, c in lines)


def label(section: str, what: str) -> str:
    """The name of a count among datatrove's statistics."""
    assert section in SECTIONS
    return f"{_DROPPED}{what}" if section == "dropped" else f"{section}: {what}"


def _section_and_what(name: str) -> tuple[str, str] | None:
    """The inverse of `label`; None for datatrove's own statistics."""
    if name.startswith(_DROPPED):
        return "dropped", name.removeprefix(_DROPPED)
    section, colon, what = name.partition(": ")
    return (section, what) if colon and section in SECTIONS else None


def read_counts(stages: Iterable[Path]) -> dict[str, dict[str, int]]:
    """Sum the counts of all tasks, from the files that datatrove writes to the folders of the stages."""
    counts: dict[str, collections.Counter[str]] = {section: collections.Counter() for section in SECTIONS}
    for stage in stages:
        for file in sorted((stage / "stats").glob("*.json")):
            for step in json.loads(file.read_text(encoding="utf-8")):
                for name, stat in step["stats"].items():
                    if found := _section_and_what(name):
                        section, what = found
                        counts[section][what] += int(stat["total"] if isinstance(stat, dict) else stat)
    return {section: dict(counter) for section, counter in counts.items() if counter}
