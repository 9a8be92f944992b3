"""The processor in a folder of transformers' own KOSMOS-2: as theirs, with more images and a chat template."""

import io
import random
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, Kosmos2Processor

from kosmos_plugin.checkpoints.convert import convert
from kosmos_plugin.generation.generator import load
from tests import tiny
from tests.checkpoints import peer

PICTURES = [tiny.png(random.Random(number), 40 + 20 * number) for number in range(3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """`ours/model.pt` and its export."""
    folder = tmp_path_factory.mktemp("kosmos-2")
    convert(peer.write_folder(folder / "theirs"), folder / "ours", "fairseq")
    convert(folder / "ours" / "model.pt", folder / "exported", "huggingface")
    return folder


@pytest.fixture(scope="module")
def processor(folder):
    return AutoProcessor.from_pretrained(str(folder / "exported"), trust_remote_code=True)


def images(count: int) -> list[Image.Image]:
    return [Image.open(io.BytesIO(data)) for data in PICTURES[:count]]


@pytest.mark.parametrize("count", [1, 2])
def test_one_image_before_each_text_is_as_in_transformers(folder, processor, count):
    """With its mark, and without one; alone, and padded in a batch."""
    theirs = Kosmos2Processor.from_pretrained(str(folder / "exported"))
    texts = ["the red cat", "a house near the river"][:count]
    expected = theirs(text=texts, images=images(count), padding=True, return_tensors="pt")
    for given in (texts, [f"<image>{text}" for text in texts]):
        found = processor(text=given, images=images(count), padding=True, return_tensors="pt")
        assert set(found) == set(expected)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("text", "count"),
    [("<image> the red cat", 1), ("<image> the <image> red <image> cat", 3), ("a <image>", 1), ("the red cat", 0)],
)
def test_any_prompt_is_ours_and_generates_the_same(folder, processor, text, count):
    kosmos = load(folder / "ours" / "model.pt")
    model = AutoModelForImageTextToText.from_pretrained(str(folder / "exported")).eval()
    inputs = processor(text=text, images=images(count) or None, return_tensors="pt")
    sample = kosmos.prompt(text, PICTURES[:count])
    slots = torch.from_numpy(sample.image_slots)
    assert torch.equal(inputs["image_embeds_position_mask"][0].bool(), slots)
    assert torch.equal(inputs["input_ids"][0][~slots], torch.from_numpy(sample.tokens)[~slots])
    options = {"max_new_tokens": 12, "do_sample": False, "generation_config": model.generation_config}
    generated = model.generate(**inputs, **options)[0, len(sample) :]
    expected = kosmos.generate(text, PICTURES[:count], max_new_tokens=12, details=True).choices[0].tokens
    assert generated.tolist() == list(expected)


def test_a_chat(processor):
    picture = {"type": "image", "image": images(1)[0]}
    turns = [
        {"role": "user", "content": [picture, {"type": "text", "text": "what is this?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "a cat"}]},
        {"role": "user", "content": [picture, {"type": "text", "text": "and this?"}]},
    ]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    found = processor.apply_chat_template(turns, **options)
    text = "<image> Question: what is this? Answer: a cat <image> Question: and this? Answer:"
    expected = processor(text=text, images=images(1) * 2, return_tensors="pt")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_an_image_without_its_mark_in_another_text_is_refused(processor):
    with pytest.raises(ValueError, match="1 <image> and 2 images"):
        processor(text="the <image> of", images=images(2))
    with pytest.raises(ValueError, match="1 <image> and 0 images"):
        processor(text="the <image> of")
