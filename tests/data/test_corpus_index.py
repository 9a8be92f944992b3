"""The index of a corpus: what it gives back, when it is made again, and what damage to it does."""

import os
import pickle
import random
import shutil
from pathlib import Path

import pytest

from kosmos_plugin.data import corpus_index
from kosmos_plugin.data.corpus_index import CorpusIndex, file_of_corpus, open_corpus_index
from kosmos_plugin.data.index_file import DamagedIndex
from kosmos_plugin.data.shard_index import INDEX_SUFFIX, build_index, tar_records
from kosmos_plugin.errors import UserError
from tests import tiny


def write_tars(folder: Path, counts=(3, 70, 0, 1), word="dog") -> list[str]:
    """A tar of captions for each count."""
    for shard, count in enumerate(counts):
        members = [m for i in range(count) for m in tiny.caption_members(f"{i}", f"{word} {shard} {i}", b"image")]
        tiny.write_tar(folder / f"{shard}.tar", members)
    return [str(folder / f"{shard}.tar") for shard in range(len(counts))]


def records(index):
    return [index.record(number) for number in range(len(index))]


def expected(tars):
    return [record for tar in tars for record in tar_records(tar)[0]]


def later(path, seconds=10):
    """Set a file's time to later than anything made so far."""
    time = os.stat(path).st_mtime + seconds
    os.utime(path, (time, time))


@pytest.mark.parametrize("counts", [(1,), (3, 70, 0, 1), (0, 2), (64, 64, 0, 0, 65, 1, 0)])
def test_records_of_all_tars_in_order(tmp_path, counts):
    tars = write_tars(tmp_path, counts)
    index = open_corpus_index(tars)
    assert records(index) == expected(tars)
    assert records(pickle.loads(pickle.dumps(index))) == expected(tars)
    assert not list(tmp_path.glob(f"*.tar{INDEX_SUFFIX}"))  # one file for all
    assert Path(index.path).name.startswith("0-" if len(counts) > 1 else "0.")


def test_tars_of_several_folders(tmp_path):
    """Also moved together; other lists of the same tars have files of their own."""
    tars = write_tars(tmp_path / "a" / "x", (2, 3)) + write_tars(tmp_path / "a" / "y", (4,)) + [str(tmp_path / "b.tar")]
    shutil.copy(tars[0], tars[-1])
    made = open_corpus_index(tars).path
    assert records(open_corpus_index(tars)) == expected(tars)
    assert len({made, *(open_corpus_index(some).path for some in (tars[::-1], tars[:2], tars[:1] * 2))}) == 4
    times = os.stat(made).st_mtime_ns
    (tmp_path / "a").rename(tmp_path / "c")
    moved = [tar.replace(f"{tmp_path}/a/", f"{tmp_path}/c/") for tar in tars]
    index = open_corpus_index(moved)
    assert records(index) == expected(moved) and os.stat(index.path).st_mtime_ns == times


def test_by_several_workers(tmp_path, monkeypatch):
    tars = write_tars(tmp_path, [5] * 12)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    assert records(open_corpus_index(tars)) == expected(tars)
    Path(tars[7]).write_bytes(b"no tar")
    with pytest.raises(UserError, match=r"7\.tar is cut short or is not a tar") as error:
        open_corpus_index(tars)
    assert "Traceback" not in str(error.value)


def test_selections_stay(tmp_path):
    """The index beside a tar says which of its records are used."""
    tars = write_tars(tmp_path, (5, 6))
    build_index(tars[1], tar_records(tars[1])[0][::2], "every second")
    assert [record.key for record in records(open_corpus_index(tars))] == [*"01234", *"024"]
    build_index(tars[1], tar_records(tars[1])[0][::3], "every third")
    later(f"{tars[1]}{INDEX_SUFFIX}")
    assert [record.key for record in records(open_corpus_index(tars))] == [*"01234", *"03"]


