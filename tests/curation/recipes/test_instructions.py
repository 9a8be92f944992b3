"""kosmos-prepare instructions: the published formats, which text is in the loss, and exact samples."""

import json
import random
import zipfile

import pyarrow
import pytest
from pyarrow import parquet

from kosmos_plugin.data.samples import SampleBuilder
from kosmos_plugin.data.shards import ShardedDocuments, interleaved_document
from kosmos_plugin.errors import UserError
from tests import tiny
from tests.curation.command import digests, prepare

UNNATURAL = {
    "instruction": "name a bird",
    "instances": [
        {"input": "a red bird", "constraints": "None.", "output": "bird"},
        {"input": "a small cat", "constraints": "two words", "output": "small cat"},
    ],
}


def run(out, *arguments) -> dict:
    prepare(["instructions", *map(str, arguments), "--out", str(out), "--valid-share", "0"])
    return json.loads((out / "report.json").read_text())["counts"]


def examples(out) -> list[tuple[str, str]]:
    """The (prompt, output) of each document, as training reads it."""
    documents = ShardedDocuments(map(str, sorted(out.glob("train-*.tar"))), interleaved_document)
    found = []
    for i in range(len(documents)):
        prompt, output = documents[i].segments
        assert not prompt.in_loss and output.in_loss
        found.append((prompt.text, output.text))
    return found


def write_lines(path, records) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_unnatural_instructions(tmp_path):
    with zipfile.ZipFile(tmp_path / "core_data.zip", "w") as archive:
        archive.writestr("core_data.jsonl", json.dumps(UNNATURAL))
    run(tmp_path / "out", tmp_path / "core_data.zip", "--workers", 1)
    assert examples(tmp_path / "out") == [
        ("name a bird\na red bird\n", "bird"),
        ("name a bird\ntwo words\na small cat\n", "small cat"),
    ]


def test_flan_and_plain_lines(tmp_path):
    flan = {"inputs": ["is it red?", "is it blue?"], "targets": ["no", "yes"], "task_name": ["t", "t"]}
    parquet.write_table(pyarrow.table(flan), tmp_path / "a.parquet")
    write_lines(
        tmp_path / "b.jsonl",
        [{"inputs": "one", "targets": "two"}, {"instruction": "three", "input": "", "output": "four"}],
    )
    run(tmp_path / "out", tmp_path / "a.parquet", tmp_path / "b.jsonl", "--workers", 1)
    assert examples(tmp_path / "out") == [
        ("is it red?\n", "no"),
        ("is it blue?\n", "yes"),
        ("one\n", "two"),
        ("three\n", "four"),
    ]


def test_what_cannot_be_used_is_counted(tmp_path):
    records = [{"instruction": "a", "output": " "}, {"instruction": " ", "output": "b"}, {"other": 1}, [], None]
    write_lines(tmp_path / "a.jsonl", [*records, {"inputs": "c", "targets": "d"}])
    counts = run(tmp_path / "out", tmp_path / "a.jsonl", "--workers", 1)
    assert counts["dropped"] == {
        "empty output": 1,
        "empty instruction": 1,
        "no instruction or output": 1,
        "not a JSON object": 2,
    }
    assert examples(tmp_path / "out") == [("c\n", "d")]


def test_only_the_output_is_in_the_loss(tmp_path):
    vocabulary = tiny.write_vocabulary(tmp_path / "vocabulary")
    write_lines(tmp_path / "a.jsonl", [{"instruction": "the red cat", "input": "a dog", "output": "runs today"}])
    run(tmp_path / "out", tmp_path / "a.jsonl", "--workers", 1)
    documents = ShardedDocuments(map(str, (tmp_path / "out").glob("*.tar")), interleaved_document)
    sample = SampleBuilder(vocabulary, tiny.IMAGE_TOKENS, 64).sample(documents[0])
    in_loss = sample.targets[sample.targets != vocabulary.pad].tolist()
    assert in_loss == [*vocabulary.encode("runs today"), vocabulary.eos]
    assert sample.tokens.tolist() == [
        vocabulary.bos,
        *vocabulary.encode("the red cat a dog runs today"),
        vocabulary.eos,
    ]


@pytest.mark.parametrize("number", [1, 37, 89, 90])
def test_a_sample_is_exact_and_the_same_for_any_number_of_workers(tmp_path, number):
    rng = random.Random(0)
    for part, size in enumerate((50, 0, 40)):
        lines = [{"inputs": tiny.sentence(rng), "targets": str(i % 7)} for i in range(size)]
        write_lines(tmp_path / f"{part}.jsonl", lines)
    outs = [tmp_path / f"out-{workers}" for workers in (1, 2)]
    for workers, out in enumerate(outs, 1):
        counts = run(out, tmp_path / "*.jsonl", "--sample", number, "--workers", workers)
        assert len(examples(out)) == counts["kept"]["train: documents"] == number
        assert counts.get("left out", {}).get("not in the sample", 0) == 90 - number
    shards = [{name: digest for name, digest in digests(out).items() if name.endswith(".tar")} for out in outs]
    assert shards[0] == shards[1]


def test_copies_do_not_make_a_sample_larger(tmp_path):
    write_lines(tmp_path / "a.jsonl", [{"inputs": "one", "targets": "two"}] * 9)
    run(tmp_path / "out", tmp_path / "a.jsonl", "--sample", 4, "--workers", 1)
    assert len(examples(tmp_path / "out")) == 4


def test_a_sample_has_its_share_of_held_out_examples(tmp_path):
    write_lines(tmp_path / "a.jsonl", [{"inputs": str(i), "targets": "two"} for i in range(400)])
    out = tmp_path / "out"
    words = f"instructions {tmp_path / 'a.jsonl'} --out {out} --sample 100 --valid-share 0.3 --workers 1"
    prepare(words.split())
    kept = json.loads((out / "report.json").read_text())["counts"]["kept"]
    assert 15 <= kept["valid: documents"] <= 45


@pytest.mark.parametrize("options, named", [("--sample 0", "--sample"), ("--sample 9", "1 that can be used")])
def test_a_wrong_sample_is_one_clear_error(tmp_path, options, named):
    write_lines(tmp_path / "a.jsonl", [{"inputs": "one", "targets": "two"}])
    with pytest.raises(UserError, match=named):
        run(tmp_path / "out", tmp_path / "a.jsonl", *options.split(), "--workers", 1)


def test_another_format_is_one_clear_error(tmp_path):
    (tmp_path / "a.docx").write_text("a,b")
    with pytest.raises(UserError, match=r"a\.docx: cannot tell its format"):
        run(tmp_path / "out", tmp_path / "a.docx", "--workers", 1)


def test_a_zip_that_is_cut_short(tmp_path):
    with zipfile.ZipFile(tmp_path / "whole.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("core_data.jsonl", json.dumps(UNNATURAL))
    data = (tmp_path / "whole.zip").read_bytes()
    (tmp_path / "half.zip").write_bytes(data[: len(data) // 2])
    counts = run(tmp_path / "out", tmp_path / "*.zip")
    assert counts["left out"] == {"the rest of files that are cut short or broken": 1}
    assert counts["kept"]["train: documents"] == 2
