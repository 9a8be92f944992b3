"""kosmos-prepare instructions: records in the forms of their releases, with images."""

import json
import random
from pathlib import Path

import pytest

from kosmos_plugin.data.documents import Text
from kosmos_plugin.data.samples import SampleBuilder
from kosmos_plugin.data.shards import ShardedDocuments, interleaved_document
from tests import tiny
from tests.curation.recipes.test_instructions import UNNATURAL, run, write_lines

datasets = pytest.importorskip("datasets")

IMAGES = [tiny.png(random.Random(number)) for number in range(3)]


def written(out: Path) -> list[list[object]]:
    """The segments of each document: an image's bytes, a text in the loss, or (a text that is not,)."""
    documents = ShardedDocuments(map(str, sorted(out.glob("train-*.tar"))), interleaved_document)
    return [
        [(s.text if s.in_loss else (s.text,)) if isinstance(s, Text) else s.read() for s in documents[number].segments]
        for number in range(len(documents))
    ]


def of_records(folder: Path, *records: object) -> list[list[object]]:
    for number, image in enumerate(IMAGES):
        (folder / "images").mkdir(exist_ok=True)
        (folder / "images" / f"{number}.png").write_bytes(image)
    write_lines(folder / "a.jsonl", records)
    run(folder / "out", folder, "--images", folder / "images", "--workers", 1)
    return written(folder / "out")


@pytest.mark.parametrize(
    "record, segments",
    [
        ({"instruction": "a", "context": "b", "response": "c", "category": "d"}, [("a\nb\n",), "c"]),
        ({"prompt": "a", "completion": "b"}, [("a\n",), "b"]),
        ({"definition": "a", "inputs": "b", "targets": ["c", "d"]}, [("a\nb\n",), "c"]),
        ({"instruction": "double it", "input": 2, "output": 4.5}, [("double it\n2\n",), "4.5"]),
        ({"question": "why?", "answers": {"text": ["so"], "answer_start": [1]}}, [("Question: why? Answer:\n",), "so"]),
        (
            {"conversations": [{"from": role, "value": role[0]} for role in ("human", "gpt", "human")]},
            [("h\n",), "g"],
        ),
        (
            {"messages": [{"role": r, "content": r[0]} for r in ("system", "user", "assistant", "user", "assistant")]},
            [("s\nu\n",), "a", ("u\n",), "a"],
        ),
    ],
)  # fmt: skip
def test_forms_of_text(tmp_path, record, segments):
    assert of_records(tmp_path, record) == [segments]


@pytest.mark.parametrize(
    "record, segments",
    [
        (  # LLaVA
            {
                "id": "0",
                "image": "1.png",
                "conversations": [
                    {"from": "human", "value": "<image>\nWhat is it?"},
                    {"from": "gpt", "value": "noise"},
                    {"from": "human", "value": "Why?"},
                    {"from": "gpt", "value": "no idea"},
                ],
            },
            [IMAGES[1], ("What is it?\n",), "noise", ("Why?\n",), "no idea"],
        ),
        (
            {
                "image": "0.png",
                "conversations": [{"from": "human", "value": "What?\n<image>"}, {"from": "gpt", "value": "b"}],
            },
            [("What?\n",), IMAGES[0], "b"],
        ),
        ({"question": "red?", "answer": "no", "image": "0.png"}, [IMAGES[0], ("Question: red? Answer:\n",), "no"]),
        (  # VQAv2: the answer of most people
            {"question": "red?", "answers": [{"answer": a} for a in ("no", "yes", "yes")], "image": "2.png"},
            [IMAGES[2], ("Question: red? Answer:\n",), "yes"],
        ),
        ({"instruction": "describe it", "image": "0.png", "output": "noise"}, [IMAGES[0], ("describe it\n",), "noise"]),
        (
            {"images": ["0.png", "1.png"], "instruction": "compare <image> with <image>", "output": "b"},
            [("compare",), IMAGES[0], ("with",), IMAGES[1], "b"],
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a"}]},
                    {"role": "assistant", "content": [{"type": "text", "text": "b"}]},
                ],
                "images": ["0.png"],
            },
            [IMAGES[0], ("a\n",), "b"],
        ),
    ],
)  # fmt: skip
def test_forms_with_images(tmp_path, record, segments):
    assert of_records(tmp_path, record) == [segments]


