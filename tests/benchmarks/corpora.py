"""Corpora: throughput of kosmos-prepare with one process and with two, against other libraries.

Processes are started and libraries loaded before the clock starts. A baseline does the same work in one process, in the
way its documentation shows, or less; its name says what it leaves out.
"""

import contextlib
import io
import json
import shutil
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import datasketch
import numpy as np
import webdataset
import xxhash
from fairseq import options
from fairseq_cli import preprocess

from kosmos_plugin.curation.dedup.minhash import DuplicateFilter, duplicate_stages
from kosmos_plugin.curation.dedup.ngrams import normalized_words
from kosmos_plugin.curation.options import TextOptions
from kosmos_plugin.curation.pipeline.inputs import find_inputs
from kosmos_plugin.curation.pipeline.intermediate import ReadIntermediate, write_intermediate
from kosmos_plugin.curation.pipeline.run import Run
from kosmos_plugin.curation.pipeline.runner import Stage, run_stages
from kosmos_plugin.curation.readers.text_files import ReadTexts
from kosmos_plugin.vocabulary import DICTIONARY_FILE, Vocabulary
from tests.benchmarks.corpora_inputs import write_captions, write_crawl, write_texts
from tests.benchmarks.result import Cell, Result
from tests.benchmarks.side_by_side import SideBySide, seconds_of
from tests.curation.command import prepare

FILES, DOCUMENTS, SAMPLES, PAGES = 4, 3_000, 5_000, 300
TURNS = 3


class Work:
    """Calls `do(out, workers)` with a fixed number of processes and a new folder each time."""

    def __init__(self, folder: Path, do: Callable[[Path, int], object]):
        self.folder = folder
        self.do = do
        self.result: object = None

    def __call__(self, workers: int = 1) -> None:
        out = self.folder / "out"
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            self.result = self.do(out, workers)
        shutil.rmtree(out, ignore_errors=True)  # some baselines write nothing


def command(*arguments: object) -> Callable[[Path, int], dict]:
    """Run a command of kosmos-prepare; return its counts."""

    def do(out: Path, workers: int) -> dict:
        prepare([*map(str, arguments), "--out", str(out), "--workers", str(workers)])
        return json.loads((out / "report.json").read_text("utf-8"))["counts"]

    return do


def deduplicate(folder: Path, kind: str) -> Callable[[Path, int], int]:
    """Read texts and drop duplicates, like `kosmos-prepare text` before binarizing; return the number kept."""
    inputs = find_inputs([str(folder)])
    tasks = len(inputs)

    def do(out: Path, workers: int) -> int:
        run = Run("text", TextOptions(vocabulary="", duplicates=kind), inputs, out)
        run.begin()
        parts, found = run.intermediate / "texts", run.intermediate / "duplicates"
        stages = [
            Stage("read texts", [ReadTexts(inputs), write_intermediate(parts)], tasks),
            *duplicate_stages(ReadIntermediate(parts), tasks, found, kind),
            Stage("drop duplicates", [ReadIntermediate(parts), DuplicateFilter(found)], tasks),
        ]
        counts = run_stages(run, stages, workers).counts
        return counts["read"]["documents"] - counts["dropped"]["duplicates and near-duplicates"]

    return do


# ---- Baselines ----


def read_json_lines(folder: Path) -> list[str]:
    return [json.loads(line)["text"] for file in sorted(folder.iterdir()) for line in open(file, encoding="utf-8")]


def by_datasketch(folder: Path) -> int:
    """Near-duplicates as in datasketch's documentation: insert texts that match none so far; return their number."""
    index = datasketch.MinHashLSH(num_perm=112, params=(14, 8))
    for number, text in enumerate(read_json_lines(folder)):
        tokens = normalized_words(text)
        hashes = datasketch.MinHash(num_perm=112)
        hashes.update_batch([" ".join(tokens[i : i + 5]).encode() for i in range(max(1, len(tokens) - 4))])
        if not index.query(hashes):
            index.insert(str(number), hashes)
    return len(index.keys)


def by_sorting(folder: Path) -> int:
    """Drop only exact copies, by sorting hashes; return the number of texts kept."""
    hashes = [xxhash.xxh3_64_intdigest(" ".join(normalized_words(text)).encode()) for text in read_json_lines(folder)]
    return len(np.unique(np.array(hashes, np.uint64)))


