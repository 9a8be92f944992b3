"""Rows of binarized text against fairseq's own reading of the same files."""

import pickle
import random
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from fairseq.data.indexed_dataset import MMapIndexedDataset, MMapIndexedDatasetBuilder
from hypothesis import given, settings
from hypothesis import strategies as st

from kosmos_plugin.data.text import TextRows
from kosmos_plugin.errors import UserError
from tests import tiny


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    return tiny.write_vocabulary(tmp_path_factory.mktemp("text") / "vocabulary")


def write(prefix, documents, dtype=np.uint16):
    builder = MMapIndexedDatasetBuilder(f"{prefix}.bin", dtype=dtype)
    for document in documents:
        builder.add_item(torch.tensor(document, dtype=torch.int64))
    builder.finalize(f"{prefix}.idx")


def expected(prefix, vocabulary, width):
    """The (tokens, targets) of each row: items read by fairseq, framed by `<s>` and `</s>`, concatenated and cut."""
    stream, ends = [], set()
    items = MMapIndexedDataset(str(prefix))
    has_eos = items[0].tolist()[-1:] == [vocabulary.eos]
    for i in range(len(items)):
        stream += [vocabulary.bos, *items[i].tolist(), *([] if has_eos else [vocabulary.eos])]
        ends.add(len(stream) - 1)
    targets = [vocabulary.pad if i in ends else stream[i + 1] for i in range(len(stream))]
    return [(stream[i : i + width], targets[i : i + width]) for i in range(0, len(stream), width)]


def check_rows(prefix, vocabulary, width, seed=0):
    rows = TextRows(str(prefix), vocabulary, width)
    wanted = expected(prefix, vocabulary, width)
    assert len(rows) == len(wanted)
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    for r in order:
        sample = rows[r]
        assert (sample.tokens.tolist(), sample.targets.tolist()) == wanted[r]
        assert sample.tokens.dtype == sample.targets.dtype == np.int64
        assert not sample.image_slots.any() and len(sample.image_slots) == len(sample.tokens)
        assert sample.images == ()
    return rows


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.one_of(st.integers(1, 6), st.integers(0, 70)), min_size=1, max_size=25),
    width=st.integers(1, 40),
    dtype=st.sampled_from([np.uint16, np.int32]),
    with_eos=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_equals_what_fairseq_reads(vocabulary, lengths, width, dtype, with_eos, seed):
    draw = random.Random(seed)
    documents = [[draw.randrange(4, len(vocabulary)) for _ in range(length)] for length in lengths]
    if with_eos:
        documents = [[*document, vocabulary.eos] for document in documents]
    elif not any(documents):
        documents.append([5])  # a file without a token is an error
    with tempfile.TemporaryDirectory() as folder:
        write(f"{folder}/text", documents, dtype)
        check_rows(f"{folder}/text", vocabulary, width, seed)


def test_files_of_fairseq_preprocess(vocabulary, tmp_path):
    draw = random.Random(3)
    lines = [tiny.sentence(draw, (1, 30)) for _ in range(50)] + ["", tiny.sentence(draw)]
    encoded = [" ".join(vocabulary.processor.encode(line, out_type=str)) for line in lines]
    (tmp_path / "raw.txt").write_text("\n".join(encoded) + "\n")
    pieces = "".join(f"{symbol} 1\n" for symbol in vocabulary.dictionary.symbols[4:-6])
    (tmp_path / "dict.txt").write_text(pieces)
    program = "import kosmos_plugin; kosmos_plugin.register(); from fairseq_cli.preprocess import cli_main; cli_main()"
    options = "--only-source --dataset-impl mmap --workers 1 --srcdict dict.txt --trainpref raw.txt --destdir out"
    done = subprocess.run(
        [sys.executable, "-c", program, *options.split()],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "out" / "dict.txt").is_file()  # beside the data, and the same as the vocabulary's
    rows = check_rows(tmp_path / "out" / "train", vocabulary, 32)
    text = vocabulary.decode(np.concatenate([rows[r].tokens for r in range(len(rows))]))
    # <s> and </s> leave no mark between documents, and a document begins with a piece that begins a word
    assert text.split() == " ".join(lines).split()


def test_pickles_for_worker_processes(vocabulary, tmp_path):
    write(tmp_path / "text", [[5, 6, 7, 8], [9]])
    rows = TextRows(str(tmp_path / "text"), vocabulary, 4)
    copy = pickle.loads(pickle.dumps(rows))
    assert len(pickle.dumps(rows)) < len(pickle.dumps(vocabulary)) + 1000  # no tokens are pickled
    assert [copy[r].tokens.tolist() for r in range(2)] == [rows[r].tokens.tolist() for r in range(2)]


