"""Record lengths: they are those of the samples, they are made again when they must be, and damage is found."""

import io
import os
import pickle
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import sentencepiece
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kosmos_plugin.data import record_lengths
from kosmos_plugin.data.documents import BrokenRecord
from kosmos_plugin.data.mixture import FormattedDocuments
from kosmos_plugin.data.record_lengths import LengthsFile, RecordLengths
from kosmos_plugin.data.samples import SampleBuilder
from kosmos_plugin.data.shards import ShardedDocuments, reading_name, record_reader
from kosmos_plugin.errors import UserError
from kosmos_plugin.fairseq_modules.open_corpora import open_corpora
from kosmos_plugin.vocabulary import Vocabulary
from tests import tiny
from tests.data.updates import assert_same, loaded

IMAGE = tiny.png(random.Random(0))


@pytest.fixture(scope="module")
def vocabulary(data):
    return Vocabulary.load(data.parent / "vocabulary")


def corpus(tars, vocabulary, kind="captions", caption_from="txt", image_tokens=4, max_tokens=64) -> FormattedDocuments:
    documents = ShardedDocuments(map(str, tars), record_reader(kind, caption_from))
    builder = SampleBuilder(vocabulary, image_tokens, max_tokens)
    return FormattedDocuments(documents, reading_name(kind, caption_from), builder)


def lengths_by_reading(samples: FormattedDocuments) -> list:
    lengths = []
    for i in range(len(samples)):
        try:
            lengths.append([len(samples[i]), len(samples[i].images)])
        except BrokenRecord:
            lengths.append([0, 0])
    return lengths


PAGES = [
    [{"text": "a dog"}],
    [{"image": 0}, {"text": "a dog"}, {"image": 1}],
    [{"image": 0}],  # no text to learn from
    [{"text": "a dog", "in_loss": False}, {"text": "a cat"}],
    [{"text": "a dog", "in_loss": False}],
    [{"text": "dog " * 200}],
    [{"text": "all of it"}, *[{"image": 0}] * 11],
    [{"image": 7}, {"text": "missing"}],
    [{"text": "\ud83d half"}],
    [{"text": ""}, {"text": "a"}],
    [{"text": 7}],
]


@pytest.mark.parametrize("image_tokens, max_tokens", [(4, 64), (1, 64), (64, 2048), (4, 20), (30, 64)])
def test_they_are_those_of_the_samples(tmp_path, vocabulary, image_tokens, max_tokens):
    """Of any record, usable or not, for any --image-tokens and --tokens-per-sample, from one file."""
    pages = [m for i, page in enumerate(PAGES) for m in tiny.interleaved_members(f"{i}", page, [IMAGE, IMAGE])]
    tiny.write_tar(tmp_path / "pages.tar", pages)
    captions = [m for i in range(150) for m in tiny.caption_members(f"{i}", "dog " * (i % 21), IMAGE)]
    tiny.write_tar(
        tmp_path / "captions.tar", [*captions, ("no.txt", b"image"), ("bad.txt", b"\xff"), ("bad.png", IMAGE)]
    )
    for kind, numbers in (("interleaved", len(PAGES)), ("captions", 152)):
        tar = tmp_path / ("pages.tar" if kind == "interleaved" else "captions.tar")
        before = corpus([tar], vocabulary, kind, image_tokens=image_tokens, max_tokens=max_tokens)
        right = lengths_by_reading(before)
        assert before.record_lengths is None and before.lengths(np.arange(numbers)).tolist() == right
        before.lengths_file.open()
        after = corpus([tar], vocabulary, kind, image_tokens=image_tokens, max_tokens=max_tokens)
        assert after.record_lengths is not None
        order = np.random.default_rng(0).permutation(numbers)
        assert after.lengths(order).tolist() == [right[i] for i in order]
        assert after.lengths(np.empty(0, np.int64)).shape == (0, 2)
        assert pickle.loads(pickle.dumps(after)).lengths(order).tolist() == [right[i] for i in order]
    assert 0 < sum(length == [0, 0] for length in right) < len(right)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.tuples(st.integers(-1, 2**22 + 3), st.integers(0, 1030)), max_size=90), min_size=1, max_size=4)
)
def test_any_numbers(tmp_path_factory, counts):
    """Tars of any size; numbers that do not fit make a record unusable."""
    folder = tmp_path_factory.mktemp("lengths")
    for number, lengths in enumerate(counts):
        tiny.write_tar(folder / f"{number}.tar", [m for i in range(len(lengths)) for m in [(f"{i}.txt", b"")]])
    tars = [folder / f"{number}.tar" for number in range(len(counts))]
    file = LengthsFile(ShardedDocuments(map(str, tars), record_reader("captions")), "captions", _vocabulary())
    packed = (np.array([record_lengths._packed(*pair) for pair in lengths], np.uint32) for lengths in counts)
    file.write(file.file.beside, packed)
    flat = [pair for lengths in counts for pair in lengths]
    right = [list(pair) if 0 <= pair[0] < 2**22 and pair[1] < 2**10 - 1 else [-1, 0] for pair in flat]
    found = file.find()
    assert found is not None and found.of(np.arange(len(flat))).tolist() == right


