"""Our names of the weights ⇄ those of an exported folder's `KosmosForConditionalGeneration` (hf).

The decoder's layers have TorchScale's names in both, and each tensor of ours is one there.
"""

import re
from collections.abc import Iterable

import torch

from kosmos_plugin.tensor_files import Tensors

OUTPUT_PROJECTION = "decoder.output_projection.weight"
HF_OUTPUT_PROJECTION = "lm_head.weight"
# Patterns of our names and what replaces them. The first one that matches applies.
_NAMES = [
    (re.escape(OUTPUT_PROJECTION), HF_OUTPUT_PROJECTION),
    (r"(decoder|resampler)\.(?!layers\.\d+\.[qkv]_proj\.|layers\.\d+\.out_proj\.)(.+)", r"model.\1.\2"),
    (r"resampler\.layers\.(\d+)\.(.+)", r"model.resampler.layers.\1.attention.\2"),
    # open_clip's vision transformer
    (r"vision\.encoder\.visual\.class_embedding", "model.vision.class_embedding"),
    (r"vision\.encoder\.visual\.positional_embedding", "model.vision.position_embedding"),
    (r"vision\.encoder\.visual\.conv1\.", "model.vision.patch_embedding."),
    (r"vision\.encoder\.visual\.ln_(pre|post)\.", r"model.vision.\1_layer_norm."),
    (r"vision\.encoder\.visual\.transformer\.resblocks\.(\d+)\.ln_(\d)\.", r"model.vision.layers.\1.layer_norm\2."),
    (r"vision\.encoder\.visual\.transformer\.resblocks\.(\d+)\.ls_(\d)\.", r"model.vision.layers.\1.layer_scale\2."),
    (r"vision\.encoder\.visual\.transformer\.resblocks\.(\d+)\.attn\.in_proj_", r"model.vision.layers.\1.qkv_proj."),
    (r"vision\.encoder\.visual\.transformer\.resblocks\.(\d+)\.attn\.out_proj\.", r"model.vision.layers.\1.out_proj."),
    (r"vision\.encoder\.visual\.transformer\.resblocks\.(\d+)\.mlp\.c_fc\.", r"model.vision.layers.\1.fc1."),
    (r"vision\.encoder\.visual\.transformer\.resblocks\.(\d+)\.mlp\.c_proj\.", r"model.vision.layers.\1.fc2."),
    # EfficientNet-lite
    (r"vision\.encoder\.net\._conv_(stem|head)\.", r"model.vision.\1.convolution."),
    (r"vision\.encoder\.net\._bn0\.", "model.vision.stem.batch_norm."),
    (r"vision\.encoder\.net\._bn1\.", "model.vision.head.batch_norm."),
    (
        r"vision\.encoder\.net\._blocks\.(\d+)\._(expand|depthwise|project)_conv\.",
        r"model.vision.blocks.\1.\2.convolution.",
    ),
    (r"vision\.encoder\.net\._blocks\.(\d+)\._bn0\.", r"model.vision.blocks.\1.expand.batch_norm."),
    (r"vision\.encoder\.net\._blocks\.(\d+)\._bn1\.", r"model.vision.blocks.\1.depthwise.batch_norm."),
    (r"vision\.encoder\.net\._blocks\.(\d+)\._bn2\.", r"model.vision.blocks.\1.project.batch_norm."),
]


def hf_name(name: str) -> str | None:
    """hf's name for one of ours; None for a weight that it has not."""
    for pattern, replacement in _NAMES:
        if match := re.match(pattern, name):
            return match.expand(replacement) + name[match.end() :]
    return None


def to_hf(weights: Tensors) -> Tensors:
    """Our weights under hf's names; each must have one."""
    return {_known(name): tensor for name, tensor in weights.items()}


def from_hf(hf_weights: Tensors, names: Iterable[str]) -> Tensors:
    """hf's weights under our `names`; none may be missing."""
    return {name: hf_weights[_known(name)] for name in names}


def is_computed(name: str) -> bool:
    """Whether one of our names is of a table that is computed and saved with the weights, as TorchScale's xPos does."""
    return name.endswith(".xpos.scale")


def computed(expected: torch.Tensor) -> torch.Tensor:
    """The table that TorchScale saves as `xpos.scale`; `expected` has its shape [D / 2]."""
    head_dim = 2 * len(expected)
    return (torch.arange(0, head_dim, 2) + 0.4 * head_dim) / (1.4 * head_dim)


def _known(name: str) -> str:
    found = hf_name(name)
    assert found is not None, name
    return found