def test_dictionary_beside_the_data(vocabulary, tmp_path):
    write(tmp_path / "text", [[5, 6]])
    symbols = vocabulary.dictionary.symbols[4:-6]
    (tmp_path / "dict.txt").write_text("".join(f"{symbol} 7\n" for symbol in symbols))  # counts do not matter
    TextRows(str(tmp_path / "text"), vocabulary, 4)
    symbols[10], symbols[11] = symbols[11], symbols[10]
    (tmp_path / "dict.txt").write_text("".join(f"{symbol} 7\n" for symbol in symbols))
    with pytest.raises(UserError, match=r"dict\.txt is not the vocabulary's dictionary"):
        TextRows(str(tmp_path / "text"), vocabulary, 4)


@pytest.mark.parametrize("content", ["no count\n", "twice 1\ntwice 1\n"])
def test_broken_dictionary_beside_the_data(vocabulary, tmp_path, content):
    write(tmp_path / "text", [[5, 6]])
    (tmp_path / "dict.txt").write_text(content)
    with pytest.raises(UserError, match=r"dict\.txt is not the vocabulary's dictionary"):
        TextRows(str(tmp_path / "text"), vocabulary, 4)


def test_tokens_outside_the_vocabulary(vocabulary, tmp_path):
    """The data was binarized with a larger dictionary, which is not beside it."""
    last = len(vocabulary) - 1
    write(tmp_path / "text", [[5, last, 6], [7, last + 1, 8]])
    rows = TextRows(str(tmp_path / "text"), vocabulary, 5)
    assert rows[0].tokens.tolist() == [vocabulary.bos, 5, last, 6, vocabulary.eos]
    with pytest.raises(UserError, match=f"has the token {last + 1}, and the vocabulary only {last + 1} tokens"):
        rows[1]


@pytest.mark.parametrize("missing", [".bin", ".idx"])
def test_missing_file(vocabulary, tmp_path, missing):
    write(tmp_path / "text", [[5, 6]])
    (tmp_path / f"text{missing}").unlink()
    with pytest.raises(UserError, match=f"binarized text .*text{missing} does not exist"):
        TextRows(str(tmp_path / "text"), vocabulary, 4)


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize("size", [0, 5, 9, 25, 26, 37, 61])
def test_index_cut_short(vocabulary, tmp_path, size):
    write(tmp_path / "text", [[5, 6, 7], [8], [9, 10]])
    assert (tmp_path / "text.idx").stat().st_size == 26 + 3 * 12
    cut(tmp_path / "text.idx", size)
    with pytest.raises(UserError, match=r"text\.idx"):
        TextRows(str(tmp_path / "text"), vocabulary, 4)


@pytest.mark.parametrize("size", [0, 1, 6, 11])
def test_data_cut_short(vocabulary, tmp_path, size):
    write(tmp_path / "text", [[5, 6, 7], [8], [9, 10]])
    assert (tmp_path / "text.bin").stat().st_size == 12
    cut(tmp_path / "text.bin", size)
    with pytest.raises(UserError, match=r"text\.bin is cut short"):
        TextRows(str(tmp_path / "text"), vocabulary, 4)


def test_not_mmap(vocabulary, tmp_path):
    (tmp_path / "text.bin").write_bytes(b"\0" * 100)
    (tmp_path / "text.idx").write_bytes(b"TNTIDX\0\0" + b"\0" * 100)  # fairseq's older "cached" and "lazy" formats
    with pytest.raises(UserError, match=r"text\.idx is not an index of fairseq's mmap format"):
        TextRows(str(tmp_path / "text"), vocabulary, 4)


@pytest.mark.parametrize("version, code", [(2, 8), (1, 6), (1, 200)])
def test_unknown_version_or_type(vocabulary, tmp_path, version, code):
    write(tmp_path / "text", [[5, 6, 7]])
    content = bytearray((tmp_path / "text.idx").read_bytes())
    content[9:18] = struct.pack("<QB", version, code)
    (tmp_path / "text.idx").write_bytes(content)
    with pytest.raises(UserError, match=f"version {version} and token type {code}"):
        TextRows(str(tmp_path / "text"), vocabulary, 4)


def test_no_tokens(vocabulary, tmp_path):
    write(tmp_path / "text", [[], []])
    with pytest.raises(UserError, match="is empty"):
        TextRows(str(tmp_path / "text"), vocabulary, 4)


def test_no_items(vocabulary, tmp_path):
    (tmp_path / "text.bin").write_bytes(b"")
    (tmp_path / "text.idx").write_bytes(struct.pack("<9sQBQ", b"MMIDIDX\0\0", 1, 8, 0))
    with pytest.raises(UserError, match="is empty"):
        TextRows(str(tmp_path / "text"), vocabulary, 4)
