"""The names of the weights in transformers' `Kosmos2ForConditionalGeneration`, beside ours.

The decoder's layers have the same names in both, TorchScale's. CLIP's are open_clip's here and transformers' there,
where the query, key and value projections, one matrix in open_clip, are three.
"""

import re
from collections.abc import Iterable

import torch

from kosmos_plugin.checkpoints.files import Tensors

_VISUAL = "vision.encoder.visual."
_VISION_MODEL = "vision_model.model."
# What our names begin with → what theirs do. The first that fits counts.
_BEGINNINGS = {
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


def their_names(name: str) -> tuple[str, ...]:
    """Our name of a tensor → theirs: one, or three whose tensors stand one below the other in ours; none if unknown."""
    for ours, theirs in _BEGINNINGS.items():
        if name.startswith(ours):
            name = theirs + name.removeprefix(ours)
            break
    else:
        return ()
    if name.startswith(f"{_VISION_MODEL}encoder."):
        if match := _IN_PROJECTION.search(name):
            return tuple(f"{name[: match.start()]}.self_attn.{x}_proj.{match.group(1)}" for x in "qkv")
        for ours, theirs in _BLOCK.items():
            name = name.replace(ours, theirs)
    return (name,)


def to_theirs(ours: Tensors) -> Tensors:
    """Our weights under their names; every name must be known to `their_names`."""
    theirs: Tensors = {}
    for name, tensor in ours.items():
        names = their_names(name)
        parts = [tensor] if len(names) == 1 else [part.clone() for part in tensor.chunk(len(names))]
        theirs.update(zip(names, parts, strict=True))
    return theirs


def to_ours(theirs: Tensors, names: Iterable[str]) -> Tensors:
    """Their weights under our `names`; each name's tensors must be there. Those with several are joined."""
    ours: Tensors = {}
    for name in names:
        tensors = [theirs[their_name] for their_name in their_names(name)]
        ours[name] = tensors[0] if len(tensors) == 1 else torch.cat(tensors)
    return ours
