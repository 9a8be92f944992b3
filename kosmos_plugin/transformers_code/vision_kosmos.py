"""Vision encoders: normalized images [N, 3, S, S] → features [N, L, W].

`vision_config` describes one as a dict:

    {"model_type": "clip", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "patch_size",
     "hidden_act": a key of ACTIVATIONS, "layer_norm_eps", "pre_layer_norm": bool, "layer_scale": bool}
    {"model_type": "efficientnet_lite", "batch_norm_eps", "stem": convolution, "head": convolution,
     "blocks": [{"expand": convolution or None, "depthwise": convolution, "project": convolution, "residual": bool}, …]}

A convolution: {"in_channels", "out_channels", "kernel_size", "stride", "groups", "padding": [left, right, top,
bottom]}.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_kosmos import KosmosConfig
from .decoder_kosmos import KosmosMultiheadAttention


def quick_gelu(x: torch.Tensor) -> torch.Tensor:
    """OpenAI's approximation of GELU."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "quick_gelu": quick_gelu,
}


class LayerScale(nn.Module):
    """A factor for each channel."""

    def __init__(self, width: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, L, W] → [N, L, W]"""
        return x * self.gamma


class ClipLayer(KosmosMultiheadAttention):
    """One layer of CLIP's vision transformer."""

    def __init__(self, config: KosmosConfig, vision: dict[str, Any]):
        width, inner = vision["hidden_size"], vision["intermediate_size"]
        super().__init__(config, width, vision["num_attention_heads"], dropout=0.0, is_causal=False)
        self.activation = ACTIVATIONS[vision["hidden_act"]]
        self.layer_norm1 = nn.LayerNorm(width, eps=vision["layer_norm_eps"])
        self.qkv_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)
        self.layer_scale1 = LayerScale(width) if vision["layer_scale"] else nn.Identity()
        self.layer_norm2 = nn.LayerNorm(width, eps=vision["layer_norm_eps"])
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)
        self.layer_scale2 = LayerScale(width) if vision["layer_scale"] else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, L, W] → [N, L, W]"""
        query, key, value = (self.split_heads(part) for part in self.qkv_proj(self.layer_norm1(x)).chunk(3, dim=-1))
        x = x + self.layer_scale1(self.out_proj(self.attend(query, key, value)[0]))
        return x + self.layer_scale2(self.fc2(self.activation(self.fc1(self.layer_norm2(x)))))


class ClipVision(nn.Module):
    """CLIP's vision transformer: every token after the last LayerNorm, L2-normalized, without the projection."""

    def __init__(self, config: KosmosConfig, vision: dict[str, Any]):
        super().__init__()
        self.width = width = vision["hidden_size"]
        patch = vision["patch_size"]
        self.patch_embedding = nn.Conv2d(3, width, kernel_size=patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.position_embedding = nn.Parameter(torch.empty((config.image_size // patch) ** 2 + 1, width))
        eps = vision["layer_norm_eps"]
        self.pre_layer_norm = nn.LayerNorm(width, eps=eps) if vision["pre_layer_norm"] else nn.Identity()
        self.layers = nn.ModuleList(ClipLayer(config, vision) for _ in range(vision["num_hidden_layers"]))
        self.post_layer_norm = nn.LayerNorm(width, eps=eps)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images [N, 3, S, S] → features [N, L, W]"""
        x = self.patch_embedding(images).flatten(2).transpose(1, 2)
        x = torch.cat((self.class_embedding.expand(x.size(0), 1, -1), x), dim=1) + self.position_embedding
        x = self.pre_layer_norm(x)
        for layer in self.layers:
            x = layer(x)
        return F.normalize(self.post_layer_norm(x), dim=-1)


class Convolution(nn.Module):
    """A convolution without bias and its batch normalization."""

    def __init__(self, spec: dict[str, Any], batch_norm_eps: float):
        super().__init__()
        self.padding = tuple(spec["padding"])
        self.convolution = nn.Conv2d(
            spec["in_channels"],
            spec["out_channels"],
            spec["kernel_size"],
            stride=spec["stride"],
            groups=spec["groups"],
            bias=False,
        )
        self.batch_norm = nn.BatchNorm2d(spec["out_channels"], eps=batch_norm_eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, h, w] → [N, C', h', w']"""
        return self.batch_norm(self.convolution(F.pad(x, self.padding)))


class InvertedBottleneck(nn.Module):
    """A block of EfficientNet-lite: expansion, depthwise convolution, projection."""

    def __init__(self, spec: dict[str, Any], batch_norm_eps: float):
        super().__init__()
        self.expand = Convolution(spec["expand"], batch_norm_eps) if spec["expand"] else None
        self.depthwise = Convolution(spec["depthwise"], batch_norm_eps)
        self.project = Convolution(spec["project"], batch_norm_eps)
        self.residual = spec["residual"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, h, w] → [N, C', h', w']"""
        inner = x if self.expand is None else F.relu6(self.expand(x))
        projected = self.project(F.relu6(self.depthwise(inner)))
        return projected + x if self.residual else projected


class EfficientNetLite(nn.Module):
    """EfficientNet-lite before pooling: each position of the last map is a feature, scaled to unit RMS."""

    def __init__(self, config: KosmosConfig, vision: dict[str, Any]):
        super().__init__()
        eps = vision["batch_norm_eps"]
        self.width = vision["head"]["out_channels"]
        self.stem = Convolution(vision["stem"], eps)
        self.blocks = nn.ModuleList(InvertedBottleneck(spec, eps) for spec in vision["blocks"])
        self.head = Convolution(vision["head"], eps)

    def train(self, mode: bool = True) -> "EfficientNetLite":
        """Stay in evaluation mode: a pretrained encoder keeps its batch statistics."""
        return super().train(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images [N, 3, S, S] → features [N, L, W]"""
        x = F.relu6(self.stem(images))
        for block in self.blocks:
            x = block(x)
        x = F.relu6(self.head(x)).flatten(2).transpose(1, 2)
        return F.normalize(x, dim=-1) * self.width**0.5


VISION_ENCODERS: dict[str, type[ClipVision] | type[EfficientNetLite]] = {
    "clip": ClipVision,
    "efficientnet_lite": EfficientNetLite,
}