def _vocabulary():
    return SimpleNamespace(encoding_fingerprint="12345678")


def made(folder, vocabulary, captions=("a dog", "a cat", ""), **options) -> FormattedDocuments:
    members = [m for i, caption in enumerate(captions) for m in tiny.caption_members(f"{i}", caption, IMAGE)]
    tiny.write_tar(folder / "0.tar", members)
    samples = corpus([folder / "0.tar"], vocabulary, **options)
    samples.lengths_file.open()
    return corpus([folder / "0.tar"], vocabulary, **options)


def test_one_file_for_each_way_of_reading(tmp_path, vocabulary, data):
    """Vocabularies that encode text in other ways have other files, also if their tokens are the same."""
    made(tmp_path, vocabulary)
    assert corpus([tmp_path / "0.tar"], vocabulary).record_lengths is not None
    assert corpus([tmp_path / "0.tar"], vocabulary, image_tokens=9, max_tokens=100).record_lengths is not None
    assert corpus([tmp_path / "0.tar"], vocabulary, caption_from="json").record_lengths is None
    assert corpus([tmp_path / "0.tar"], vocabulary, "interleaved").record_lengths is None
    other = Vocabulary.load(data.parent / "vocabulary")
    other.newlines = not other.newlines
    assert other.fingerprint == vocabulary.fingerprint
    assert corpus([tmp_path / "0.tar"], other).record_lengths is None
    model = io.BytesIO()
    texts = iter([tiny.sentence(random.Random(i), (5, 9)) for i in range(500)])
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=texts, model_writer=model, vocab_size=200, hard_vocab_limit=False, minloglevel=2
    )
    other = Vocabulary.load(data.parent / "vocabulary")
    other.processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    assert corpus([tmp_path / "0.tar"], other).record_lengths is None


def test_a_rewritten_tar_is_counted_again(tmp_path, vocabulary):
    """Also if the new one has the same size and its records are in the same places."""
    samples = made(tmp_path, vocabulary, ["a dog runs", "a b c d e f"])
    before, size = samples.lengths(np.arange(2)).tolist(), os.path.getsize(tmp_path / "0.tar")
    members = tiny.caption_members("0", "a b c d e ", IMAGE) + tiny.caption_members("1", "a dog sees ", IMAGE)
    tiny.write_tar(tmp_path / "0.tar", members)
    later = os.stat(samples.documents.index.path).st_mtime + 10
    os.utime(tmp_path / "0.tar", (later, later))
    assert os.path.getsize(tmp_path / "0.tar") == size
    again = corpus([tmp_path / "0.tar"], vocabulary)
    assert again.record_lengths is None
    again.lengths_file.open()
    after = corpus([tmp_path / "0.tar"], vocabulary)
    assert after.lengths(np.arange(2)).tolist() == lengths_by_reading(after) != before


def test_a_copied_folder_needs_no_counting(tmp_path, vocabulary):
    """Copies have new times, in any order."""
    made(tmp_path / "a", vocabulary)
    (tmp_path / "b").mkdir()
    for path in sorted((tmp_path / "a").iterdir()):
        (tmp_path / "b" / path.name).write_bytes(path.read_bytes())
    later = os.stat(tmp_path / "b" / "0.tar").st_mtime + 10
    (index,) = (tmp_path / "b").glob("*.kosmos_index")
    os.utime(index, (later, later))
    assert corpus([tmp_path / "b" / "0.tar"], vocabulary).record_lengths is not None


def test_every_single_bit_is_found(tmp_path, vocabulary):
    """The file is made anew, or the error names it; other lengths are never used."""
    samples = made(tmp_path, vocabulary, ["dog " * (i % 9) for i in range(100)])
    right = samples.record_lengths.of(np.arange(100)).tolist()
    path = samples.record_lengths.path
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        found = samples.lengths_file.find()
        if bit < 8 * record_lengths._HEADER.size:
            assert found is None
            continue
        number = 0 if bit < 8 * (record_lengths._HEADER.size + 260) else 64
        with pytest.raises(UserError, match=rf"{path.name} are damaged: remove the file"):
            found.of(np.array([number]))
        assert found.of(np.array([64 - number])).tolist() == [right[64 - number]]
    for damaged in (b"", whole[:30], whole[:-1], whole + b"\0", whole[:64]):
        path.write_bytes(damaged)
        assert samples.lengths_file.find() is None
        with pytest.raises(ValueError):
            RecordLengths(path, samples.documents.index)
    assert samples.lengths_file.open().of(np.arange(100)).shape == (100, 2)
    assert path.read_bytes() == whole


