"""A run of a command: its options, its inputs, and an output folder that no other run may use."""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from kosmos_plugin.atomic import write_text
from kosmos_plugin.curation.pipeline.dropped import DroppedWriter
from kosmos_plugin.curation.pipeline.inputs import InputFile
from kosmos_plugin.errors import UserError

Options = TypeVar("Options")  # a dataclass of `curation.options`


@dataclass(frozen=True)
class Run(Generic[Options]):
    """A command with its options, inputs and output folder."""

    command: str
    options: Options
    inputs: Sequence[InputFile]
    out: Path

    @property
    def work(self) -> Path:
        """The folder of the plan, the lock and the logs."""
        return self.out / "work"

    @property
    def intermediate(self) -> Path:
        """The folder of the files that stages pass on; removed at the end."""
        return self.work / "intermediate"

    @property
    def report_file(self) -> Path:
        return self.out / "report.json"

    @property
    def keep_dropped(self) -> Path | None:
        """The folder of the dropped documents, for a command that can keep them."""
        folder = getattr(self.options, "keep_dropped", None)
        return Path(folder) if folder is not None else None

    def dropped_writer(self, step: str, reason: str | None = None) -> DroppedWriter | None:
        """The exclusion writer of a step, for the folder `step` in --keep-dropped; None without that option.

        Args:
            step: The name of the step; two steps of a run never share one.
            reason: The reason for documents that come without one.
        """
        return DroppedWriter(self.keep_dropped / step, reason) if self.keep_dropped is not None else None

    def begin(self) -> bool:
        """Write the plan if there is none yet.

        Returns:
            Whether the run is new.

        Raises:
            UserError: A folder belongs to another run or cannot be written to.
        """
        plan = {
            "command": self.command,
            "options": dataclasses.asdict(self.options),  # type: ignore[call-overload]  # a dataclass
            "inputs": [dataclasses.asdict(file) for file in self.inputs],
        }
        plan = json.loads(json.dumps(plan))
        file = self.work / "plan.json"
        if file.is_file():
            previous = json.loads(file.read_text(encoding="utf-8"))
            if previous != plan:
                raise UserError(
                    f"{self.out} holds another run ({_difference(previous, plan)}). Give another folder with --out, or "
                    "remove this one."
                )
            return False
        self._check_keep_dropped()
        try:
            if self.out.exists() and any(path != self.work for path in self.out.iterdir()):
                raise UserError(f"{self.out} contains files of something else. Give another folder with --out.")
            if self.keep_dropped is not None and self.keep_dropped.is_dir() and any(self.keep_dropped.iterdir()):
                raise UserError(f"--keep-dropped {self.keep_dropped} must be a new or an empty folder.")
            self.work.mkdir(parents=True, exist_ok=True)
            write_text(file, json.dumps(plan, indent=2))
        except OSError as error:
            raise UserError(f"Cannot write to {self.out}: {error.strerror}.") from None
        if self.keep_dropped is not None:
            try:
                self.keep_dropped.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                self.withdraw()
                raise UserError(f"Cannot write to --keep-dropped {self.keep_dropped}: {error.strerror}.") from None
        return True

    def _check_keep_dropped(self) -> None:
        """The run's own folders do not do: files of `intermediate` are removed at the end."""
        if self.keep_dropped is None:
            return
        folder, out = self.keep_dropped.resolve(), self.out.resolve()
        if folder == out or folder.is_relative_to(out / self.work.name):
            raise UserError(f"--keep-dropped {self.keep_dropped} must be another folder than --out and its `work`.")

    def withdraw(self) -> None:
        """Undo `begin`."""
        shutil.rmtree(self.work)
        for folder in filter(None, (self.keep_dropped, self.out)):
            with contextlib.suppress(OSError):  # not empty: it was there before
                folder.rmdir()


def _difference(previous: dict[str, Any], plan: dict[str, Any]) -> str:
    if previous["command"] != plan["command"]:
        return f"of kosmos-prepare {previous['command']}"
    for name, value in plan["options"].items():
        if previous["options"].get(name) != value:
            return f"--{name.replace('_', '-')} was {previous['options'].get(name)}"
    return "with other input files"
