"""kosmos-prepare text: dropped documents and their reasons, bad input, duplicates, and the files that fairseq reads."""

import bz2
import errno
import gzip
import json
import lzma
import random
from decimal import Decimal
from pathlib import Path

import pyarrow
import pytest
import zstandard
from fairseq.data import indexed_dataset
from pyarrow import parquet

from kosmos_plugin.curation.pipeline.inputs import InputFile
from kosmos_plugin.curation.readers.text_files import ReadTexts
from kosmos_plugin.data.text import FullSentenceRows
from kosmos_plugin.errors import UserError
from kosmos_plugin.vocabulary import Vocabulary, write_encoding
from tests import tiny
from tests.curation.command import prepare


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("vocabulary") / "vocabulary"
    tiny.write_vocabulary(folder)
    return folder


def run(vocabulary: Path, out: Path, *arguments: str) -> dict:
    """Run the command without held-out documents; return its counts."""
    words = ["text", *arguments, "--out", str(out), "--vocabulary", str(vocabulary), "--workers", "1"]
    prepare([*words, *([] if "--valid-share" in arguments else ["--valid-share", "0"])])
    return json.loads((out / "report.json").read_text("utf-8"))["counts"]


def json_lines(texts, **more) -> bytes:
    return b"".join(json.dumps({"text": text, **more}).encode() + b"\n" for text in texts)


def sentences(number: int, seed: int = 0) -> list[str]:
    """Distinct sentences, long enough for an n-gram of evaluation data."""
    rng = random.Random(seed)
    return [tiny.sentence(rng, (30, 40)) for _ in range(number)]


def documents(out: Path, vocabulary: Path, name: str = "train") -> list[str]:
    """The documents in the binarized files, read by fairseq itself, in the order of the parts."""
    loaded = Vocabulary.load(vocabulary)
    texts = []
    for index in sorted(out.glob(f"{name}*.idx"), key=lambda path: int(path.stem.removeprefix(name) or 0)):
        dataset = indexed_dataset.make_dataset(str(index.with_suffix("")), "mmap")
        assert all(int(item[-1]) == loaded.eos for item in dataset)
        texts += [loaded.decode(item) for item in dataset]
    return texts


WRITERS = {
    "jsonl": lambda path, texts: path.write_bytes(json_lines(texts)),
    "jsonl.gz": lambda path, texts: path.write_bytes(gzip.compress(json_lines(texts))),
    "jsonl.zst": lambda path, texts: path.write_bytes(zstandard.compress(json_lines(texts))),
    "jsonl.bz2": lambda path, texts: path.write_bytes(bz2.compress(json_lines(texts))),
    "jsonl.xz": lambda path, texts: path.write_bytes(lzma.compress(json_lines(texts))),
    "parquet": lambda path, texts: parquet.write_table(pyarrow.table({"text": texts, "url": ["u"] * len(texts)}), path),
    "txt": lambda path, texts: path.write_text("\n\n".join(texts), encoding="utf-8"),
}


@pytest.mark.parametrize("ending", WRITERS)
def test_every_format_gives_the_same_documents(tmp_path, vocabulary, ending):
    texts = sentences(5)
    WRITERS[ending](tmp_path / f"part.{ending}", texts)
    counts = run(vocabulary, tmp_path / "out", str(tmp_path / f"part.{ending}"), "--separator", "")
    assert documents(tmp_path / "out", vocabulary) == texts
    assert counts["read"] == {"files": 1, "documents": 5}
    assert counts["kept"]["train: documents"] == 5


def test_all_frames_of_a_compressed_file_are_read(tmp_path, vocabulary):
    """Files may be compressed in pieces: by pzstd, by pigz, or by appending."""
    texts = sentences(4)
    for ending, compress in {"zst": zstandard.compress, "gz": gzip.compress}.items():
        frames = b"".join(compress(json_lines(texts[i : i + 2])) for i in (0, 2))
        (tmp_path / f"frames.jsonl.{ending}").write_bytes(frames)
        run(vocabulary, tmp_path / ending, str(tmp_path / f"frames.jsonl.{ending}"))
        assert documents(tmp_path / ending, vocabulary) == texts


def test_a_plain_file_is_one_document(tmp_path, vocabulary):
    texts = sentences(2)
    (tmp_path / "one.txt").write_text("\n\n".join(texts))
    run(vocabulary, tmp_path / "out", str(tmp_path / "one.txt"))
    assert documents(tmp_path / "out", vocabulary) == [" ".join(texts)]


