"""Rows of binarized text against fairseq's own reading of the same files."""

import itertools
import pickle
import random
import struct
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from fairseq.data.indexed_dataset import MMapIndexedDataset, MMapIndexedDatasetBuilder
from hypothesis import given, settings
from hypothesis import strategies as st

from kosmos_plugin.data import row_starts
from kosmos_plugin.data.text import ContinuousRows, FullSentenceRows
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


def items_of(prefix, vocabulary):
    """The items as fairseq reads them, with `</s>` after each if the binarization left it out."""
    items = MMapIndexedDataset(str(prefix))
    items = [items[i].tolist() for i in range(len(items))]
    has_eos = next(item for item in items if item)[-1] == vocabulary.eos
    return items if has_eos else [[*item, vocabulary.eos] for item in items]


def continuous(prefix, vocabulary, width):
    """The (tokens, targets) of each row: the items, each after `<s>`, concatenated and cut."""
    stream, ends = [], set()
    for item in items_of(prefix, vocabulary):
        stream += [vocabulary.bos, *item]
        ends.add(len(stream) - 1)
    stream.append(vocabulary.pad)
    targets = [vocabulary.pad if i in ends else stream[i + 1] for i in range(len(stream) - 1)]
    return [(stream[:-1][i : i + width], targets[i : i + width]) for i in range(0, len(targets), width)]


def full_sentences(prefix, vocabulary, width):
    """The (tokens, targets) of each row, made line by line as KOSMOS-2's public code does, but with nothing dropped."""
    lines = [[]]
    for token in itertools.chain.from_iterable(items_of(prefix, vocabulary)):
        lines[-1].append(token)
        if token in (vocabulary.eos, vocabulary.line_end):
            lines.append([])
    rows = [[vocabulary.bos]]
    for line in lines[:-1]:
        if len(rows[-1]) + len(line) > width and len(rows[-1]) > 1:
            rows.append([vocabulary.bos])
        while len(rows[-1]) + len(line) > width:  # longer than a row
            room = width - len(rows[-1])
            rows[-1] += line[:room]
            line = line[room:]
            rows.append([vocabulary.bos])
        rows[-1] += line
    return [(row, [*row[1:], vocabulary.pad]) for row in rows]


EXPECTED = {ContinuousRows: continuous, FullSentenceRows: full_sentences}


def check_rows(kind, prefix, vocabulary, width, seed=0):
    rows = kind(str(prefix), vocabulary, width)
    wanted = EXPECTED[kind](prefix, vocabulary, width)
    assert len(rows) == len(wanted)
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    for r in order:
        sample = rows[r]
        assert (sample.tokens.tolist(), sample.targets.tolist()) == wanted[r]
        assert sample.tokens.dtype == sample.targets.dtype == np.int64
        assert not sample.image_slots.any() and len(sample.image_slots) == len(sample.tokens)
        assert sample.images == ()
    targets = [token for _, targets in wanted for token in targets if token != vocabulary.pad]
    assert targets == list(itertools.chain.from_iterable(items_of(prefix, vocabulary)))  # each once, in order
    assert rows.num_targets == len(targets)
    assert rows.num_tokens == sum(len(tokens) for tokens, _ in wanted)
    return rows


@settings(deadline=None, max_examples=100)
@given(
    lengths=st.lists(st.one_of(st.integers(1, 6), st.integers(0, 70)), min_size=1, max_size=25),
    width=st.integers(2, 40),
    line_ends=st.sampled_from([0, 0.05, 0.3]),
    dtype=st.sampled_from([np.uint16, np.int32]),
    with_eos=st.booleans(),
    block=st.sampled_from([1, 2, 7, 1 << 22]),
    seed=st.integers(0, 1000),
)
def test_rows_of_what_fairseq_reads(vocabulary, lengths, width, line_ends, dtype, with_eos, block, seed):
    draw = random.Random(seed)

    def token():
        return vocabulary.line_end if draw.random() < line_ends else draw.randrange(4, len(vocabulary))

    documents = [[token() for _ in range(length)] for length in lengths]
    if with_eos:
        documents = [[*document, vocabulary.eos] for document in documents]
    elif not any(documents):
        documents.append([5])  # a file without a token is an error
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(row_starts, "_BLOCK", block):
        write(f"{folder}/text", documents, dtype)
        check_rows(ContinuousRows, f"{folder}/text", vocabulary, width, seed)
        check_rows(FullSentenceRows, f"{folder}/text", vocabulary, width, seed)


