"""COCO and Flickr30k: items read from their releases, and prompts."""

import json
import shutil

import pytest

from kosmos_plugin.data.documents import Image
from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmark import Answer
from kosmos_plugin.evaluation.benchmarks.captioning import Coco, Flickr30k
from kosmos_plugin.evaluation.requests import Generate, prompt_text
from tests.evaluation.releases.captioning import write_coco, write_flickr30k


@pytest.fixture
def coco(tmp_path):
    write_coco(tmp_path)
    return tmp_path


@pytest.fixture
def flickr30k(tmp_path):
    write_flickr30k(tmp_path)
    return tmp_path


def records(path, split) -> list[dict]:
    return [record for record in json.loads(path.read_text())["images"] if record["split"] == split]


def test_items_of_coco(coco):
    for split in ("test", "val"):
        items, expected = Coco(coco, split).items(), records(coco / "dataset_coco.json", split)
        assert len(items) == 6
        for item, record in zip(items, expected, strict=True):
            assert item.id == str(record["cocoid"])
            assert item.reference == [sentence["raw"] for sentence in record["sentences"]] and len(item.reference) == 5
            name = f"COCO_val2014_{record['cocoid']:012d}.jpg"
            assert item.image.read() == (coco / "val2014" / name).read_bytes()
    assert Coco(coco).split == "test"


def test_cocos_training_set_is_train_and_restval(coco):
    items = Coco(coco).training_items()
    assert [item.image.name.split("/")[-2] for item in items] == ["val2014"] * 6 + ["train2014"] * 12
    assert all(item.image.read() for item in items)


def test_items_of_flickr30k(flickr30k):
    benchmark = Flickr30k(flickr30k)
    expected = records(flickr30k / "dataset_flickr30k.json", "test")
    assert [item.id for item in benchmark.items()] == [record["filename"] for record in expected]
    for item, record in zip(benchmark.items(), expected, strict=True):
        assert item.reference == [sentence["raw"] for sentence in record["sentences"]]
        assert item.image.read() == (flickr30k / "flickr30k-images" / record["filename"]).read_bytes()
    assert len(benchmark.training_items()) == 12 and len(Flickr30k(flickr30k, "val").items()) == 6


def test_prompts(coco):
    benchmark = Coco(coco)
    item, pool = benchmark.items()[0], benchmark.training_items()
    request = benchmark.request(item, [])
    assert request == Generate(request.prompt, num_beams=5, max_new_tokens=32)
    assert prompt_text(request.full_prompt) == "<image> An image of"
    demonstrations = benchmark.demonstrations(item, pool, 2, seed=1)
    request = benchmark.request(item, demonstrations)
    assert request.num_beams == 5
    assert prompt_text(request.full_prompt) == (
        "<image> An image of New red small under today car today. "
        "<image> An image of Stands behind green large new tree red. "
        "<image> An image of"
    )
    assert prompt_text(request.prompt) == "<image> An image of" and len(request.demonstrations) == 2
    images = [segment for segment in request.full_prompt if isinstance(segment, Image)]
    assert images == [*(shown.image for shown in demonstrations), item.image]


def test_line_breaks_of_a_demonstration_are_spaces(coco):
    path = coco / "dataset_coco.json"
    dataset = json.loads(path.read_text())
    for record in dataset["images"]:
        record["sentences"][0]["raw"] = "A cat\nruns  slowly. \n"
    path.write_text(json.dumps(dataset))
    benchmark = Coco(coco)
    [item, *_], pool = benchmark.items(), benchmark.training_items()
    assert (
        prompt_text(benchmark.request(item, pool[:1]).full_prompt)
        == "<image> An image of A cat runs slowly. <image> An image of"
    )


@pytest.mark.skipif(shutil.which("java") is None, reason="pycocoevalcap's tokenizer needs Java")
def test_scores_and_results(coco):
    pytest.importorskip("pycocoevalcap.cider.cider", reason="needs pycocoevalcap")
    benchmark = Coco(coco)
    benchmark.check_tools()
    items = benchmark.items()
    one, other = ([Answer(text, ()) for text in texts] for texts in ([i.reference[1] for i in items], ["xyzzy"] * 6))
    assert benchmark.score(items, one).metrics["CIDEr"] > 300
    assert benchmark.score(items, other).metrics["CIDEr"] == 0
    name, results = benchmark.submission(items, other)
    assert name == "captions_val2014_kosmos_results.json"
    assert json.loads(results)[1] == {"image_id": int(items[1].id), "caption": "xyzzy"}
    assert len(json.loads(results)) == 6


def test_flickr30k_has_no_server(flickr30k):
    assert Flickr30k(flickr30k).submission([], []) is None


def test_missing_files_are_named(coco):
    Coco(coco).check_files(few_shot=True)
    shutil.rmtree(coco / "train2014")
    Coco(coco).check_files(few_shot=False)
    with pytest.raises(UserError, match=r"coco: train2014 is not in .*caption_datasets\.zip"):
        Coco(coco).check_files(few_shot=True)
    with pytest.raises(UserError, match=r"dataset_flickr30k\.json, flickr30k-images are not in .*caption_datasets"):
        Flickr30k(coco).check_files(few_shot=False)
    with pytest.raises(UserError, match=r"The image .*COCO_train2014_\d+\.jpg cannot be read"):
        Coco(coco).training_items()[-1].image.read()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda dataset: dataset.pop("images"), r'dataset_coco\.json: "images" must be of type list'),
        (lambda dataset: dataset["images"][1].pop("split"), 'image 2: "split" must be of type str'),
        (lambda dataset: dataset["images"][1].pop("filepath"), 'image 2: "filepath" must be of type str'),
        (lambda dataset: dataset["images"][1].update(cocoid="a1"), 'image 2: "cocoid" must be a whole number'),
        (lambda dataset: dataset["images"][1]["sentences"].clear(), "image 2: there is no caption"),
        (lambda dataset: dataset["images"][1]["sentences"][4].pop("raw"), 'image 2: "raw" must be of type str'),
    ],
)
def test_broken_records_are_named(coco, change, message):
    path = coco / "dataset_coco.json"
    dataset = json.loads(path.read_text())
    change(dataset)
    path.write_text(json.dumps(dataset))
    with pytest.raises(UserError, match=message):
        Coco(coco).items()