def test_training_reads_all_parts(tmp_path, vocabulary):
    for part in range(3):
        (tmp_path / f"{part}.jsonl").write_bytes(json_lines(sentences(4, part)))
    counts = run(vocabulary, tmp_path / "out", str(tmp_path / "{0..2}.jsonl"))
    loaded = Vocabulary.load(vocabulary)
    names = sorted(path.stem for path in (tmp_path / "out").glob("train*.idx"))
    assert names == ["train", "train1", "train2"]
    rows = [FullSentenceRows(str(tmp_path / "out" / name), loaded, 64) for name in names]
    tokens = sum(len(part[row].tokens) for part in rows for row in range(len(part)))
    assert tokens == counts["kept"]["train: tokens"] + sum(map(len, rows))  # each row gets <s>


def test_lines_are_kept_and_row_starts_written(tmp_path, vocabulary):
    """Byte for byte the same for any number of workers, and training makes nothing anew."""
    (tmp_path / "v").mkdir()
    for name in ("sentencepiece.model", "dict.txt"):
        (tmp_path / "v" / name).write_bytes((vocabulary / name).read_bytes())
    write_encoding(tmp_path / "v")
    texts = {part: ["\r\n\n".join(sentences(5, 10 * part + i)) for i in range(4)] for part in range(3)}
    for part, documents_of_part in texts.items():
        (tmp_path / f"{part}.jsonl").write_bytes(json_lines(documents_of_part))
    written = []
    for workers in (1, 2):
        out = tmp_path / f"out{workers}"
        words = ["text", str(tmp_path / "{0..2}.jsonl"), "--vocabulary", str(tmp_path / "v"), "--valid-share", "0"]
        prepare([*words, "--out", str(out), "--tokens-per-sample", "64", "--workers", str(workers)])
        written.append({path.name: path.read_bytes() for path in out.iterdir() if path.name.startswith("train")})
    assert written[0] == written[1] and len(written[0]) == 9
    lines = [text.replace("\r\n\n", "\n") for documents_of_part in texts.values() for text in documents_of_part]
    assert documents(out, tmp_path / "v") == lines

    loaded = Vocabulary.load(tmp_path / "v")
    made = {path: path.stat().st_mtime_ns for path in out.glob("train*")}
    for name in ("train", "train1", "train2"):
        rows = FullSentenceRows(str(out / name), loaded, 64)
        assert {rows[r].tokens[-1] for r in range(len(rows))} <= {loaded.line_end, loaded.eos}
    assert {path: path.stat().st_mtime_ns for path in out.glob("train*")} == made


def test_the_split_depends_on_the_text(tmp_path, vocabulary):
    texts = sentences(200)
    (tmp_path / "a.jsonl").write_bytes(json_lines(texts))
    (tmp_path / "b.jsonl").write_bytes(json_lines(reversed(texts)))
    for name in "ab":
        run(vocabulary, tmp_path / name, str(tmp_path / f"{name}.jsonl"), "--valid-share", "0.2")
    held_out = documents(tmp_path / "a", vocabulary, "valid")
    assert sorted(held_out) == sorted(documents(tmp_path / "b", vocabulary, "valid"))
    assert 20 <= len(held_out) <= 60
    assert not set(held_out) & set(documents(tmp_path / "a", vocabulary))


# ---- What is dropped ----


def test_the_papers_subsets_of_the_pile_are_left_out(tmp_path, vocabulary):
    names = ["Github", "ArXiv", "StackExchange", "PubMed Central", "Pile-CC", "PubMed Abstracts"]
    texts = sentences(len(names))
    lines = [json_lines([text], meta={"pile_set_name": name}) for text, name in zip(texts, names, strict=True)]
    (tmp_path / "pile.jsonl").write_bytes(b"".join(lines))
    counts = run(vocabulary, tmp_path / "out", str(tmp_path / "pile.jsonl"))
    assert documents(tmp_path / "out", vocabulary) == texts[4:]
    assert counts["dropped"]["subset Github"] == 1
    run(vocabulary, tmp_path / "all", str(tmp_path / "pile.jsonl"), "--exclude-subsets")
    assert documents(tmp_path / "all", vocabulary) == texts


