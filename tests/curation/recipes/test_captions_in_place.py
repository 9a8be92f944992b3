"""kosmos-prepare captions on tars, which are used in place: their indexes, and a killed run."""

import json
import random
import tarfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kosmos_plugin.atomic import atomic_path
from kosmos_plugin.curation.recipes.captions_in_place import as_patterns
from kosmos_plugin.data.config import read_data_config
from kosmos_plugin.data.shard_index import INDEX_SUFFIX, selection_of
from tests import tiny
from tests.curation.command import digests, finish, kill_when
from tests.curation.recipes.caption_releases import PAIRS, documents_of, error_of, jpeg, run, write_tars


def test_tars_are_used_in_place(tmp_path, capsys):
    write_tars(tmp_path / "laion")
    before = digests(tmp_path / "laion")
    counts = run(tmp_path / "report", tmp_path / "laion", "--max-words", 6)
    after = digests(tmp_path / "laion")
    assert {name: after[name] for name in before} == before
    assert sorted(set(after) - set(before)) == [f"0000{shard}.tar{INDEX_SUFFIX}" for shard in (0, 1)]
    assert documents_of(tmp_path / "laion" / "00000.tar") + documents_of(tmp_path / "laion" / "00001.tar") == PAIRS
    assert counts["read"] == {"files": 2, "records": 7}
    assert counts["kept"] == {"records": 7, "images": 7}

    lines = (tmp_path / "report" / "corpus.yaml").read_text()
    assert lines in capsys.readouterr().out
    tiny.write_vocabulary(tmp_path / "vocabulary")
    stream = {"kind": "captions", "sequences_per_update": 1, "corpora": yaml.safe_load(lines)}
    data = tmp_path / "data.yaml"
    data.write_text(yaml.safe_dump({"vocabulary": "vocabulary", "streams": {"captions": stream}}))
    (corpus,) = read_data_config(data).streams[0].corpora
    assert corpus.train == tuple(str(tmp_path / "laion" / f"0000{shard}.tar") for shard in (0, 1))


def test_tars_with_other_names(tmp_path):
    write_tars(tmp_path / "laion")
    (tmp_path / "laion" / "00000.tar").rename(tmp_path / "shard-0")
    run(tmp_path / "report", tmp_path / "shard-0", "--format", "webdataset")
    assert documents_of(tmp_path / "shard-0") == PAIRS[:3]


def test_an_index_in_place_lists_what_passes(tmp_path):
    pairs = [(jpeg(1), "<PERSON> and a dog"), (jpeg(2), "a dog"), (b"", "nothing"), (jpeg(3, (9, 9)), "a speck")]
    members = [m for n, (image, caption) in enumerate(pairs) for m in tiny.caption_members(f"{n}", caption, image)]
    broken = [("5.txt", b"no image"), ("6.jpg", jpeg(4)), ("7.jpg", jpeg(5)), ("7.txt", b"caf\xe9")]
    tiny.write_tar(tmp_path / "0.tar", [*members, *broken])
    counts = run(tmp_path / "out", tmp_path / "0.tar", "--min-side", 16)
    assert documents_of(tmp_path / "0.tar") == [pairs[1]]
    assert counts["dropped"] == {
        "caption with a tag such as <PERSON>": 1,
        "image of 0 bytes": 1,
        "image side shorter than 16 pixels": 1,
        "no image": 1,
        "no caption": 1,
        "no text, or not valid UTF-8": 1,
    }
    assert json.loads(selection_of(tmp_path / "0.tar"))["min_side"] == 16


def test_broken_tars_are_listed_and_the_others_indexed(tmp_path, capsys):
    write_tars(tmp_path / "laion")
    whole = (tmp_path / "laion" / "00001.tar").read_bytes()
    (tmp_path / "laion" / "00002.tar").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "laion" / "00003.tar").write_bytes(b"<html>not found</html>")
    counts = run(tmp_path / "out", tmp_path / "laion")
    assert counts["left out"] == {"tars that are cut short or not tars: see bad.jsonl": 2}
    assert counts["kept"]["records"] == 7
    assert counts["read"] == {"files": 4, "records": 7}
    named = [json.loads(line) for line in (tmp_path / "out" / "bad.jsonl").read_text().splitlines()]
    assert [Path(line["tar"]).name for line in named] == ["00002.tar", "00003.tar"]
    assert "cut short" in named[0]["message"]
    assert not (tmp_path / "laion" / f"00002.tar{INDEX_SUFFIX}").exists()
    assert yaml.safe_load((tmp_path / "out" / "corpus.yaml").read_text())[0]["train"] == [
        str(tmp_path / "laion" / "{00000..00001}.tar")
    ]
    assert "bad.jsonl" in capsys.readouterr().out


