"""Where it looked: shares as transformers has them, maps that lie where the model sees what they stand for."""

import copy
import dataclasses
import io
import random

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from kosmos_plugin.errors import UserError
from kosmos_plugin.generation.attention_map import AttentionMap
from kosmos_plugin.generation.generator import Generator, load
from kosmos_plugin.images import decode_image
from kosmos_plugin.models.lora import add_adapter, is_of_adapter
from kosmos_plugin.models.vision import build_vision_encoder
from tests import tiny
from tests.checkpoints import exported

PICTURE, OTHER = (tiny.png(random.Random(seed), 40) for seed in (1, 2))
ANSWER = "a red cat sees the house"


@pytest.mark.parametrize("variant", ["clip", "perceiver", "linear", "efficientnet"])
def test_shares_are_those_of_transformers_eager_attention(tmp_path, variant):
    """Of every way to give positions, with one image and two, for all layers and for one."""
    checkpoint, folder = exported.write_folder(tmp_path, variant)
    kosmos = load(checkpoint)
    theirs = AutoModelForImageTextToText.from_pretrained(
        str(folder), trust_remote_code=True, attn_implementation="eager"
    ).eval()
    processor = AutoProcessor.from_pretrained(str(folder), trust_remote_code=True)
    answer = torch.tensor([kosmos.vocabulary.encode(ANSWER)])
    for prompt, images in (("<image> the", [PICTURE]), ("a <image> cat <image> of", [PICTURE, OTHER])):
        inputs = processor(text=[prompt], images=[images], return_tensors="pt")
        ids = torch.cat((inputs["input_ids"], answer[:, :-1]), dim=1)
        with torch.no_grad():
            found = theirs(input_ids=ids, pixel_values=inputs["pixel_values"], output_attentions=True)
        slots = (ids[0] == theirs.config.image_token_id).nonzero()[:, 0].view(len(images), -1)
        for layers, chosen in ((None, [0, 1]), (-1, [1]), ([0], [0])):
            weights = torch.stack([found.attentions[layer][0] for layer in chosen]).mean(dim=(0, 1))
            looked = kosmos.attention_map(prompt, images, ANSWER, layers)
            assert len(looked.soft_tokens) == len(looked.maps) == len(images)
            for ours, places in zip(looked.soft_tokens, slots, strict=True):
                expected = weights[-answer.size(1) :, places].numpy()
                np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_a_map_sums_to_the_share_of_its_image(kosmos):
    looked = kosmos.attention_map("the <image> cat <image> of", [PICTURE, OTHER], ANSWER)
    assert looked.tokens == kosmos.vocabulary.encode_parts(ANSWER)[1] and "".join(looked.tokens) == ANSWER
    count, side = len(looked.tokens), tiny.IMAGE_SIZE // 16
    for heat, soft in zip(looked.maps, looked.soft_tokens, strict=True):
        assert heat.shape == (count, side, side) and soft.shape == (count, tiny.IMAGE_TOKENS)
        assert heat.dtype == soft.dtype == np.float32 and heat.min() > 0
        np.testing.assert_allclose(heat.sum(axis=(1, 2)), soft.sum(axis=1), rtol=1e-5)
    assert (sum(soft.sum(axis=1) for soft in looked.soft_tokens) < 1).all()


@torch.no_grad()
@pytest.mark.parametrize("resampler", ["attentive", "perceiver"])
def test_a_map_is_the_soft_tokens_attention_through_the_resampler(data, resampler):
    """The class token, which comes first, and the latents have no place in it."""
    task = tiny.task(data)
    kosmos = Generator(tiny.model(task, resampler=resampler), task.vocabulary, task.sample_builder)
    looked = kosmos.attention_map("<image>", PICTURE, ANSWER)
    pixels = decode_image(PICTURE, tiny.IMAGE_SIZE).unsqueeze(0)
    shares = kosmos.model.resampler.rollout(kosmos.model.vision(pixels))[0].numpy()
    assert shares.shape == (tiny.IMAGE_TOKENS, 1 + 4)
    expected = looked.soft_tokens[0] @ shares[:, 1:]
    expected *= (looked.soft_tokens[0].sum(axis=1) / expected.sum(axis=1))[:, np.newaxis]
    np.testing.assert_allclose(looked.maps[0].reshape(-1, 4), expected, rtol=1e-4)


def test_a_tokens_map_does_not_depend_on_those_after_it(kosmos):
    whole = kosmos.attention_map("the <image> of", PICTURE, ANSWER)
    begin = kosmos.attention_map("the <image> of", PICTURE, ANSWER[: len("a red")])
    np.testing.assert_allclose(begin.maps[0], whole.maps[0][: len(begin.tokens)], atol=1e-6)
    as_prompt = kosmos.attention_map("the <image> of a red", PICTURE, ANSWER[len("a red") :])
    np.testing.assert_allclose(as_prompt.maps[0], whole.maps[0][len(begin.tokens) :], atol=1e-6)


