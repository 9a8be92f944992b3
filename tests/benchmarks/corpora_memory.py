"""Corpora: peak memory of kosmos-prepare, for an input and for one ten times as large."""

import contextlib
import io
import shutil
import tempfile
from pathlib import Path

from tests.benchmarks.cores import fresh_processes
from tests.benchmarks.corpora_inputs import write_captions, write_crawl, write_texts
from tests.benchmarks.memory import peak_memory
from tests.benchmarks.result import Cell, Result
from tests.curation.command import prepare

AT_MOST = 1.1


def _peak(arguments: list[str]) -> int:
    """Run a command; return the peak memory of this process in bytes."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        prepare(arguments)
    return peak_memory()


def peak_of(out: Path, *arguments: object) -> int:
    """Peak memory in bytes of a command in one process, imports included."""
    with fresh_processes(1) as process:
        peak = process.submit(_peak, [*map(str, arguments), "--out", str(out), "--workers", "1"]).result()
    shutil.rmtree(out)
    return peak


def run(out: Path) -> Result:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_texts(folder / "sample", 1, 2_000)
        vocabulary = folder / "vocabulary"
        prepare(["tokenizer", str(folder / "sample"), "--size", "3000", "--out", str(vocabulary)])
        write_texts(folder / "texts", 4, 2_500)
        write_texts(folder / "texts of 40 files", 40, 2_500)
        write_texts(folder / "texts of larger files", 4, 25_000)
        write_captions(folder / "captions", 4, 1_000)
        write_captions(folder / "captions of 40 files", 40, 1_000)
        write_captions(folder / "captions of larger files", 4, 10_000)
        write_crawl(folder / "crawl", 4, 100)
        write_crawl(folder / "crawl of 40 files", 40, 100)
        write_crawl(folder / "crawl of larger files", 4, 1_000)
        commands = {
            "texts": ("text", ("--vocabulary", vocabulary), "10,000 texts"),
            "captions": ("captions", (), "4,000 captions in tars"),
            "crawl": ("pages", ("--vocabulary", vocabulary), "400 pages in WARC files"),
        }
        rows: list[list[Cell]] = []
        for kind, (command, options, about) in commands.items():
            one, files, larger = (
                peak_of(folder / "out", command, folder / f"{kind}{suffix}", *options)
                for suffix in ("", " of 40 files", " of larger files")
            )
            mebibytes = [f"{peak / 2**20:,.0f} MiB" for peak in (one, files, larger)]
            rows.append([f"{command}: {about}", *mebibytes, max(files, larger) / one, AT_MOST])
    columns = ["command: input", "peak", "ten times the files", "files ten times as large", "ratio", "limit"]
    notes = ["One process, with all that it imports: fairseq and torch take most of it."]
    return Result("Corpora: peak memory against the input", columns, rows, notes)