def test_subsets_become_corpora_in_one_pass(tmp_path, vocabulary):
    """Duplicates and evaluation data are removed across all of them; other files than The Pile's go by their folder."""
    texts = sentences(9)
    named = [*zip(texts[:5], ["Pile-CC", "Github", "NIH ExPorter", "Pile-CC", "Wikipedia (en)"], strict=True)]
    pile = [*named, (texts[0], "NIH ExPorter"), (texts[5], "Pile-CC")]
    lines = [json_lines([text], meta={"pile_set_name": name}) for text, name in pile]
    (tmp_path / "00.jsonl").write_bytes(b"".join(lines))
    (tmp_path / "realnews").mkdir()
    (tmp_path / "realnews" / "a.jsonl").write_bytes(json_lines([texts[1], texts[3], texts[6]]))
    (tmp_path / "dev.jsonl").write_text(json.dumps({"text": " ".join(texts[5].split()[:20])}))
    inputs = [str(tmp_path / "00.jsonl"), str(tmp_path / "realnews")]
    options = ["--split-subsets", "paper", "--evaluation", str(tmp_path / "dev.jsonl")]
    out = tmp_path / "out"
    counts = run(vocabulary, out, *inputs, *options)
    found = {folder.name: documents(folder, vocabulary) for folder in out.iterdir() if list(folder.glob("*.idx"))}
    assert set(found) == {"pile-cc", "nih-exporter", "wikipedia", "realnews"}
    kept = [text for folder in found.values() for text in folder]
    assert sorted(kept) == sorted([*texts[:5], texts[6]])  # each once
    assert found["wikipedia"] == [texts[4]]
    assert texts[2] in found["nih-exporter"] and texts[1] in found["realnews"]
    assert counts["dropped"]["subset Github"] == counts["dropped"]["text of an evaluation file"] == 1
    assert counts["dropped"]["duplicates and near-duplicates"] == 2
    assert counts["kept"]["wikipedia/train: documents"] == 1
    assert (out / "wikipedia" / "dict.txt").read_bytes() == (vocabulary / "dict.txt").read_bytes()


@pytest.mark.parametrize("value", ["Pile-CC", "Pile-CC=", "=a", "Pile-CC=../a", "Pile-CC=/a", "Pile-CC=work"])
def test_a_wrong_folder_for_a_subset(tmp_path, vocabulary, value):
    (tmp_path / "a.jsonl").write_bytes(json_lines(sentences(1)))
    with pytest.raises(UserError, match="--split-subsets"):
        run(vocabulary, tmp_path / "out", str(tmp_path / "a.jsonl"), "--split-subsets", value)


def near_copy(text: str) -> str:
    """A copy with one of about 35 words changed, so that the 5-word n-grams overlap by 0.75 or more."""
    words = text.split()
    return " ".join([*words[:-1], "bird" if words[-1] != "bird" else "car"])


def test_duplicates_are_found_across_files(tmp_path, vocabulary):
    texts = sentences(20)
    (tmp_path / "a.jsonl").write_bytes(json_lines(texts[:12]))
    (tmp_path / "b.jsonl").write_bytes(json_lines([texts[3].upper() + "!", *texts[12:], near_copy(texts[5])]))
    both = str(tmp_path / "{a,b}.jsonl")
    counts = run(vocabulary, tmp_path / "near", both)
    assert counts["dropped"]["duplicates and near-duplicates"] == 2
    kept = documents(tmp_path / "near", vocabulary)
    assert len(kept) == 20
    assert len({texts[5], near_copy(texts[5])} & set(kept)) == 1

    counts = run(vocabulary, tmp_path / "exact", both, "--duplicates", "exact")
    assert counts["dropped"]["duplicates and near-duplicates"] == 1
    counts = run(vocabulary, tmp_path / "none", both, "--duplicates", "none")
    assert counts["kept"]["train: documents"] == 22


def test_short_texts_that_differ_in_a_number_are_not_duplicates(tmp_path, vocabulary):
    (tmp_path / "a.jsonl").write_bytes(json_lines(["Chapter 1", "Chapter 2", "Chapter 1"]))
    counts = run(vocabulary, tmp_path / "out", str(tmp_path / "a.jsonl"))
    assert counts["kept"]["train: documents"] == 2


@pytest.mark.parametrize("form", ["jsonl", "json", "txt"])
def test_a_document_with_an_evaluation_sentence_is_dropped(tmp_path, vocabulary, form):
    texts = sentences(6)
    asked = " ".join(texts[2].split()[4:19])
    file = tmp_path / f"evaluation.{form}"
    file.write_text({"txt": f"{asked}\n"}.get(form) or json.dumps({"data": [{"question": asked}]}))
    (tmp_path / "a.jsonl").write_bytes(json_lines(texts))
    counts = run(vocabulary, tmp_path / "out", str(tmp_path / "a.jsonl"), "--evaluation", str(file))
    assert counts["dropped"]["text of an evaluation file"] == 1
    assert documents(tmp_path / "out", vocabulary) == texts[:2] + texts[3:]


