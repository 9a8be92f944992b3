"""The format of an index: what it gives back, what it costs, and that no damage to it is read as other records."""

import itertools
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kosmos_plugin.data.corpus_index import open_corpus_index
from kosmos_plugin.data.index_file import RECORDS_PER_BLOCK, DamagedIndex, IndexFile, write_index
from kosmos_plugin.data.shard_index import (
    INDEX_SUFFIX,
    Record,
    build_index,
    read_or_make_index,
    selection_of,
    tar_records,
)
from kosmos_plugin.errors import UserError
from tests import tiny

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).map(lambda name: name + "\udcff")
pieces = st.lists(st.tuples(st.integers(-1, 2**62), st.integers(0, 2**62)), min_size=1, max_size=3).map(tuple)
records = st.tuples(names, st.dictionaries(names, pieces, max_size=4))


@settings(deadline=None, max_examples=60)
@given(st.lists(records, max_size=3 * RECORDS_PER_BLOCK))
def test_what_is_written_is_read(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("index") / "index"
    write_index(path, written, {"tar_size": 7, "selection": "é"})
    index = IndexFile(str(path))
    assert [index.record(i) for i in range(len(index))] == written
    assert index.header["tar_size"] == 7 and index.header["selection"] == "é"


@pytest.mark.parametrize("count", [0, 1, RECORDS_PER_BLOCK, RECORDS_PER_BLOCK + 1, 3 * RECORDS_PER_BLOCK])
def test_numbers_of_records(tmp_path, count):
    written = [(f"{i}", {"jpg": ((512 * i, i),), "txt": ((0, 1), (-1, 7), (9, 2))}) for i in range(count)]
    write_index(tmp_path / "index", written, {})
    index = IndexFile(str(tmp_path / "index"))
    assert [index.record(i) for i in range(len(index))] == written


def test_a_long_key_costs_its_own_bytes(tmp_path):
    """Strings of one width took 480 MB here."""
    members = [member for i in range(2000) for member in tiny.caption_members(f"{i}", "a", b"i")]
    tiny.write_tar(tmp_path / "0.tar", [*members, *tiny.caption_members("long" * 15_000, "a", b"i")])
    index = open_corpus_index([str(tmp_path / "0.tar")])
    assert index.record(2000).key == "long" * 15_000 and index.record(2000).read("txt") == b"a"
    assert Path(index.path).stat().st_size < 200_000


def write_tar_with_index(folder, count: int, selection: str = ""):
    """A tar, its index, and the records of the index."""
    members = [m for i in range(count) for m in tiny.caption_members(f"{i:04d}", f"dog {i}", b"image %d" % i)]
    tiny.write_tar(folder / "0.tar", members)
    selected = tar_records(folder / "0.tar")[0][:: 2 if selection else 1]
    return build_index(folder / "0.tar", selected, selection), selected


def result(tar: str) -> list | None:
    """The records; None if an error of one line names the index."""
    try:
        index = Path(f"{tar}.read")
        index.write_bytes(read_or_make_index(tar))
        opened = IndexFile(str(index))
        return [Record(tar, *opened.record(i)) for i in range(len(opened))]
    except UserError as error:
        assert INDEX_SUFFIX in str(error) and "\n" not in str(error)
        return None


@pytest.mark.parametrize("selection", ["", "every second"])
def test_every_single_bit_is_found(tmp_path, selection):
    """All bits of the header and the first block's end, and 2,500 others: never other records."""
    path, expected = write_tar_with_index(tmp_path, 3 * RECORDS_PER_BLOCK, selection)
    whole = path.read_bytes()
    assert result(str(tmp_path / "0.tar")) == expected
    bits = {*range(8 * 200), *random.Random(0).sample(range(8 * len(whole)), 2500)}
    for bit in sorted(bits):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert result(str(tmp_path / "0.tar")) is None
        assert path.read_bytes() == damaged  # not replaced by an index of all records


def test_selection_of_a_damaged_index(tmp_path):
    path, _ = write_tar_with_index(tmp_path, 4, "every second")
    assert selection_of(tmp_path / "0.tar") == "every second"
    damaged = bytearray(path.read_bytes())
    damaged[30] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="cannot be used"):
        selection_of(tmp_path / "0.tar")


