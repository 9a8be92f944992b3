"""Resamplers: features of an image [N, L, W] → a fixed number of embeddings for the decoder [N, K, E]."""

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_kosmos import KosmosConfig
from .decoder_kosmos import KosmosMultiheadAttention


class ResamplerAttention(KosmosMultiheadAttention):
    """Attention of some positions to others."""

    def __init__(self, config: KosmosConfig, width: int, num_heads: int, bias: bool):
        super().__init__(config, width, num_heads, config.attention_dropout, is_causal=False)
        self.q_proj = nn.Linear(width, width, bias=bias)
        self.k_proj = nn.Linear(width, width, bias=bias)
        self.v_proj = nn.Linear(width, width, bias=bias)
        self.out_proj = nn.Linear(width, width, bias=bias)

    def forward(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """queries [N, K, W], keys [N, L, W] → [N, K, W]"""
        query = self.split_heads(self.q_proj(queries))
        key, value = (self.split_heads(project(keys)) for project in (self.k_proj, self.v_proj))
        return self.out_proj(self.attend(query, key, value)[0])


class AttentiveResampler(nn.Module):
    """KOSMOS-2's: a linear map, then one layer in which latents attend to the features and to themselves."""

    def __init__(self, config: KosmosConfig, vision_width: int):
        super().__init__()
        self.dense = nn.Linear(vision_width, config.hidden_size)
        self.latents = nn.Parameter(torch.empty(config.num_image_tokens, config.hidden_size))
        self.attention = ResamplerAttention(config, config.hidden_size, config.num_attention_heads, bias=True)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """features [N, L, W] → [N, K, E]"""
        latents = self.latents.expand(features.size(0), -1, -1)
        return self.attention(latents, torch.cat((self.dense(features), latents), dim=1))


class PerceiverLayer(nn.Module):
    """One layer of the perceiver resampler."""

    HEAD_DIM = 64

    def __init__(self, config: KosmosConfig, width: int):
        super().__init__()
        self.features_layer_norm = nn.LayerNorm(width)
        self.latents_layer_norm = nn.LayerNorm(width)
        self.attention = ResamplerAttention(config, width, max(width // self.HEAD_DIM, 1), bias=False)
        self.ffn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width, bias=False)
        self.fc2 = nn.Linear(4 * width, width, bias=False)

    def forward(self, latents: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """latents [N, K, W], features [N, L, W] → latents [N, K, W]"""
        queries = self.latents_layer_norm(latents)
        keys = torch.cat((self.features_layer_norm(features), queries), dim=1)
        latents = latents + self.attention(queries, keys)
        return latents + self.fc2(F.relu(self.fc1(self.ffn_layer_norm(latents))).square())


class PerceiverResampler(nn.Module):
    """Flamingo's, for an image as a video of one frame, then a linear map to the decoder's width."""

    def __init__(self, config: KosmosConfig, vision_width: int):
        super().__init__()
        self.latents = nn.Parameter(torch.empty(config.num_image_tokens, vision_width))
        self.time_embeddings = nn.Parameter(torch.empty(1, vision_width))
        self.layers = nn.ModuleList(PerceiverLayer(config, vision_width) for _ in range(config.resampler_layers))
        self.layer_norm = nn.LayerNorm(vision_width)
        self.dense = nn.Linear(vision_width, config.hidden_size)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """features [N, L, W] → [N, K, E]"""
        features = features + self.time_embeddings
        latents = self.latents.expand(features.size(0), -1, -1)
        for layer in self.layers:
            latents = layer(latents, features)
        return self.dense(self.layer_norm(latents))


class LinearResampler(nn.Module):
    """A linear map of each feature, so K = L."""

    def __init__(self, config: KosmosConfig, vision_width: int):
        super().__init__()
        self.dense = nn.Linear(vision_width, config.hidden_size)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """features [N, L, W] → [N, L, E]"""
        return self.dense(features)


RESAMPLERS = {"attentive": AttentiveResampler, "perceiver": PerceiverResampler, "linear": LinearResampler}
