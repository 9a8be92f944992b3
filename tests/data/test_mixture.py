"""The samples of an update: weights, epochs, the valid split, and broken records."""

import itertools
import random
from collections import Counter

import numpy as np
import pytest
import yaml

from kosmos_plugin.data.config import read_data_config
from kosmos_plugin.data.mixture import Mixture
from kosmos_plugin.data.skips import SkipCounter
from kosmos_plugin.errors import UserError
from tests import tiny


def mixture(path, split="train", **options) -> Mixture:
    task = tiny.task(path, **options)
    task.load_dataset(split)
    return task.dataset(split)


def edited(data, tmp_path, edit):
    """A changed YAML over the same files."""
    config = yaml.safe_load(data.read_text())
    config["vocabulary"] = str(data.parent / config["vocabulary"])
    for stream in config["streams"].values():
        for corpus in stream["corpora"]:
            corpus |= {split: str(data.parent / corpus[split]) for split in ("train", "valid")}
    edit(config["streams"])
    path = tmp_path / "data.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def ids(rows):
    """The (stream, id) of each sample: the same key may be in the tars of two streams."""
    return [(row.stream, sample.id) for row in rows for sample in row.samples]


def drawn(stream, update):
    """The samples of an update, each as (corpus, number within the corpus)."""
    return [tuple(draw) for draw in stream.draws(update).tolist()]


def test_an_update_takes_what_the_yaml_says(data):
    train = mixture(data)
    for update in range(20):
        rows = train.rows(update)
        counts = Counter(row.stream for row in rows for _ in row.samples)
        assert counts == {0: 2, 1: 6, 2: 4}
        assert [row.stream for row in rows] == sorted(row.stream for row in rows)
        assert [row.cross_document_attention for row in rows] == [row.stream == 0 for row in rows]
        assert all(row.num_tokens <= tiny.TOKENS_PER_SAMPLE for row in rows)


def test_a_pure_function_of_data_seed_and_update(data):
    first, second = mixture(data), mixture(data)
    for update in (5, 0, 199, 3, 5, 10**9):
        assert ids(first.rows(update)) == ids(second.rows(update))
    assert ids(first.rows(0)) != ids(first.rows(1))
    assert ids(mixture(data, seed=2).rows(0)) != ids(first.rows(0))


def test_every_document_once_an_epoch(data):
    train = mixture(data)
    for stream in train.streams:
        size = int(stream.sizes[0])
        draws = itertools.chain.from_iterable(drawn(stream, update) for update in itertools.count())
        epochs = [list(itertools.islice(draws, size)) for _ in range(3)]
        for epoch in epochs:
            assert sorted(epoch) == [(0, document) for document in range(size)]
        assert epochs[0] != epochs[1] != epochs[2]