def test_damaged_indexes(tmp_path):
    """3,000 indexes with bytes changed, cut, doubled, moved or added: the right records or one line."""
    path, expected = write_tar_with_index(tmp_path, 2 * RECORDS_PER_BLOCK + 5)
    whole = path.read_bytes()
    draw = random.Random(0)

    def damaged() -> bytes:
        data = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            start, length = draw.randrange(len(data) or 1), draw.choice([1, 1, 4, 8, 100, 5000])
            part = data[start : start + length]
            match draw.randrange(5):
                case 0:
                    data[start : start + length] = draw.randbytes(len(part))
                case 1:
                    del data[start:]
                case 2:
                    data[start:start] = part
                case 3:
                    del data[start : start + length]
                case 4:
                    data[start : start + length] = draw.choice([b"\0", b"\xff"]) * len(part)
        return bytes(data)

    for _ in range(3000):
        path.write_bytes(damaged())
        assert result(str(tmp_path / "0.tar")) in (None, expected)


def test_blocks_are_not_confused(tmp_path):
    """A block in the place of another one, with its checksum."""
    written = [(f"{i:05d}", {"jpg": ((512 * i, 7),)}) for i in range(2 * RECORDS_PER_BLOCK)]
    write_index(tmp_path / "index", written, {})
    data = (tmp_path / "index").read_bytes()
    first = IndexFile(str(tmp_path / "index")).begins + 8 * 3
    size = (len(data) - first) // 2
    (tmp_path / "index").write_bytes(data[:first] + data[first + size :] + data[first : first + size])
    index = IndexFile(str(tmp_path / "index"))
    for number in (0, RECORDS_PER_BLOCK):
        with pytest.raises(DamagedIndex):
            index.record(number)


def test_opening_reads_only_the_header(tmp_path):
    """So the index of a corpus of any size opens at once: what is behind the header is not looked at."""
    path, expected = write_tar_with_index(tmp_path, 3 * RECORDS_PER_BLOCK)
    data = path.read_bytes()
    index = IndexFile(str(path))
    path.write_bytes(data[: index.begins])
    assert len(IndexFile(str(path))) == len(expected)
    with pytest.raises(DamagedIndex):
        IndexFile(str(path)).record(0)


# ---- indexes of version 0.1


def write_old_index(tar, selection: str | None) -> None:
    records, _ = tar_records(tar)
    members = [member for record in records for member in record.members.items()]
    arrays = {
        "tar_size": np.array(tar.stat().st_size),
        "keys": np.array([record.key for record in records]),
        "starts": np.array([0, *itertools.accumulate(len(record.members) for record in records)]),
        "extensions": np.array([name for name, _ in members]),
        "offsets": np.array([part[0][0] for _, part in members]),
        "sizes": np.array([part[0][1] for _, part in members]),
    }
    np.savez(f"{tar}.index.npz", **arrays, **({} if selection is None else {"selection": np.array(selection)}))


def test_an_index_of_version_0_1_is_made_again(tmp_path):
    path, expected = write_tar_with_index(tmp_path, 5)
    path.unlink()
    write_old_index(tmp_path / "0.tar", None)
    assert selection_of(tmp_path / "0.tar") is None
    assert result(str(tmp_path / "0.tar")) == expected


def test_a_selection_of_version_0_1_is_not_replaced_by_all_records(tmp_path):
    path, expected = write_tar_with_index(tmp_path, 5)
    path.unlink()
    write_old_index(tmp_path / "0.tar", "some")
    old = tmp_path / "0.tar.index.npz"
    with pytest.raises(UserError, match=r"0\.tar .* since kosmos-prepare captions filtered it. Prepare it again"):
        open_corpus_index([str(tmp_path / "0.tar")])
    whole = old.read_bytes()
    for damaged in (whole[:100], whole[:-30], b"", bytes(len(whole))):
        old.write_bytes(damaged)
        with pytest.raises(UserError, match=r"0\.tar\.index\.npz cannot be used .* Remove it"):
            open_corpus_index([str(tmp_path / "0.tar")])
    old.unlink()
    assert result(str(tmp_path / "0.tar")) == expected