def test_blocks_are_not_confused(tmp_path, vocabulary):
    samples = made(tmp_path, vocabulary, ["dog " * (i % 9) for i in range(128)])
    path = samples.record_lengths.path
    whole = path.read_bytes()
    path.write_bytes(whole[:64] + whole[324:] + whole[64:324])
    for number in (0, 64):
        with pytest.raises(UserError, match="damaged"):
            samples.lengths_file.find().of(np.array([number]))


# ---- in a training


def training(data, tmp_path, members):
    """A data YAML of only captions, ten an update; its lengths are counted."""
    tiny.write_tar(tmp_path / "captions.tar", members)
    corpora = [{"name": "some", "train": "captions.tar"}]
    streams = {"captions": {"kind": "captions", "sequences_per_update": 10, "corpora": corpora}}
    path = tmp_path / "data.yaml"
    path.write_text(yaml.safe_dump({"vocabulary": str(data.parent / "vocabulary"), "streams": streams}))
    open_corpora(SimpleNamespace(data=str(path), vocabulary=None, tokens_per_sample=64, image_tokens=4))
    return path


def test_batches_are_the_same_with_and_without(data, tmp_path):
    """Of all three streams: the file changes nothing but the time."""
    folder = tmp_path / "data"
    path = tiny.write_data(folder)
    task, dataset = loaded(path)
    without = [task.get_batch_iterator(dataset).micro_batches[i] for i in range(6)]
    open_corpora(SimpleNamespace(data=str(path), vocabulary=None, tokens_per_sample=64, image_tokens=4))
    task, dataset = loaded(path)
    assert all(stream.corpora[0].record_lengths is not None for stream in dataset.streams[1:])
    for i, batch in enumerate(without):
        assert_same(task.get_batch_iterator(dataset).micro_batches[i], batch)


def test_planning_reads_no_document(data, tmp_path):
    """Nor is a tar opened: here they are gone."""
    path = training(data, tmp_path, [m for i in range(20) for m in tiny.caption_members(f"{i}", "a dog", IMAGE)])
    _, dataset = loaded(path)
    right = [len(dataset.plan(update).rows) for update in range(4)]
    (tmp_path / "captions.tar").unlink()
    assert [len(dataset.plan(update).rows) for update in range(4)] == right
    with pytest.raises(UserError, match=r"captions\.tar has been removed"):
        dataset.rows(0)


@pytest.mark.parametrize("ranks, update_freq", [(1, 1), (2, 1), (1, 2)])
def test_each_skipped_record_is_read_by_one_rank(data, tmp_path, ranks, update_freq, caplog):
    """Of those that are known to be unusable all ranks know the number; a broken image only the one that decodes it."""
    members = []
    for i in range(20):
        image = b"garbage" if i == 7 else IMAGE
        members += tiny.caption_members(f"{i:02d}", "" if i % 5 == 0 else f"dog {i}", image)
    path = training(data, tmp_path, members)
    skipped, images = 0, 0
    for rank in range(ranks):
        task, dataset = loaded(path, update_freq, max_skipped_rate=1.0)
        batches = task.get_batch_iterator(dataset, num_shards=ranks, shard_id=rank)
        images += sum(len(batch["images"]) for batch in batches.next_epoch_itr())
        skipped += task.skips.skipped
    assert (skipped, images) == (4 * ranks + 1, 15)
    assert caplog.text.count("empty text") == 4 and caplog.text.count("cannot be decoded") == 1


def damaged_since(path: Path, member: bytes, by: bytes) -> None:
    """Change bytes of a tar, and nothing else of it."""
    time = os.stat(path).st_mtime_ns
    data = path.read_bytes()
    assert data.count(member) == 1 and len(member) == len(by)
    path.write_bytes(data.replace(member, by))
    os.utime(path, ns=(time, time))


@pytest.mark.parametrize("by", [b"a cat under    ", b"               ", b"\xff" * 15, b"a a a a a a a a"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_record_that_is_another_one_when_it_is_read(data, tmp_path, by, workers, caplog):
    """It is left out of its row and counted, and every other sample stays where it is."""
    members = [m for i in range(10) for m in tiny.caption_members(f"{i}", f"dog {i} sees a car", IMAGE)]
    path = training(data, tmp_path, members)
    _, dataset = loaded(path)
    right = [[sample.id for sample in row.samples] for row in dataset.rows(0)]
    damaged_since(tmp_path / "captions.tar", b"dog 4 sees a car"[:15], by)
    task, dataset = loaded(path, max_skipped_rate=1.0)
    assert task.skips.skipped == 0
    (batch,) = task.get_batch_iterator(dataset, num_workers=workers).next_epoch_itr()
    left = [[sample.id for sample in row.samples] for row in dataset.rows(0, count_skips=False)]
    assert left == [[name for name in row if name != "captions.tar/4"] for row in right]
    assert len(batch["images"]) == 9 and task.skips.skipped == 1
