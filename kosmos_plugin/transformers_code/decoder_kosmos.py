"""The decoder of KOSMOS: Magneto's layers (pre-LayerNorm and sub-LayerNorm) with xPos.

The names of its weights are TorchScale's. Shapes: B sequences, T new positions, P positions with those in the cache,
H heads of width D, E = H · D.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_kosmos import KosmosConfig

XPOS_BASE = 10000.0
XPOS_SMOOTHING = 0.4
FIRST_SINUSOID = 2  # fairseq numbers positions from padding_idx + 1
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"gelu": F.gelu, "relu": F.relu, "swish": F.silu}


class Rotation(NamedTuple):
    """xPos tables, float32 [B, 1, T, D]: cos and sin of the angles, times the scale."""

    query_cos: torch.Tensor
    query_sin: torch.Tensor
    key_cos: torch.Tensor
    key_sin: torch.Tensor


def xpos_rotation(position_ids: torch.Tensor, head_dim: int, scale_base: int) -> Rotation:
    """The xPos tables of positions int64 [B, T] (Sun et al. 2022, https://arxiv.org/abs/2212.10554).

    They are computed here, in float32, and not kept as buffers, which the model's dtype would round.
    """
    i = torch.arange(0, head_dim, 2, dtype=torch.float32, device=position_ids.device)
    frequency = XPOS_BASE ** (-i / head_dim)
    zeta = (i / head_dim + XPOS_SMOOTHING) / (1 + XPOS_SMOOTHING)
    n = position_ids.to(torch.float32)[:, None, :, None]
    angle = (n * frequency).repeat_interleave(2, dim=-1)
    scale = (zeta ** (n / scale_base)).repeat_interleave(2, dim=-1)
    cos, sin = angle.cos(), angle.sin()
    return Rotation(cos * scale, sin * scale, cos / scale, sin / scale)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate x [B, H, T, D] in pairs (0 with 1, 2 with 3, …) in float32; the result has x's dtype."""
    x32 = x.float()
    swapped = torch.stack((-x32[..., 1::2], x32[..., ::2]), dim=-1).flatten(-2)
    return (x32 * cos + swapped * sin).to(x.dtype)


def sinusoids(position_ids: torch.Tensor, width: int) -> torch.Tensor:
    """fairseq's sinusoidal positions: int64 [B, T] → float32 [B, T, E]"""
    half = width // 2
    i = torch.arange(half, dtype=torch.float32, device=position_ids.device)
    frequency = torch.exp(i * -(math.log(10000) / (half - 1)))
    angle = (position_ids + FIRST_SINUSOID).to(torch.float32).unsqueeze(-1) * frequency
    return torch.cat((angle.sin(), angle.cos()), dim=-1)


def eager_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention step by step, for `attn_implementation="eager"`: also returns the weights [B, H, T, P]."""
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask[..., : key.shape[-2]]
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    attended = F.dropout(weights, dropout, module.training) @ value
    return attended.transpose(1, 2).contiguous(), weights


class KosmosMultiheadAttention(nn.Module):
    """Projections around one of transformers' attention functions; the base of all attention here.

    Attributes:
        config: The model's; `_attn_implementation` chooses the function.
        is_causal: Whether a query attends only to earlier positions where no mask is given.
    """

    def __init__(self, config: KosmosConfig, width: int, num_heads: int, dropout: float, is_causal: bool):
        super().__init__()
        self.config = config
        self.num_heads = num_heads
        self.head_dim = width // num_heads
        self.dropout = dropout
        self.is_causal = is_causal
        self.num_key_value_groups = 1

    def split_heads(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T, E] → [B, H, T, D]"""
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Queries [B, H, T, D], keys and values [B, H, P, D] → [B, T, E], and the weights if it is eager."""
        name = self.config._attn_implementation
        attention = eager_attention if name in (None, "eager") else ALL_ATTENTION_FUNCTIONS[name]
        attended, weights = attention(
            self,
            query,
            key,
            value,
            attention_mask,
            scaling=self.head_dim**-0.5,
            dropout=self.dropout if self.training else 0.0,
            **kwargs,
        )
        return attended.flatten(2), weights


class KosmosSelfAttention(KosmosMultiheadAttention):
    """Causal self-attention with xPos, and a LayerNorm before the output projection (sub-LayerNorm)."""

    def __init__(self, config: KosmosConfig, layer_idx: int):
        super().__init__(config, config.hidden_size, config.num_attention_heads, config.attention_dropout, True)
        self.layer_idx = layer_idx
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.inner_attn_ln = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self,
        x: torch.Tensor,
        rotation: Rotation | None,
        attention_mask: torch.Tensor | None,
        past_key_values: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        query, key, value = (self.split_heads(project(x)) for project in (self.q_proj, self.k_proj, self.v_proj))
        if rotation is not None:
            query = rotate(query, rotation.query_cos, rotation.query_sin)
            key = rotate(key, rotation.key_cos, rotation.key_sin)
        if past_key_values is not None:  # keys are cached as rotated
            cache_position = {"cache_position": kwargs["cache_position"]} if "cache_position" in kwargs else {}
            key, value = past_key_values.update(key, value, self.layer_idx, cache_position)
        attended, weights = self.attend(query, key, value, attention_mask, **kwargs)
        return self.out_proj(self.inner_attn_ln(attended)), weights


class KosmosFeedForward(nn.Module):
    """A feed-forward network with a LayerNorm before its second projection (sub-LayerNorm)."""

    def __init__(self, config: KosmosConfig):
        super().__init__()
        self.activation = ACTIVATIONS[config.hidden_act]
        self.activation_dropout = nn.Dropout(config.activation_dropout)
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.ffn_layernorm = nn.LayerNorm(config.intermediate_size, eps=config.layer_norm_eps)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T, E] → [B, T, E]"""
        x = self.fc1(x)
        x = self.activation_dropout(self.activation(x.float()).to(x.dtype))
        return self.fc2(self.ffn_layernorm(x))


class KosmosDecoderLayer(GradientCheckpointingLayer):
    """Attention and feed-forward network, each with a LayerNorm before it and a residual around it."""

    def __init__(self, config: KosmosConfig, layer_idx: int):
        super().__init__()
        self.self_attn = KosmosSelfAttention(config, layer_idx)
        self.self_attn_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.ffn = KosmosFeedForward(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: torch.Tensor,
        rotation: Rotation | None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """x [B, T, E] → x [B, T, E], and the attention weights if attention is eager."""
        attended, weights = self.self_attn(
            self.self_attn_layer_norm(x), rotation, attention_mask, past_key_values, **kwargs
        )
        x = x + self.dropout(attended)
        return x + self.dropout(self.ffn(self.final_layer_norm(x))), weights


class KosmosDecoder(nn.Module):
    """Embeddings [B, T, E], image embeddings among them → hidden states [B, T, E]."""

    def __init__(self, config: KosmosConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList(KosmosDecoderLayer(config, number) for number in range(config.num_hidden_layers))
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        position_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...], tuple[torch.Tensor | None, ...]]:
        """Run the layers.

        Returns:
            The hidden states, those before each layer and after the last, and the attention weights of each layer.
        """
        config = self.config
        x = math.sqrt(config.hidden_size) * inputs_embeds
        if config.positions != "xpos":
            x = (x + sinusoids(position_ids, config.hidden_size)).to(x.dtype)  # added in float32
        rotation = None
        if config.positions != "sinusoidal":
            rotation = xpos_rotation(position_ids, config.head_dim, config.xpos_scale_base)
        x = self.dropout(x)
        hidden_states, attentions = [x], []
        for layer in self.layers:
            x, weights = layer(x, rotation, attention_mask=attention_mask, past_key_values=past_key_values, **kwargs)
            hidden_states.append(x)
            attentions.append(weights)
        x = hidden_states[-1] = self.layer_norm(x)
        return x, tuple(hidden_states), tuple(attentions)