def test_a_few_common_words_are_not_evaluation_data(tmp_path, vocabulary):
    texts = sentences(6)
    (tmp_path / "evaluation.txt").write_text("\n".join(" ".join(text.split()[:7]) for text in texts))
    (tmp_path / "a.jsonl").write_bytes(json_lines(texts))
    run(vocabulary, tmp_path / "out", str(tmp_path / "a.jsonl"), "--evaluation", str(tmp_path / "evaluation.txt"))
    assert documents(tmp_path / "out", vocabulary) == texts


def test_only_english(tmp_path, vocabulary):
    english = "The old house by the river was sold last year, and nobody in the town knows who lives there today."
    spanish = "La vieja casa junto al río se vendió el año pasado, y nadie en el pueblo sabe quién vive allí hoy."
    (tmp_path / "a.jsonl").write_bytes(json_lines([english, spanish]))
    counts = run(vocabulary, tmp_path / "out", str(tmp_path / "a.jsonl"), "--english")
    assert counts["dropped"]["not English"] == 1
    assert counts["kept"]["train: documents"] == 1


def test_short_documents(tmp_path, vocabulary):
    (tmp_path / "a.jsonl").write_bytes(json_lines(["the red cat", "the red cat runs"]))
    counts = run(vocabulary, tmp_path / "out", str(tmp_path / "a.jsonl"), "--min-words", "4")
    assert counts["dropped"]["fewer than 4 words"] == 1


# ---- Bad input ----


def test_bad_records_are_skipped_and_counted(tmp_path, vocabulary):
    good = sentences(2)
    bad = [
        b'{"text": "cut in the mid\n',
        b'{"text": "\xff\xfe"}\n',
        b'{"text": 5}\n',
        b"[1, 2]\n",
        b'{"other": "field"}\n',
        b"[" * 100_000 + b"\n",
    ]
    lines = [json_lines(good[:1]), *bad, json_lines(["  ", "nul \0 byte", "\ud83d"]), json_lines(good[1:])]
    (tmp_path / "a.jsonl").write_bytes(b"".join(lines))
    counts = run(vocabulary, tmp_path / "out", str(tmp_path / "a.jsonl"))
    assert documents(tmp_path / "out", vocabulary) == good
    assert counts["read"]["documents"] == 11
    assert counts["dropped"] == {
        "not valid JSON, or too long": 3,
        "not a JSON object": 1,
        "no field text (--text-key)": 1,
        "no text, or not valid UTF-8": 1,
        "empty text": 1,
        "NUL bytes": 1,
        "half a surrogate pair": 1,
        "duplicates and near-duplicates": 0,
    }