def by_fairseq(folder: Path, vocabulary: Path, out: Path) -> None:
    """SentencePiece over all texts in one call, one text per line, then fairseq-preprocess."""
    pieces = Vocabulary.load(vocabulary).processor.encode(read_json_lines(folder), out_type=str, num_threads=1)
    out.mkdir()
    (out / "pieces.txt").write_text("".join(f"{' '.join(text)}\n" for text in pieces), encoding="utf-8")
    arguments = f"--only-source --srcdict {vocabulary / DICTIONARY_FILE} --trainpref {out / 'pieces.txt'}"
    arguments += f" --destdir {out / 'binarized'} --dataset-impl mmap --workers 1"
    preprocess.main(options.get_preprocessing_parser().parse_args(arguments.split()))


def by_webdataset(folder: Path) -> int:
    tars = [str(tar) for tar in sorted(folder.glob("*.tar"))]
    return sum(1 for _ in webdataset.WebDataset(tars, shardshuffle=False))


# ---- Table ----


def row(name: str, work: float, unit: str, ours: Work, peer_name: str = "", peer: Work | None = None) -> list[Cell]:
    """A row of the table for `work` units, timed alternately with one process, with two, and with the baseline."""
    ones, twos, peers = [], [], []
    for _ in range(TURNS):
        ones.append(seconds_of(ours))
        twos.append(seconds_of(lambda: ours(2)))
        if peer is not None:
            peers.append(seconds_of(peer))
    speeds = (f"{work / statistics.median(seconds):,.0f} {unit}/s" for seconds in (ones, twos))
    against = SideBySide(tuple(ones), tuple(peers)).ratio if peers else ""
    return [name, *speeds, SideBySide(tuple(twos), tuple(ones)).ratio, peer_name, against]


def run(out: Path) -> Result:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts, captions, crawl = (folder / kind for kind in ("texts", "captions", "crawl"))
        documents = write_texts(texts, FILES, DOCUMENTS)
        samples = write_captions(captions, FILES, SAMPLES)
        pages = write_crawl(crawl, FILES, PAGES)
        vocabulary = folder / "vocabulary"
        prepare(["tokenizer", str(texts), "--size", "3000", "--out", str(vocabulary)])

        near, datasketchs = Work(folder, deduplicate(texts, "near")), Work(folder, lambda out, _: by_datasketch(texts))
        exact, sorting = Work(folder, deduplicate(texts, "exact")), Work(folder, lambda out, _: by_sorting(texts))
        known = ("--vocabulary", vocabulary)
        binarize = Work(folder, command("text", texts, *known, "--duplicates", "none"))
        fairseq = Work(folder, lambda out, _: by_fairseq(texts, vocabulary, out))
        index = Work(folder, command("captions", captions))
        webdatasets = Work(folder, lambda out, _: by_webdataset(captions))
        write_pages = Work(folder, command("pages", crawl, "--drop-one-image", 0))
        binarize(2)  # starts the processes' server
        tokens = sum(count for what, count in binarize.result["kept"].items() if what.endswith("tokens"))
        rows = [
            row("pages, WARC to shards", pages, "pages", write_pages),
            row("captions, indexed in place", samples, "samples", index, "webdataset, reading only", webdatasets),
            row("near-duplicates dropped", documents, "documents", near, "datasketch's example", datasketchs),
            row("exact duplicates dropped", documents, "documents", exact, "sorting hashes, in memory", sorting),
            row("text, binarized", tokens, "tokens", binarize, "SentencePiece, fairseq-preprocess", fairseq),
        ]
        notes = [
            f"{documents:,} texts of 150 to 250 words, {samples:,} captions, {pages:,} pages of two pictures, in "
            f"{FILES} files each; median of {TURNS} turns, ratios with the lowest and the highest.",
            f"Kept of the texts: {near.result:,}, the same number as datasketch ({datasketchs.result:,}); dropping "
            f"only exact copies keeps {exact.result:,} ({sorting.result:,} by sorting).",
            f"Kept of the pages: {write_pages.result['kept']['train: documents']:,}.",
        ]
    columns = ["measure", "one process", "two processes", "two / one", "baseline, one process", "ours / baseline"]
    return Result("Corpora: throughput of kosmos-prepare", columns, rows, notes)