@pytest.mark.parametrize("change", ["longer", "same size", "removed", "indexed", "indexed alike", "copied"])
def test_tars_of_a_large_corpus_are_checked_when_they_are_read(tmp_path, monkeypatch, change):
    """They are not looked at when the corpus is opened: a stat of each would take minutes over a network."""
    tars = write_tars(tmp_path, (2, 70, 2))
    open_corpus_index(tars)
    before = expected(tars)
    monkeypatch.setattr(corpus_index, "MOST_CHECKED", 2)
    match change:
        case "longer" | "same size":
            write_tars(tmp_path / "new", (0, 70 if change == "same size" else 90), "cat")
            shutil.copy(tmp_path / "new" / "1.tar", tars[1])
        case "removed":
            os.remove(tars[1])
        case "indexed":
            build_index(tars[1], tar_records(tars[1])[0][::3], "every third")
        case "indexed alike":
            build_index(tars[1])
    later(f"{tars[1]}{INDEX_SUFFIX}" if change.startswith("indexed") else tars[1] if change != "removed" else tmp_path)
    index = open_corpus_index(tars)
    assert index.record(0) == before[0]
    if change == "indexed alike":
        assert records(index) == before
        return
    with pytest.raises(
        UserError, match=rf"1\.tar has been|1\.tar has changed since .*{INDEX_SUFFIX} was made"
    ) as error:
        index.record(2)
    assert "\n" not in str(error.value)
    if change == "copied":
        later(index.path, 20)
        assert records(open_corpus_index(tars)) == before


def test_opening_a_large_corpus_looks_at_no_tar(tmp_path, monkeypatch):
    tars = write_tars(tmp_path, (2, 3))
    length = len(open_corpus_index(tars))
    monkeypatch.setattr(corpus_index, "MOST_CHECKED", 1)
    for tar in tars:
        os.remove(tar)
    assert len(open_corpus_index(tars)) == length


def test_a_read_only_folder(tmp_path):
    """The file goes to the cache folder; the same names elsewhere do not share it."""
    for folder in ("a", "b"):
        tars = write_tars(tmp_path / folder, (2, 3) if folder == "a" else (4, 1))
        file = file_of_corpus(tars, str(tmp_path / "cache"))
        corpus_index.write_corpus_index(_made(file.cached), tars)
        assert records(open_corpus_index(tars, str(tmp_path / "cache"))) == expected(tars)
        assert not file.beside.exists()
    assert len(list((tmp_path / "cache").iterdir())) == 2


def _made(path):
    path.parent.mkdir(exist_ok=True)
    return path


def test_clocks_of_other_machines(tmp_path):
    """Tars from a machine whose clock is ahead: the index is not made again and again."""
    tars = write_tars(tmp_path, (2, 3))
    later(tars[1], 100_000)
    made = os.stat(open_corpus_index(tars).path)
    assert os.stat(open_corpus_index(tars).path).st_ino == made.st_ino


def test_damage(tmp_path):
    """Every bit of the header and the table, and others: the file is made anew, or the error is one line."""
    tars = write_tars(tmp_path, (3, 70))
    right = expected(tars)
    index = open_corpus_index(tars)
    path, whole = Path(index.path), Path(index.path).read_bytes()
    table, draw = int(index.begins[-1]), random.Random(0)
    bits = {*range(8 * 48), *range(8 * table, 8 * len(whole), 7), *draw.sample(range(8 * len(whole)), 200)}
    for bit in sorted(bits):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            assert records(open_corpus_index(tars)) == right
        except UserError as error:
            assert path.name in str(error) and "\n" not in str(error)
    for damaged in (b"", whole[:20], whole[:-1], whole + b"\0", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(DamagedIndex):
            CorpusIndex(path, tars)
        assert records(open_corpus_index(tars)) == right


def test_a_damaged_index_of_a_tar_is_named(tmp_path):
    tars = write_tars(tmp_path, (3, 70))
    path = build_index(tars[1])
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"1\.tar\.kosmos_index cannot be used \(a damaged block 1\)"):
        open_corpus_index(tars)


def test_system_calls_of_opening_do_not_grow(tmp_path, monkeypatch):
    """Two reads, whatever the number of tars."""
    reads = []
    monkeypatch.setattr(corpus_index, "MOST_CHECKED", 0)
    for count in (1, 30):
        tars = write_tars(tmp_path / str(count), [1] * count)
        open_corpus_index(tars)
        before = _system_calls()
        open_corpus_index(tars)
        reads.append(_system_calls() - before)
    assert reads[0] == reads[1] <= 4  # two of /proc


def _system_calls() -> int:
    """Read calls of this process so far."""
    counters = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counters["syscr"])