def test_layers(kosmos):
    one_by_one = [kosmos.attention_map("<image>", PICTURE, ANSWER, layer).soft_tokens[0] for layer in (0, 1)]
    for layers in (None, [0, 1], (1, -2), range(2)):
        looked = kosmos.attention_map("<image>", PICTURE, ANSWER, layers)
        np.testing.assert_allclose(looked.soft_tokens[0], sum(one_by_one) / 2, atol=1e-6)
    assert abs(one_by_one[0] - one_by_one[1]).max() > 1e-3
    assert np.array_equal(kosmos.attention_map("<image>", PICTURE, ANSWER, np.int64(-1)).soft_tokens[0], one_by_one[1])


def test_nothing_changes_for_generation(kosmos):
    before = kosmos.score("the <image> of", PICTURE, ["cat", "dog"])
    kosmos.attention_map("the <image> of", PICTURE, ANSWER)
    assert kosmos.score("the <image> of", PICTURE, ["cat", "dog"]) == before


def test_half_precision(data):
    task = tiny.task(data)
    exact = Generator(tiny.model(task), task.vocabulary, task.sample_builder)
    half = Generator(tiny.model(task).bfloat16(), task.vocabulary, task.sample_builder)
    maps = [kosmos.attention_map("the <image> of", PICTURE, ANSWER).maps[0] for kosmos in (exact, half)]
    assert maps[1].dtype == np.float32
    np.testing.assert_allclose(*maps, atol=2e-3)


def test_an_adapter_that_is_not_merged(data):
    pytest.importorskip("peft")
    task = tiny.task(data)
    model = tiny.model(task)
    plain = Generator(copy.deepcopy(model), task.vocabulary, task.sample_builder)
    model.config = dataclasses.replace(model.config, lora_base="base.pt", lora_rank=4)
    add_adapter(model)
    adapted = Generator(model, task.vocabulary, task.sample_builder)
    maps = [each.attention_map("<image>", PICTURE, ANSWER).maps[0] for each in (plain, adapted)]
    np.testing.assert_allclose(*maps, atol=1e-6)  # B is zero at first
    for name, parameter in model.named_parameters():
        if is_of_adapter(name):
            parameter.data.normal_(std=0.3)
    assert abs(adapted.attention_map("<image>", PICTURE, ANSWER).maps[0] - maps[0]).max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "model", "size", "side"), [("clip", "", 32, 2), ("efficientnet_lite", "lite0", 224, 7)]
)
def test_the_grid_is_that_of_the_picture(data, name, model, size, side):
    """Where the picture is changed, features change: the center of the changes follows down and to the right."""
    torch.manual_seed(0)
    weights = "imagenet" if model else None
    encoder = build_vision_encoder(name, model or str(data.parent / "clip.json"), weights, size, 1).eval()
    assert encoder.grid == (side, side)
    picture = torch.randn(1, 3, size, size)
    before = encoder.trainable(encoder.frozen(picture))[0]

    def center_of_changes(row, column):
        changed, patch = picture.clone(), size // side
        changed[..., row * patch : (row + 1) * patch, column * patch : (column + 1) * patch] = 3
        after = encoder.trainable(encoder.frozen(changed))[0]
        change = (after - before).norm(dim=1)[-side * side :].view(side, side)
        places = torch.arange(side).float()
        return (change.sum(dim=1) @ places / change.sum()).item(), (change.sum(dim=0) @ places / change.sum()).item()

    first, last = (0, 1) if side == 2 else (1, side - 2)
    begin, down, right = center_of_changes(first, first), center_of_changes(last, first), center_of_changes(first, last)
    assert down[0] - begin[0] > 0.05 * side > abs(down[1] - begin[1])
    assert right[1] - begin[1] > 0.05 * side > abs(right[0] - begin[0])


