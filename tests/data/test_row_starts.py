"""The file of row starts: made once, only by one process, used only for the text that it was made of."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder

from kosmos_plugin.data import row_starts
from kosmos_plugin.data.text import FullSentenceRows
from kosmos_plugin.errors import UserError
from kosmos_plugin.vocabulary import Vocabulary
from tests import tiny


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    return tiny.write_vocabulary(tmp_path_factory.mktemp("rows") / "vocabulary")


def write(prefix, documents):
    builder = MMapIndexedDatasetBuilder(f"{prefix}.bin", dtype=np.uint16)
    for document in documents:
        builder.add_item(torch.tensor(document))
    builder.finalize(f"{prefix}.idx")


def documents(vocabulary, seed=0, count=60):
    draw = np.random.default_rng(seed)
    return [[*draw.integers(4, len(vocabulary) - 6, draw.integers(1, 9)), vocabulary.eos] for _ in range(count)]


def tokens(rows):
    return [rows[r].tokens.tolist() for r in range(len(rows))]


def files(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".rows")


def test_made_once_beside_the_text(vocabulary, tmp_path):
    write(tmp_path / "text", documents(vocabulary))
    first = tokens(FullSentenceRows(str(tmp_path / "text"), vocabulary, 16))
    name = f"text.full_sentences-16-{vocabulary.fingerprint}.rows"
    assert files(tmp_path) == [name]
    before = (tmp_path / name).stat()
    assert tokens(FullSentenceRows(str(tmp_path / "text"), vocabulary, 16)) == first
    assert (tmp_path / name).stat().st_mtime_ns == before.st_mtime_ns
    # of another length: another file
    FullSentenceRows(str(tmp_path / "text"), vocabulary, 20)
    assert len(files(tmp_path)) == 2
    # a copy of the text keeps it
    (tmp_path / "copy").mkdir()
    for path in tmp_path.glob("text*"):
        shutil.copyfile(path, tmp_path / "copy" / path.name)
    copied = (tmp_path / "copy" / name).stat()
    assert tokens(FullSentenceRows(str(tmp_path / "copy" / "text"), vocabulary, 16)) == first
    assert (tmp_path / "copy" / name).stat().st_mtime_ns == copied.st_mtime_ns


def test_another_vocabulary_has_another_file(vocabulary, tmp_path):
    tiny.write_vocabulary(tmp_path / "other")
    (tmp_path / "other" / "special_tokens.txt").write_text("<phrase>\n")
    other = Vocabulary.load(tmp_path / "other")
    assert other.fingerprint != vocabulary.fingerprint
    write(tmp_path / "text", [[5, 6, vocabulary.eos]])
    FullSentenceRows(str(tmp_path / "text"), vocabulary, 16)
    FullSentenceRows(str(tmp_path / "text"), other, 16)
    assert len(files(tmp_path)) == 2


def rebinarized(vocabulary, path):
    """The same number of items and tokens, and files of the same sizes, with the items in another order."""
    write(path, documents(vocabulary)[::-1])


def cut_short(vocabulary, path):
    (file,) = path.parent.glob("*.rows")
    file.write_bytes(file.read_bytes()[:-1])


def empty(vocabulary, path):
    (file,) = path.parent.glob("*.rows")
    file.write_bytes(b"")


def of_another_version(vocabulary, path):
    (file,) = path.parent.glob("*.rows")
    content = bytearray(file.read_bytes())
    content[8] += 1
    file.write_bytes(content)


@pytest.mark.parametrize("change", [rebinarized, cut_short, empty, of_another_version])
def test_made_anew_if_it_is_not_of_this_text(vocabulary, tmp_path, change):
    text = tmp_path / "text"
    write(text, documents(vocabulary))
    FullSentenceRows(str(text), vocabulary, 16)
    change(vocabulary, text)
    found = tokens(FullSentenceRows(str(text), vocabulary, 16))
    (tmp_path / "fresh").mkdir()
    for suffix in (".bin", ".idx"):
        shutil.copyfile(f"{text}{suffix}", tmp_path / "fresh" / f"text{suffix}")
    assert found == tokens(FullSentenceRows(str(tmp_path / "fresh" / "text"), vocabulary, 16))


@pytest.mark.parametrize("byte, bit", [(0, 1), (1, 1), (2, 1), (7, 128)])
def test_broken_positions_are_an_error(vocabulary, tmp_path, byte, bit):
    write(tmp_path / "text", documents(vocabulary))
    FullSentenceRows(str(tmp_path / "text"), vocabulary, 16)
    (file,) = tmp_path.glob("*.rows")
    content = bytearray(file.read_bytes())
    content[64 + 8 + byte] ^= bit  # of the second row's start
    file.write_bytes(content)
    rows = FullSentenceRows(str(tmp_path / "text"), vocabulary, 16)
    with pytest.raises(UserError, match=r"row starts of .*text are broken: remove .*text\.full_sentences-\*\.rows"):
        rows[0]


def make_unwritable(monkeypatch, folder):
    """Root writes everywhere, so the answer of the operating system is replaced."""
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder and access(path, mode))


def test_cache_for_a_read_only_folder(vocabulary, tmp_path, monkeypatch):
    for name in ("a", "b"):  # of the same name, in two folders
        (tmp_path / name).mkdir()
        write(tmp_path / name / "text", documents(vocabulary, seed=ord(name)))
        expected = tokens(FullSentenceRows(str(tmp_path / name / "text"), vocabulary, 16))
        (file,) = (tmp_path / name).glob("*.rows")
        file.unlink()
        with monkeypatch.context() as patch:
            make_unwritable(patch, tmp_path / name)
            cached = FullSentenceRows(str(tmp_path / name / "text"), vocabulary, 16, cache=str(tmp_path / "cache"))
            assert tokens(cached) == expected
            patch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
            assert tokens(FullSentenceRows(str(tmp_path / name / "text"), vocabulary, 16)) == expected
        assert files(tmp_path / name) == []
    assert len(files(tmp_path / "cache")) == len(files(tmp_path / "home" / "kosmos_plugin")) == 2


def test_no_place_to_write(vocabulary, tmp_path, monkeypatch):
    write(tmp_path / "text", documents(vocabulary))
    make_unwritable(monkeypatch, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be written: .*directory.* the key `cache` of the data YAML"):
        FullSentenceRows(str(tmp_path / "text"), vocabulary, 16, cache=str(tmp_path / "file" / "cache"))


@pytest.mark.parametrize("first_has_eos", [True, False])
def test_items_of_two_kinds(vocabulary, tmp_path, first_has_eos):
    items = [[5, vocabulary.eos], [6, 7]]
    write(tmp_path / "text", items if first_has_eos else items[::-1])
    with pytest.raises(UserError, match=r"Some items of the binarized text .*text end in </s> and others do not"):
        FullSentenceRows(str(tmp_path / "text"), vocabulary, 16)
    assert files(tmp_path) == []


def test_one_process_makes_it_and_others_wait(vocabulary, tmp_path):
    """Processes start at once and are slow at it; each says whether it made the file."""
    write(tmp_path / "text", documents(vocabulary))
    program = f"""
