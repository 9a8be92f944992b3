"""Our names of the weights ⇄ those of transformers' `Kosmos2ForConditionalGeneration` (hf).

The decoder's layers have TorchScale's names in both. CLIP has open_clip's names here and transformers' there, where the
query, key and value projections, one matrix in open_clip, are three.
"""

import re
from collections.abc import Iterable

import torch

from kosmos_plugin.tensor_files import Tensors

_VISUAL = "vision.encoder.visual."
_VISION_MODEL = "vision_model.model."
# Our prefix → hf's. The first one that matches applies.
_PREFIXES = {
    "decoder.output_projection.": "text_model.lm_head.",
    "decoder.": "text_model.model.",
    "resampler.dense.": "image_to_text_projection.dense.",
    "resampler.latents": "image_to_text_projection.latent_query",
    "resampler.attention.": "image_to_text_projection.x_attn.",
    f"{_VISUAL}class_embedding": f"{_VISION_MODEL}embeddings.class_embedding",
    f"{_VISUAL}positional_embedding": f"{_VISION_MODEL}embeddings.position_embedding.weight",
    f"{_VISUAL}conv1.": f"{_VISION_MODEL}embeddings.patch_embedding.",
    f"{_VISUAL}ln_pre.": f"{_VISION_MODEL}pre_layrnorm.",
    f"{_VISUAL}ln_post.": f"{_VISION_MODEL}post_layernorm.",
    f"{_VISUAL}transformer.resblocks.": f"{_VISION_MODEL}encoder.layers.",
}
# Within a block of CLIP.
_BLOCK = {
    ".ln_1.": ".layer_norm1.",
    ".ln_2.": ".layer_norm2.",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
    ".attn.out_proj.": ".self_attn.out_proj.",
}
_IN_PROJECTION = re.compile(r"\.attn\.in_proj_(weight|bias)$")


def hf_names(name: str) -> tuple[str, ...]:
    """hf's names for one of ours: one, three whose tensors are concatenated in ours, or none without an equivalent."""
    for ours, hf in _PREFIXES.items():
        if name.startswith(ours):
            name = hf + name.removeprefix(ours)
            break
    else:
        return ()
    if name.startswith(f"{_VISION_MODEL}encoder."):
        if match := _IN_PROJECTION.search(name):
            return tuple(f"{name[: match.start()]}.self_attn.{x}_proj.{match.group(1)}" for x in "qkv")
        for ours, hf in _BLOCK.items():
            name = name.replace(ours, hf)
    return (name,)


def to_hf(weights: Tensors) -> Tensors:
    """Our weights under hf's names; `hf_names` must have one for each."""
    hf_weights: Tensors = {}
    for name, tensor in weights.items():
        names = hf_names(name)
        parts = [tensor] if len(names) == 1 else [part.clone() for part in tensor.chunk(len(names))]
        hf_weights.update(zip(names, parts, strict=True))
    return hf_weights


def from_hf(hf_weights: Tensors, names: Iterable[str]) -> Tensors:
    """hf's weights under our `names`; none may be missing."""
    weights: Tensors = {}
    for name in names:
        tensors = [hf_weights[hf_name] for hf_name in hf_names(name)]
        weights[name] = tensors[0] if len(tensors) == 1 else torch.cat(tensors)
    return weights