def encoded(pixels: np.ndarray, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", exif=exif)
    return file.getvalue()


STORED_AS = {1: lambda x: x, 3: lambda x: x[::-1, ::-1], 6: lambda x: np.rot90(x), 8: lambda x: np.rot90(x, -1)}


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(60, 300), st.integers(60, 300)),
    fit=st.sampled_from(["crop", "stretch"]),
    orientation=st.sampled_from(sorted(STORED_AS)),
    where=st.tuples(st.floats(0.3, 0.7), st.floats(0.3, 0.7)),
    size=st.none() | st.integers(64, 500),
)
def test_the_map_lies_over_what_the_model_sees(shape, fit, orientation, where, size):
    """A map of what is bright in the model's input is brightest over the bright spot of the picture."""
    height, width = shape
    ys, xs = np.mgrid[:height, :width]
    spot = np.exp(-((ys - where[0] * height) ** 2 + (xs - where[1] * width) ** 2) / 100)
    pixels = (200 * spot).astype(np.uint8)[..., np.newaxis].repeat(3, axis=2)
    data = encoded(np.ascontiguousarray(STORED_AS[orientation](pixels)), orientation)
    seen = decode_image(data, 64, fit)[0].float()
    heat = torch.nn.functional.avg_pool2d(seen[None, None], 4)[0].numpy()
    assume(heat.max() > 20)  # the model sees the spot
    looked, nothing = (AttentionMap(["a"], [values], [], [data], 64, fit) for values in (heat, 0 * heat))
    drawn = looked.overlay(0, size=size)
    longer = size or 64
    if fit == "crop":
        assert drawn.size == (longer, longer)
    else:
        expected = (longer * width / max(width, height), longer * height / max(width, height))
        np.testing.assert_allclose(drawn.size, expected, atol=0.6)
    background, warm = (np.asarray(each, float) for each in (nothing.overlay(0, size=size), drawn))
    bright = np.unravel_index(background.sum(axis=2).argmax(), background.shape[:2])
    warmest = np.unravel_index(abs(warm - background).sum(axis=2).argmax(), background.shape[:2])
    assert max(abs(np.subtract(bright, warmest))) <= 0.1 * longer


def test_colors_are_shares_of_the_highest_over_all_images():
    black = encoded(np.zeros((32, 32, 3), np.uint8))
    maps = [np.full((1, 2, 2), share / 4, np.float32) for share in (0.4, 0.2, 0.0)]
    looked = AttentionMap(["a"], maps, [], [black] * 3, 32, "crop")
    high, half, none = (np.asarray(looked.overlay(0, number), float).sum() for number in range(3))
    assert high > 1.5 * half > 0 and none == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("<image>", PICTURE, ""), "The answer is empty"),
        (("<image>", PICTURE, " \n "), "The answer is empty"),
        (("<image>", PICTURE, None), "The answer is a text, not of type NoneType"),
        (("<image>", PICTURE, "\ud83d"), "half a surrogate pair"),
        (("<image>", PICTURE, "cat " * 70), "prompt has 7 tokens and the answer 70, which do not fit in the 64 pos"),
        (("a cat", None, "dog"), "prompt has no image to look at"),
        (("a cat", [], "dog"), "prompt has no image to look at"),
        (("a cat", PICTURE, "dog"), "0 <image> and 1 image is given"),
        ((["<image>"], [PICTURE], "dog"), "a prompt is a text, not of type list"),
        (("<image>", b"no picture", "dog"), "image 1 cannot be read"),
        (("<image>", PICTURE, "dog", 2), "There is no layer 2: the decoder has 2, numbered from 0"),
        (("<image>", PICTURE, "dog", [0, -3]), "There is no layer -3"),
        (("<image>", PICTURE, "dog", []), "layers names none"),
        (("<image>", PICTURE, "dog", "last"), "A layer is given by its number, not by 'last'"),
        (("<image>", PICTURE, "dog", True), "A layer is given by its number, not by True"),
        (("<image>", PICTURE, "dog", [0.5]), "A layer is given by its number, not by 0.5"),
    ],
)
def test_refusals(kosmos, arguments, message):
    with pytest.raises(UserError, match=message) as error:
        kosmos.attention_map(*arguments)
    assert "\n" not in str(error.value)


def test_refusals_of_an_overlay(kosmos):
    looked = kosmos.attention_map("<image>", PICTURE, "cat")
    assert looked.overlay(-1, -1).size == (tiny.IMAGE_SIZE, tiny.IMAGE_SIZE)
    for arguments, message in (
        ((1,), "There is no token 1: the answer has 1, numbered from 0"),
        ((0, 1), "There is no image 1: the prompt has 1"),
        (("cat",), "A token is given by its number, not by 'cat'"),
        ((0, 0, 0), "size must be a number of pixels from 1 to 2,048, not 0"),
        ((0, 0, 9999), "size must be"),
        ((0, 0, 10.5), "size must be"),
    ):
        with pytest.raises(UserError, match=message):
            looked.overlay(*arguments)


def test_a_model_without_eyes(data):
    task = tiny.task(data)
    kosmos = Generator(tiny.model(task, vision_encoder="none"), task.vocabulary, task.sample_builder)
    with pytest.raises(UserError, match="reads only text"):
        kosmos.attention_map("<image>", PICTURE, "cat")