def test_an_epoch_is_one_of_the_longest_stream(data):
    train = mixture(data)
    lengths = [-(-int(stream.sizes.sum()) // stream.config.sequences_per_update) for stream in train.streams]
    assert len(train) == max(lengths)
    seen = {name for update in range(len(train)) for name in ids(train.rows(update))}
    assert len(seen) == sum(int(stream.sizes.sum()) for stream in train.streams)  # every document of every stream


def test_streams_over_one_corpus_have_different_orders(data, tmp_path):
    def twice(streams):
        streams["again"] = dict(streams["captions"])

    train = mixture(edited(data, tmp_path, twice))
    first, again = train.streams[1], train.streams[3]
    assert all(drawn(first, update) != drawn(again, update) for update in range(6))


@pytest.mark.parametrize("weights", [(0.7, 0.3), (1, 9), (None, None)])
def test_weights_of_corpora(data, tmp_path, weights):
    def split_captions(streams):
        folder = data.parent / "captions"
        streams["captions"]["sequences_per_update"] = 600
        streams["captions"]["corpora"] = [
            {"name": "a", "train": str(folder / "train-0.tar"), "weight": weights[0]},
            {"name": "b", "train": [str(folder / "train-*.tar")], "weight": weights[1]},
        ]
        if weights[0] is None:
            for corpus in streams["captions"]["corpora"]:
                del corpus["weight"]

    stream = mixture(edited(data, tmp_path, split_captions)).streams[1]
    assert stream.sizes.tolist() == [20, 40]
    draws = [draw for update in range(20) for draw in drawn(stream, update)]  # 12,000 draws
    share = 20 / 60 if weights[0] is None else weights[0] / sum(weights)
    assert sum(corpus == 0 for corpus, _ in draws[:10_000]) == round(10_000 * share)
    for begin in range(0, 11_000, 500):
        window = sum(corpus == 0 for corpus, _ in draws[begin : begin + 1000])
        assert abs(window - 1000 * share) < 6 * np.sqrt(1000 * share * (1 - share))
    epochs = stream.epochs(20)
    for corpus, size in ((0, 20), (1, 40)):
        count = sum(c == corpus for c, _ in draws)
        assert abs(epochs["ab"[corpus]] - count / size) < 0.01 * count / size
        own = [document for c, document in draws if c == corpus]
        for begin in range(0, len(own) - size, size):
            assert sorted(own[begin : begin + size]) == list(range(size))


def test_valid_once_and_in_order(data):
    valid = mixture(data, "valid")
    for stream in valid.streams:
        draws = [draw for update in range(len(valid)) for draw in drawn(stream, update)]
        assert draws == [(0, document) for document in range(int(stream.sizes[0]))]
    names = Counter(name for update in range(len(valid)) for name in ids(valid.rows(update)))
    assert set(names.values()) == {1}
    assert len(names) == sum(int(stream.sizes.sum()) for stream in valid.streams)
    assert ids(valid.rows(len(valid))) == []


def test_stream_without_a_valid_split(data, tmp_path):
    def only_text(streams):
        for name in ("captions", "interleaved"):
            del streams[name]["corpora"][0]["valid"]

    path = edited(data, tmp_path, only_text)
    assert {row.stream for row in mixture(path, "valid").rows(0)} == {0}
    assert {row.stream for row in mixture(path).rows(0)} == {0, 1, 2}


def test_no_valid_split_at_all(data, tmp_path):
    def no_valid(streams):
        for stream in streams.values():
            del stream["corpora"][0]["valid"]

    with pytest.raises(UserError, match=r"data\.yaml: no corpus has a 'valid' split"):
        mixture(edited(data, tmp_path, no_valid), "valid")


def test_captions_from_json(data, tmp_path):
    """`caption_from` of a corpus says which file of a record has the caption."""
    members = [("0.png", tiny.png(random.Random(0))), ("0.txt", b""), ("0.json", b'{"caption": "a dog"}')]
    tiny.write_tar(tmp_path / "0.tar", members)

    def edit(streams):
        del streams["text"], streams["interleaved"]
        (stream,) = streams.values()
        stream |= {"sequences_per_update": 1}
        stream["corpora"] = [{"name": "a", "train": str(tmp_path / "0.tar"), "caption_from": "json"}]

    path = edited(data, tmp_path, edit)
    (row,) = mixture(path).rows(0)
    (sample,) = row.samples
    vocabulary = tiny.task(path).vocabulary
    assert vocabulary.encode("a dog") == [
        token for token in sample.tokens.tolist() if token in vocabulary.encode("a dog")
    ]


def test_empty_corpus(data, tmp_path):
    tiny.write_tar(tmp_path / "empty.tar", [])

    def empty(streams):
        streams["captions"]["corpora"][0]["train"] = str(tmp_path / "empty.tar")

    with pytest.raises(UserError, match="The corpus noise of stream captions is empty"):
        mixture(edited(data, tmp_path, empty))


def test_broken_records_are_skipped_and_counted(data, tmp_path, caplog):
    long, image = "dog " * 200, tiny.png(random.Random(0))
    members = [
        *tiny.caption_members("whole", "a dog", image),
        *tiny.caption_members("empty", " ", image),
        *tiny.caption_members("long", long, image),
        ("imageless.txt", b"a cat"),
    ]
    tiny.write_tar(tmp_path / "bad.tar", members)
    segments = [{"text": "all of it"}, *[{"image": 0}] * 11]
    pages = tiny.interleaved_members("crowded", segments, [image])
    tiny.write_tar(tmp_path / "pages.tar", [*pages, ("whole.json", b'{"segments": [{"text": "a dog"}]}')])

    def bad(streams):
        streams["captions"] |= {"sequences_per_update": 4}
        streams["captions"]["corpora"][0]["train"] = str(tmp_path / "bad.tar")
        streams["interleaved"] |= {"sequences_per_update": 2}
        streams["interleaved"]["corpora"][0]["train"] = str(tmp_path / "pages.tar")

    path = edited(data, tmp_path, bad)
    skips = SkipCounter(0.05)
    train = Mixture(read_data_config(path), "train", tiny.task(path).sample_builder, 1, skips)
    rows = train.rows(0)
    assert sorted(name for _, name in ids(rows) if "tar" in name) == ["bad.tar/whole", "pages.tar/whole"]
    assert skips.skipped == 4
    logged = "\n".join(record.getMessage() for record in caplog.records)
    for words in (
        "bad.tar/empty: empty text",
        "bad.tar/imageless: no image",
        "bad.tar/long: longer than a row (2",
        "do not fit in a row of 64",
        "pages.tar/crowded: longer than a row (",
        "11 images of 6",
    ):
        assert words in logged
    assert logged.count("skipped noise/") == 3 and logged.count("skipped pages/") == 1
    assert ids(train.rows(0, count_skips=False)) == ids(rows)
    assert skips.skipped == 4