def test_the_form_of_the_public_code(vocabulary, tmp_path):
    """A row is `<s>` and whole lines; a later document of the row has no `<s>`; a line that does not fit goes on."""
    line, eos, bos, pad = vocabulary.line_end, vocabulary.eos, vocabulary.bos, vocabulary.pad
    write(tmp_path / "text", [[5, 6, line, 7, eos], [8, 9, eos], [10, 11, 12, 13, 14, 15, 16, 17, 18, line, 19, eos]])
    rows = FullSentenceRows(str(tmp_path / "text"), vocabulary, 7)
    assert [rows[r].tokens.tolist() for r in range(len(rows))] == [
        [bos, 5, 6, line, 7, eos],  # the next line would need three more
        [bos, 8, 9, eos],
        [bos, 10, 11, 12, 13, 14, 15],  # a line longer than a row fills it
        [bos, 16, 17, 18, line, 19, eos],  # and goes on in the next
    ]
    assert rows[0].targets.tolist() == [5, 6, line, 7, eos, pad]


@pytest.mark.parametrize("kind", [FullSentenceRows, pytest.param(ContinuousRows, marks=pytest.mark.slow)])
def test_files_of_fairseq_preprocess(vocabulary, tmp_path, kind):
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
    rows = check_rows(kind, tmp_path / "out" / "train", vocabulary, 32)
    text = vocabulary.decode(np.concatenate([rows[r].tokens for r in range(len(rows))]))
    # <s> and </s> leave no mark between documents, and a document begins with a piece that begins a word
    assert text.split() == " ".join(lines).split()


def test_a_row_of_a_long_document_reads_only_its_tokens(vocabulary, tmp_path):
    document = np.random.default_rng(0).integers(4, len(vocabulary) - 1, 20_000_000)
    write(tmp_path / "text", [document])
    for kind in (FullSentenceRows, ContinuousRows):
        rows = kind(str(tmp_path / "text"), vocabulary, 2048)
        rows[0]
        tracemalloc.start()
        for r in range(0, len(rows), 100):
            assert len(rows[r]) == 2048
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
        tracemalloc.stop()


def test_pickles_for_worker_processes(vocabulary, tmp_path):
    write(tmp_path / "text", [[5, 6, 7, 8], [9]])
    rows = FullSentenceRows(str(tmp_path / "text"), vocabulary, 4)
    copy = pickle.loads(pickle.dumps(rows))
    assert len(pickle.dumps(rows)) < len(pickle.dumps(vocabulary)) + 1000  # no tokens are pickled
    assert [copy[r].tokens.tolist() for r in range(2)] == [rows[r].tokens.tolist() for r in range(2)]


def test_dictionary_beside_the_data(vocabulary, tmp_path):
    write(tmp_path / "text", [[5, 6]])
    symbols = vocabulary.dictionary.symbols[4:-6]
    (tmp_path / "dict.txt").write_text("".join(f"{symbol} 7\n" for symbol in symbols))  # counts do not matter
    FullSentenceRows(str(tmp_path / "text"), vocabulary, 4)
    symbols[10], symbols[11] = symbols[11], symbols[10]
    (tmp_path / "dict.txt").write_text("".join(f"{symbol} 7\n" for symbol in symbols))
    with pytest.raises(UserError, match=r"dict\.txt is not the vocabulary's dictionary"):
        FullSentenceRows(str(tmp_path / "text"), vocabulary, 4)


