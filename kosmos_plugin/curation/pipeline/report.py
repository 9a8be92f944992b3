"""The counts and notes of a run, for the terminal and as report.json.

They include no times, so equal runs have equal reports.
"""

import collections
import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# Input; dropped documents; parts of documents, and files, that were left out; output.
SECTIONS = ("read", "dropped", "left out", "kept")
_DROPPED = "dropped_"  # datatrove's filters count under "dropped_REASON"
_NOTE = "note: "
_SHOWN_NOTES = 10


@dataclass(frozen=True)
class Report:
    """The counts of a run."""

    command: str
    counts: dict[str, dict[str, int]]  # section (one of SECTIONS) → what → number
    notes: tuple[str, ...] = ()  # files that could not be read to their end, and why; the first bad record of a file

    def as_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False)

    @classmethod
    def read(cls, file: Path) -> "Report":
        report = json.loads(file.read_text(encoding="utf-8"))
        return cls(report["command"], report["counts"], tuple(report.get("notes", ())))

    def as_text(self) -> str:
        """The counts in aligned columns, and the first notes."""
        lines = []
        for section, counts in self.counts.items():
            for number, (what, count) in enumerate(counts.items()):
                lines.append((section if number == 0 else "", what, f"{count:,}"))
        widths = [max((len(line[column]) for line in lines), default=0) for column in range(3)]
        text = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}" for a, b, c in lines]
        text += self.notes[:_SHOWN_NOTES]
        if len(self.notes) > _SHOWN_NOTES:
            text.append(f"… {len(self.notes) - _SHOWN_NOTES:,} more in report.json")
        return "\n".join(text)


def label(section: str, what: str) -> str:
    """The name of a count among datatrove's statistics."""
    assert section in SECTIONS
    return f"{_DROPPED}{what}" if section == "dropped" else f"{section}: {what}"


def note_label(message: str) -> str:
    """The name of a note among datatrove's statistics."""
    return f"{_NOTE}{message}"


def _section_and_what(name: str) -> tuple[str, str] | None:
    """The inverse of `label`; None for datatrove's own statistics."""
    if name.startswith(_DROPPED):
        return "dropped", name.removeprefix(_DROPPED)
    section, colon, what = name.partition(": ")
    return (section, what) if colon and section in SECTIONS else None


def read_report(command: str, stages: Iterable[Path]) -> Report:
    """Sum the counts of all tasks, from the files that datatrove writes to the folders of the stages."""
    counts: dict[str, collections.Counter[str]] = {section: collections.Counter() for section in SECTIONS}
    notes: dict[str, None] = {}  # in order, each once
    for stage in stages:
        for file in sorted((stage / "stats").glob("*.json")):
            for step in json.loads(file.read_text(encoding="utf-8")):
                for name, stat in step["stats"].items():
                    if name.startswith(_NOTE):
                        notes[name.removeprefix(_NOTE)] = None
                    elif found := _section_and_what(name):
                        section, what = found
                        counts[section][what] += int(stat["total"] if isinstance(stat, dict) else stat)
    found_counts = {section: dict(counter) for section, counter in counts.items() if counter}
    return Report(command, found_counts, tuple(notes))
