"""Small models of every kind with random weights: checkpoints, and folders of `kosmos-convert --to transformers`."""

import json
import random
from pathlib import Path
from typing import Any

import torch

from kosmos_plugin.checkpoints.convert import convert
from kosmos_plugin.checkpoints.fairseq_checkpoint import new_checkpoint
from kosmos_plugin.generation.generator import Generator
from kosmos_plugin.models.config import ARCHITECTURES
from kosmos_plugin.models.kosmos import Kosmos
from kosmos_plugin.vocabulary import Vocabulary, write_encoding
from tests import tiny

# Name → (architecture, options, changes to open_clip's JSON file).
VARIANTS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "clip": ("kosmos_1", {}, {}),
    "perceiver": ("kosmos_base", {"resampler": "perceiver", "resampler_layers": 2, "positions": "both"}, {}),
    "linear": (
        "kosmos_1",
        {"resampler": "linear", "image_tokens": 5, "positions": "sinusoidal", "untied_embeddings": True},
        {"quick_gelu": True},
    ),
    "layer_scale": (
        "kosmos_1",
        {"activation_fn": "relu", "layernorm_eps": 1e-3},
        {"ls_init_value": 0.1, "no_ln_pre": True, "act_kwargs": {"approximate": "tanh"}, "norm_kwargs": {"eps": 1e-6}},
    ),
    "kosmos_2": ("kosmos_2", {}, {"quick_gelu": True}),
    "efficientnet": (
        "kosmos_tiny",
        {"vision_encoder": "efficientnet_lite", "vision_model": "lite2", "image_size": 80, "image_fit": "stretch"},
        {},
    ),
    "text": ("kosmos_1_lm", {"activation_fn": "swish"}, {}),
}
SIZES = {"decoder_layers": 2, "decoder_embed_dim": 32, "decoder_ffn_embed_dim": 64, "decoder_attention_heads": 2}


def write_checkpoint(folder: Path, variant: str = "clip", dtype: torch.dtype = torch.float32) -> Path:
    """A checkpoint of a variant with its vocabulary beside it, in the new `folder`; returns the path of model.pt."""
    architecture, options, clip_options = VARIANTS[variant]
    vocabulary = tiny.write_vocabulary(folder / "vocabulary")
    if variant in ("clip", "efficientnet"):
        write_encoding(folder / "vocabulary")
        vocabulary = Vocabulary.load(folder / "vocabulary")
    visual = {name: value for name, value in clip_options.items() if name != "quick_gelu"}
    clip = {**tiny.CLIP, "quick_gelu": clip_options.get("quick_gelu", False)}
    clip["vision_cfg"] = {**tiny.CLIP["vision_cfg"], **visual}
    (folder / "clip.json").write_text(json.dumps(clip))
    config = ARCHITECTURES[architecture](**SIZES)
    config.vision_model, config.vision_weights = str(folder / "clip.json"), "none"
    config.image_tokens, config.image_size, config.tokens_per_sample = tiny.IMAGE_TOKENS, tiny.IMAGE_SIZE, 128
    for name, value in options.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    model = Kosmos.build(config, len(vocabulary), vocabulary.pad, pretrained_vision=False)
    for name, parameter in model.named_parameters():
        if ".net." not in name:  # so many layers of noise would amplify the rounding of a batch's other images
            parameter.data += 0.15 * torch.randn_like(parameter)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer += 0.01 * torch.randn_like(buffer)
    # Greater variance of its logit, so that `</s>` ends some generations but not all.
    model.decoder.embed_tokens.weight.data[vocabulary.eos] *= 4
    weights = {name: x.to(dtype) if x.is_floating_point() else x for name, x in model.state_dict().items()}
    state = new_checkpoint(architecture, config, weights, str(folder / "vocabulary"))
    state["task_state"] = {"newlines": vocabulary.newlines, "vocabulary": vocabulary.fingerprint}
    torch.save(state, folder / "model.pt")
    return folder / "model.pt"


def write_folder(folder: Path, variant: str = "clip", **options: Any) -> tuple[Path, Path]:
    """The paths of a variant's checkpoint and of its export, both in the new `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = write_checkpoint(folder / "ours", variant, **options)
    convert(checkpoint, folder / f"kosmos-{variant}", "transformers")
    return checkpoint, folder / f"kosmos-{variant}"


def prompts(kosmos: Generator, seed: int = 0) -> tuple[list[str], list[list[bytes]]]:
    """Texts of unequal lengths and their images: none, one and two; only text for a model without vision."""
    rng = random.Random(seed)
    texts = [tiny.sentence(rng), f"<image> {tiny.sentence(rng)}", f"<image> {tiny.sentence(rng)} <image> the"]
    if kosmos.model.vision is None:
        texts = [text.replace("<image>", "") for text in texts]
    images = [[tiny.png(rng, 40) for _ in range(text.count("<image>"))] for text in texts]
    return texts, images