@pytest.mark.parametrize("content", ["no count\n", "twice 1\ntwice 1\n"])
def test_broken_dictionary_beside_the_data(vocabulary, tmp_path, content):
    write(tmp_path / "text", [[5, 6]])
    (tmp_path / "dict.txt").write_text(content)
    with pytest.raises(UserError, match=r"dict\.txt is not the vocabulary's dictionary"):
        FullSentenceRows(str(tmp_path / "text"), vocabulary, 4)


def test_tokens_outside_the_vocabulary(vocabulary, tmp_path):
    """The data was binarized with a larger dictionary, which is not beside it."""
    last = len(vocabulary) - 1
    write(tmp_path / "text", [[5, last, 6], [7, last + 1, 8]])
    message = f"has the token {last + 1}, and the vocabulary only {last + 1} tokens"
    rows = ContinuousRows(str(tmp_path / "text"), vocabulary, 5)
    assert rows[0].tokens.tolist() == [vocabulary.bos, 5, last, 6, vocabulary.eos]
    with pytest.raises(UserError, match=message):
        rows[1]
    with pytest.raises(UserError, match=message):
        FullSentenceRows(str(tmp_path / "text"), vocabulary, 5)


@pytest.mark.parametrize("missing", [".bin", ".idx"])
def test_missing_file(vocabulary, tmp_path, missing):
    write(tmp_path / "text", [[5, 6]])
    (tmp_path / f"text{missing}").unlink()
    with pytest.raises(UserError, match=f"binarized text .*text{missing} does not exist"):
        FullSentenceRows(str(tmp_path / "text"), vocabulary, 4)


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize("size", [0, 5, 9, 25, 26, 37, 61])
def test_index_cut_short(vocabulary, tmp_path, size):
    write(tmp_path / "text", [[5, 6, 7], [8], [9, 10]])
    assert (tmp_path / "text.idx").stat().st_size == 26 + 3 * 12
    cut(tmp_path / "text.idx", size)
    with pytest.raises(UserError, match=r"text\.idx"):
        FullSentenceRows(str(tmp_path / "text"), vocabulary, 4)


@pytest.mark.parametrize("size", [0, 1, 6, 11])
def test_data_cut_short(vocabulary, tmp_path, size):
    write(tmp_path / "text", [[5, 6, 7], [8], [9, 10]])
    assert (tmp_path / "text.bin").stat().st_size == 12
    cut(tmp_path / "text.bin", size)
    with pytest.raises(UserError, match=r"text\.bin is cut short"):
        FullSentenceRows(str(tmp_path / "text"), vocabulary, 4)


def test_not_mmap(vocabulary, tmp_path):
    (tmp_path / "text.bin").write_bytes(b"\0" * 100)
    (tmp_path / "text.idx").write_bytes(b"TNTIDX\0\0" + b"\0" * 100)  # fairseq's older "cached" and "lazy" formats
    with pytest.raises(UserError, match=r"text\.idx is not an index of fairseq's mmap format"):
        FullSentenceRows(str(tmp_path / "text"), vocabulary, 4)


@pytest.mark.parametrize("version, code", [(2, 8), (1, 6), (1, 200)])
def test_unknown_version_or_type(vocabulary, tmp_path, version, code):
    write(tmp_path / "text", [[5, 6, 7]])
    content = bytearray((tmp_path / "text.idx").read_bytes())
    content[9:18] = struct.pack("<QB", version, code)
    (tmp_path / "text.idx").write_bytes(content)
    with pytest.raises(UserError, match=f"version {version} and token type {code}"):
        FullSentenceRows(str(tmp_path / "text"), vocabulary, 4)


def test_no_tokens(vocabulary, tmp_path):
    write(tmp_path / "text", [[], []])
    with pytest.raises(UserError, match="is empty"):
        FullSentenceRows(str(tmp_path / "text"), vocabulary, 4)


def test_no_items(vocabulary, tmp_path):
    (tmp_path / "text.bin").write_bytes(b"")
    (tmp_path / "text.idx").write_bytes(struct.pack("<9sQBQ", b"MMIDIDX\0\0", 1, 8, 0))
    with pytest.raises(UserError, match="is empty"):
        FullSentenceRows(str(tmp_path / "text"), vocabulary, 4)