def test_the_full_data_of_unnatural_instructions(tmp_path):
    reformulations = [
        {"instruction": "which bird is {INPUT}?", "instruction_with_input": "", "input": "red", "output": "a bird"},
        {"instruction": "name it", "instruction_with_input": "", "input": "red", "output": "bird"},
    ]
    expected = [
        [("name a bird\na red bird\n",), "bird"],
        [("name a bird\ntwo words\na small cat\n",), "small cat"],
        [("which bird is red?\n",), "a bird"],
        [("name it\nred\n",), "bird"],
    ]
    record = {**UNNATURAL, "reformulations": reformulations}
    assert of_records(tmp_path, record) == expected
    # as Hugging Face's copy has it: objects of lists
    columns = {name: [instance[name] for instance in UNNATURAL["instances"]] for name in UNNATURAL["instances"][0]}
    table = datasets.Dataset.from_list([{**record, "instances": columns}])
    table.to_parquet(tmp_path / "full.parquet")
    run(tmp_path / "out2", tmp_path / "full.parquet", "--workers", 1)
    assert written(tmp_path / "out2") == expected


@pytest.mark.parametrize("options", [(), ("--sample", 2)])
def test_images_in_parquet(tmp_path, options):
    """The Cauldron: images in bytes, turns of user and assistant."""
    turn = {"user": datasets.Value("string"), "assistant": datasets.Value("string")}
    features = datasets.Features({"images": datasets.Sequence(datasets.Image()), "texts": [turn]})
    rows = {
        "images": [[{"bytes": image, "path": None}] for image in IMAGES[:2]],
        "texts": [[{"user": f"what {n}", "assistant": f"noise {n}"}] for n in range(2)],
    }
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    run(tmp_path / "out", tmp_path / "a.parquet", *options, "--workers", 1)
    assert written(tmp_path / "out") == [[IMAGES[n], (f"what {n}\n",), f"noise {n}"] for n in range(2)]


def test_a_long_json_array(tmp_path, monkeypatch):
    """LLaVA's 665,000 conversations are one array of a gigabyte."""
    monkeypatch.setattr("kosmos_plugin.curation.readers.json_values._CHUNK", 1000)
    turns = [[{"from": "human", "value": f"a {n}"}, {"from": "gpt", "value": f"b {n}"}] for n in range(200)]
    (tmp_path / "llava.json").write_text(json.dumps([{"id": n, "conversations": turn} for n, turn in enumerate(turns)]))
    run(tmp_path / "out", tmp_path / "llava.json", "--workers", 1)
    assert written(tmp_path / "out") == [[(f"a {n}\n",), f"b {n}"] for n in range(200)]


def test_only_answers_are_in_the_loss(tmp_path):
    vocabulary = tiny.write_vocabulary(tmp_path / "vocabulary")
    (tmp_path / "data").mkdir()
    of_records(tmp_path / "data", {"question": "the red cat", "answer": "runs today", "image": "0.png"})
    documents = ShardedDocuments(map(str, (tmp_path / "data" / "out").glob("*.tar")), interleaved_document)
    sample = SampleBuilder(vocabulary, tiny.IMAGE_TOKENS, 64).sample(documents[0])
    in_loss = sample.targets[sample.targets != vocabulary.pad].tolist()
    assert in_loss[-3:] == [*vocabulary.encode("runs today"), vocabulary.eos][-3:]
    assert vocabulary.encode("cat")[0] not in in_loss


@pytest.mark.parametrize(
    "record, reason",
    [
        ({"instruction": "a", "output": "b", "image": "gone.png"}, "image that is not in the folder of images"),
        ({"instruction": "a <image>", "output": "b"}, "<image> marks and images differ in number"),
        ({"instruction": "a", "output": {"b": 1}}, "field that is not text"),
        ({"conversations": [{"from": "human", "value": "a"}]}, "conversation without an answer"),
        ({"conversations": "text"}, "field that is not a list of objects"),
        ({"question": "a?", "choices": ["b", "c"], "answer": 1}, "question with a list of choices"),
        ({"image": "0.png", "caption": "a"}, "no instruction or output"),
        ({"instances": {"input": ["a"], "output": []}}, "object of lists of different lengths"),
    ],
)
def test_what_is_left_out_has_its_reason(tmp_path, record, reason, capsys):
    write_lines(tmp_path / "a.jsonl", [{"inputs": "c", "targets": "d"}, record])
    counts = run(tmp_path / "out", tmp_path / "a.jsonl", "--workers", 1)
    assert counts["dropped"] == {reason: 1}
    if reason.startswith("no instruction"):
        assert "a.jsonl/1: no instruction or output (but the fields image, caption)" in capsys.readouterr().out