@pytest.mark.parametrize("ending", ["jsonl.gz", "jsonl.zst", "jsonl.bz2", "jsonl.xz", "parquet"])
def test_a_file_cut_in_half_ends_where_it_breaks(tmp_path, vocabulary, ending):
    WRITERS[ending](tmp_path / f"whole.{ending}", sentences(3, 1))
    WRITERS[ending](tmp_path / f"cut.{ending}", sentences(2000))
    data = (tmp_path / f"cut.{ending}").read_bytes()
    (tmp_path / f"cut.{ending}").write_bytes(data[: len(data) // 2])
    counts = run(vocabulary, tmp_path / "out", str(tmp_path / f"*.{ending}"), "--duplicates", "none")
    assert counts["left out"] == {"the rest of files that are cut short or broken": 1}
    assert counts["kept"]["train: documents"] >= 3


def test_an_endless_line_takes_no_memory(tmp_path, vocabulary, monkeypatch):
    monkeypatch.setattr("kosmos_plugin.curation.readers.json_values.MAX_BYTES", 10_000)
    good = sentences(2)
    (tmp_path / "a.jsonl").write_bytes(json_lines([good[0], "x" * 25_000, good[1]]))
    run(vocabulary, tmp_path / "out", str(tmp_path / "a.jsonl"))
    assert documents(tmp_path / "out", vocabulary) == good


# ---- Errors ----


def error_of(arguments: list[str]) -> str:
    with pytest.raises(UserError) as raised:
        prepare(arguments)
    return str(raised.value)


def test_errors_name_what_is_wrong(tmp_path, vocabulary):
    (tmp_path / "a.jsonl").write_bytes(json_lines(sentences(1)))
    (tmp_path / "a.docx").write_bytes(b"")
    (tmp_path / "empty.jsonl").write_bytes(b"")
    a, out, known = str(tmp_path / "a.jsonl"), ["--out", str(tmp_path / "o")], ["--vocabulary", str(vocabulary)]
    one = ["--workers", "1"]
    assert "There is no input" in error_of(["text", str(tmp_path / "no.jsonl"), *out, *known])
    assert "--vocabulary" in error_of(["text", a, "--out", str(tmp_path / "1")])
    assert "sentencepiece.model" in error_of(["text", a, "--out", str(tmp_path / "2"), "--vocabulary", str(tmp_path)])
    assert "cannot tell its format" in error_of(
        ["text", str(tmp_path / "a.docx"), "--out", str(tmp_path / "3"), *known]
    )
    assert "--workers" in error_of(["text", a, *out, *known, "--workers", "0"])
    assert "--valid-share" in error_of(["text", a, "--out", str(tmp_path / "4"), *known, "--valid-share", "1"])
    assert "Nothing was kept" in error_of(
        ["text", str(tmp_path / "empty.jsonl"), "--out", str(tmp_path / "5"), *known, *one]
    )
    missing = ["--evaluation", str(tmp_path / "no.json")]
    assert "There is no input" in error_of(["text", a, "--out", str(tmp_path / "6"), *known, *missing])
    assert "files of something else" in error_of(["text", a, "--out", str(tmp_path), *known])


def test_other_fields_do_not_matter(tmp_path, vocabulary):
    texts = sentences(4)
    fields = [{"id": 10**25}, {"title": "\ud83d"}, {"deep": json.loads("[" * 300 + "]" * 300)}, {"meta": "none"}]
    lines = [json.dumps({"text": text, **more}) for text, more in zip(texts, fields, strict=True)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    columns = {"text": [text.encode() for text in sentences(4, 1)], "id": [b"\xff"] * 4, "n": [Decimal("0.1")] * 4}
    parquet.write_table(pyarrow.table(columns), tmp_path / "b.parquet")
    assert run(vocabulary, tmp_path / "out", str(tmp_path / "*.*"))["kept"]["train: documents"] == 8
    assert documents(tmp_path / "out", vocabulary) == texts + sentences(4, 1)


def test_an_array_of_records(tmp_path, vocabulary):
    texts = sentences(3)
    (tmp_path / "a.json").write_text(json.dumps([{"text": text} for text in texts], indent=4))
    (tmp_path / "b.json").write_text('[{"text": ')
    counts = run(vocabulary, tmp_path / "out", str(tmp_path / "*.json"))
    assert counts["left out"] == {"the rest of files that are cut short or broken": 1}
    assert documents(tmp_path / "out", vocabulary) == texts


@pytest.mark.parametrize("name", ["a{b.jsonl", "a[1] é {x,y}.jsonl", "a::s3.jsonl"])
def test_a_file_of_any_name(tmp_path, vocabulary, name):
    (tmp_path / name).write_bytes(json_lines(sentences(3)))
    assert run(vocabulary, tmp_path / "out", str(tmp_path / name))["kept"]["train: documents"] == 3


def test_a_wrong_option_does_not_claim_the_folder(tmp_path, vocabulary):
    (tmp_path / "a.jsonl").write_bytes(json_lines(sentences(3)))
    with pytest.raises(UserError, match="--valid-share must be"):
        run(vocabulary, tmp_path / "out", str(tmp_path / "a.jsonl"), "--valid-share", "2")
    assert not (tmp_path / "out").exists()
    run(vocabulary, tmp_path / "out", str(tmp_path / "a.jsonl"))


def test_a_folder_that_cannot_be_written_to_is_one_clear_error(tmp_path, vocabulary):
    (tmp_path / "a.jsonl").write_bytes(json_lines(sentences(3)))
    for out in ("a.jsonl", "a.jsonl/out"):
        with pytest.raises(UserError, match="Cannot write to"):
            run(vocabulary, tmp_path / out, str(tmp_path / "a.jsonl"))


def test_a_system_error_is_not_blamed_on_the_file(tmp_path):
    """A system error stops the run, which can be resumed; a broken file would be left out permanently."""
    reader = ReadTexts([InputFile(str(tmp_path / "a.jsonl"), None)])
    with pytest.raises(OSError, match="too many"), reader.stop_where_broken(reader.files[0]):
        raise OSError(errno.EMFILE, "too many open files")
    with reader.stop_where_broken(reader.files[0]):
        raise OSError("data error")
    assert reader.stats["left out: the rest of files that are cut short or broken"].total == 1
