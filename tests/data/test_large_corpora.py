"""A corpus as large as LAION-2B: what it costs to open it and to plan an update. Its files are sparse or missing."""

import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from kosmos_plugin.data import corpus_index, record_lengths
from kosmos_plugin.data.index_file import index_bytes
from tests import tiny

TARS, RECORDS = 200_000, 10_000
# Opens the corpus in a fresh process; prints CPU seconds of opening and of planning two updates, and MB.
PROGRAM = """
import os, sys, time
import kosmos_plugin; kosmos_plugin.register()
from kosmos_plugin.data.config import read_data_config
from kosmos_plugin.data.mixture import Mixture
from kosmos_plugin.data.samples import SampleBuilder
from kosmos_plugin.data.skips import SkipCounter
from kosmos_plugin.vocabulary import Vocabulary
from tests.data import test_large_corpora as large

def megabytes():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

path = sys.argv[1]
builder = SampleBuilder(Vocabulary.load(read_data_config(path, False).vocabulary), 64, 2048)
before, begin = megabytes(), time.process_time()
mixture = Mixture(read_data_config(path), "train", builder, 1, SkipCounter(0.05))
print(time.process_time() - begin)
if sys.argv[2:]:  # the blocks of the updates' records
    large.write_blocks(sys.argv[2], [mixture.streams[0].draws(update)[:, 1] for update in large.UPDATES])
for update in large.UPDATES:
    begin = time.process_time()
    assert len(mixture.plan(update).rows) > 250
    print(time.process_time() - begin)
print(megabytes() - before)
"""
UPDATES = (0, 300_000)


def write_index(path: Path, tars: list[str]) -> bytes:
    """The index of a corpus of TARS times the same tar; its parts are a hole in the file. Returns the digest."""
    part = index_bytes(((f"{i:09d}", {"jpg": ((i, 10_000),), "txt": ((i, 100),)}) for i in range(RECORDS)), {})
    steps = np.arange(TARS + 1)
    table = np.concatenate((steps * RECORDS, corpus_index._HEADER.size + steps * len(part))).astype("<i8").tobytes()
    table += corpus_index._names(tars)
    end, digest = corpus_index._HEADER.size + TARS * len(part), bytes(16)
    header = corpus_index._HEADER.pack(corpus_index.MAGIC, end, len(table), zlib.crc32(table), digest, 0)[:-4]
    with path.open("wb") as file:
        file.write(header + zlib.crc32(header).to_bytes(4, "little"))
        file.seek(end)
        file.write(table)
    return digest


def write_blocks(path: str, draws: list[np.ndarray]) -> None:
    """The lengths of the records in the blocks that `draws` are in."""
    draw = np.random.default_rng(0)
    with open(path, "r+b") as file:
        for block in np.unique(np.concatenate(draws) // record_lengths._RECORDS).tolist():
            lengths = draw.integers(8, 41, record_lengths._RECORDS, np.uint32) | (1 << record_lengths._TOKEN_BITS)
            file.seek(record_lengths._HEADER.size + block * 4 * (record_lengths._RECORDS + 1))
            file.write(record_lengths._as_blocks(lengths, block))


@pytest.mark.skipif(not Path("/proc").exists(), reason="sparse files")
def test_opening_and_planning(tmp_path):
    vocabulary = tiny.write_vocabulary(tmp_path / "vocabulary")
    (tmp_path / "data.yaml").write_text(
        "vocabulary: vocabulary\nstreams: {captions: {kind: captions, sequences_per_update: 6144, corpora: "
        f'[{{name: laion, train: "laion/{{000000..{TARS - 1:06d}}}.tar"}}]}}}}\n'
    )
    (tmp_path / "laion").mkdir()
    tars = [str(tmp_path / "laion" / f"{number:06d}.tar") for number in range(TARS)]
    digest = write_index(corpus_index.file_of_corpus(tars).beside, tars)
    name = f"captions.{vocabulary.encoding_fingerprint}.kosmos_lengths"
    lengths = corpus_index.file_of_corpus(tars, None, name).beside
    with lengths.open("wb") as file:
        file.write(record_lengths._header(TARS * RECORDS, digest))
        file.truncate(record_lengths._HEADER.size + TARS * RECORDS // 64 * 4 * 65)
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(tmp_path / "data.yaml"), str(lengths)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    seconds, *planning, megabytes = map(float, done.stdout.split())
    print(f"{seconds:.2f} s of CPU and {megabytes:.0f} MB to open, {planning} s of CPU to plan updates {UPDATES}")
    assert seconds < 5 and megabytes < 100 and max(planning) < 0.1