import sys, time
from kosmos_plugin.data import row_starts
from kosmos_plugin.data.text import FullSentenceRows
from kosmos_plugin.vocabulary import Vocabulary

class Slow(row_starts.RowStarts):
    def write(self, path=None):
        print("made")
        time.sleep(1)
        super().write(path)

import kosmos_plugin.data.text
kosmos_plugin.data.text.RowStarts = Slow
rows = FullSentenceRows({str(tmp_path / "text")!r}, Vocabulary.load({str(tmp_path / "vocabulary")!r}), 16)
print(len(rows))
"""
    tiny.write_vocabulary(tmp_path / "vocabulary")
    (tmp_path / "temporary").mkdir()
    environment = os.environ | {"TMPDIR": str(tmp_path / "temporary")}
    processes = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(3)
    ]
    said = sorted(process.communicate(timeout=100)[0].split() for process in processes)
    rows = str(len(FullSentenceRows(str(tmp_path / "text"), vocabulary, 16)))
    assert said == [[rows], [rows], ["made", rows]]
    assert list((tmp_path / "temporary").iterdir()) == []


def test_no_lock_is_left_behind(vocabulary, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    write(tmp_path / "text", documents(vocabulary))
    FullSentenceRows(str(tmp_path / "text"), vocabulary, 16)
    write(tmp_path / "broken", [[5, vocabulary.eos], [6, 7]])
    with pytest.raises(UserError, match="Some items"):
        FullSentenceRows(str(tmp_path / "broken"), vocabulary, 16)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_memory_does_not_grow_with_the_text(vocabulary, tmp_path, monkeypatch):
    import tracemalloc

    monkeypatch.setattr(row_starts, "_BLOCK", 1 << 16)
    peaks = []
    for size in (1, 8):
        text = np.random.default_rng(0).integers(4, len(vocabulary) - 6, size << 19)
        text[::23] = vocabulary.line_end
        text[-1] = vocabulary.eos
        write(tmp_path / f"text{size}", [text])
        tracemalloc.start()
        FullSentenceRows(str(tmp_path / f"text{size}"), vocabulary, 2048)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
