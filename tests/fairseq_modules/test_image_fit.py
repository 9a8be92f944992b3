"""`--image-fit stretch`: training and generation see a wide image as if it had first been stretched to a square."""

import io
import random

import pytest
import torch
from PIL import Image

from kosmos_plugin.generation.generator import Generator
from tests import tiny


@pytest.fixture(scope="module")
def pictures():
    """A wide image, and the same image stretched to a square, as PNG."""
    wide = Image.open(io.BytesIO(tiny.png(random.Random(0), 64))).crop((0, 0, 64, 40))
    square = wide.resize((tiny.IMAGE_SIZE, tiny.IMAGE_SIZE), Image.Resampling.BICUBIC)
    encoded = []
    for picture in (wide, square):
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    return encoded


def micro_batch(data, folder, picture, image_fit):
    folder.mkdir()
    tiny.write_tar(folder / "one.tar", tiny.caption_members("0", "a dog", picture))
    (folder / "data.yaml").write_text(
        f"vocabulary: {data.parent / 'vocabulary'}\n"
        "streams: {captions: {kind: captions, sequences_per_update: 1, corpora: [{name: one, train: one.tar}]}}\n"
    )
    return tiny.batch(tiny.task(folder / "data.yaml", image_fit=image_fit))["images"]


def test_in_training(data, tmp_path, pictures):
    wide, square = pictures
    expected = micro_batch(data, tmp_path / "square", square, "crop")
    assert torch.equal(micro_batch(data, tmp_path / "stretched", wide, "stretch"), expected)
    assert not torch.equal(micro_batch(data, tmp_path / "cropped", wide, "crop"), expected)


def test_in_generation(data, pictures):
    wide, square = pictures

    def scores(picture, image_fit):
        task = tiny.task(data, image_fit=image_fit)
        kosmos = Generator(tiny.model(task), task.vocabulary, task.sample_builder)
        return kosmos.score("<image>", [picture], ["a dog", "the cat"])

    assert scores(wide, "stretch") == scores(square, "crop") != scores(wide, "crop")