def test_paths_in_keys_are_not_followed(tmp_path):
    keys = ["../../escaped", "/etc/absolute", "a/../../b", "new\nline"]
    pairs = [(jpeg(n), f"caption {n}") for n in range(len(keys))]
    members = [m for key, (i, caption) in zip(keys, pairs, strict=True) for m in tiny.caption_members(key, caption, i)]
    tiny.write_tar(tmp_path / "in" / "0.tar", members)
    run(tmp_path / "out", tmp_path / "in")
    assert documents_of(tmp_path / "in" / "0.tar") == pairs
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_a_second_selection_replaces_the_first_which_then_reports_it(tmp_path):
    write_tars(tmp_path / "laion")
    tars = tmp_path / "laion"
    run(tmp_path / "1", tars)
    run(tmp_path / "2", tars, "--max-characters", 10**6)
    assert "another run has filtered the tar since" in error_of(tmp_path / "1", tars)
    run(tmp_path / "2", tars, "--max-characters", 10**6)


@given(
    st.lists(
        st.tuples(st.sampled_from(["/data/a-", "/data/{b,c}/", "/x\\"]), st.integers(0, 30), st.integers(1, 3)),
        max_size=20,
    )
)
def test_patterns_expand_to_the_paths(parts):
    import braceexpand

    paths = [f"{before}{number:0{width}d}.tar" for before, number, width in parts]
    assert [path for pattern in as_patterns(paths) for path in braceexpand.braceexpand(pattern)] == paths
    assert list(as_patterns([f"a/{n:05d}.tar" for n in range(12, 345)])) == ["a/{00012..00344}.tar"]


def test_an_index_that_cannot_be_written_is_an_error(tmp_path):
    write_tars(tmp_path / "tars")
    (tmp_path / "tars" / f"00000.tar{INDEX_SUFFIX}").mkdir()
    assert "Cannot write the index" in error_of(tmp_path / "out", tmp_path / "tars")


# ---- A killed run ----


@pytest.fixture(scope="module")
def many_tars(tmp_path_factory) -> Path:
    """Eight tars, each of which takes a moment; one is broken."""
    folder = tmp_path_factory.mktemp("many") / "tars"
    rng = random.Random(0)
    for shard in range(8):
        members = []
        for number in range(150):
            caption = f"{rng.choice(['<PERSON> and ', '', ''])}{tiny.sentence(rng)}"
            members += tiny.caption_members(f"{shard:05d}{number:04d}", caption, tiny.png(rng, 64))
        tiny.write_tar(folder / f"{shard:05d}.tar", members)
    with tarfile.open(folder / "00005.tar") as archive:
        whole = archive.fileobj.read()
    (folder / "00005.tar").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.mark.slow
def test_killed_in_place_and_resumed(many_tars, tmp_path):
    options = [many_tars / "*.tar", "--decode", "--min-words", 4]
    run(tmp_path / "a" / "out", *options)
    uninterrupted = digests(many_tars)
    indexes = [Path(f"{tar}{INDEX_SUFFIX}") for tar in sorted(many_tars.glob("*.tar"))]
    assert [index.is_file() for index in indexes] == [number != 5 for number in range(8)]
    for index in indexes:
        index.unlink(missing_ok=True)

    out = tmp_path / "b" / "out"
    finished = out / "work" / "1-filter-shards" / "completions"
    kill_when(lambda: finished.is_dir() and any(finished.iterdir()), "captions", *options, "--out", out, "--workers", 1)
    assert not (out / "report.json").exists()
    done = {indexes[int(mark.name)]: indexes[int(mark.name)].stat().st_mtime_ns for mark in finished.iterdir()}
    assert 1 <= len(done) < 7
    finish("captions", *options, "--out", out, "--workers", 2)
    assert digests(many_tars) == uninterrupted
    assert digests(out) == digests(tmp_path / "a" / "out")
    assert {index: index.stat().st_mtime_ns for index in done} == done


def test_what_a_killed_run_left_beside_a_tar_is_removed(tmp_path):
    write_tars(tmp_path / "tars")
    with atomic_path(tmp_path / "tars" / f"00000.tar{INDEX_SUFFIX}") as leftover:
        leftover.touch()
    leftover.write_bytes(b"half an index")
    run(tmp_path / "out", tmp_path / "tars")
    assert not leftover.exists()
