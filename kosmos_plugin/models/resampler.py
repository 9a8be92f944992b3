"""Resamplers: an image's features → a fixed number of image embeddings of the decoder's width (§2.1).

The paper says "Resampler [ADL+22]", Flamingo's (Alayrac et al. 2022); its count of parameters fits the public
relative's form of it, one attention layer. `--resampler` chooses; another one is a class more in RESAMPLERS.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torchscale.architecture.config import DecoderConfig
from torchscale.component.multihead_attention import MultiheadAttention

from kosmos_plugin.errors import UserError
from kosmos_plugin.models.config import KosmosConfig


class AttentiveResampler(nn.Module):
    """The public relative's: a linear map, then one attention layer, [N, L, vision_width] → [N, image_tokens, E].

    Learned latents query the image's features and the latents themselves; no residual, no feed-forward network.
    """

    def __init__(self, config: KosmosConfig, decoder: DecoderConfig, num_features: int, vision_width: int):
        super().__init__()
        width = decoder.decoder_embed_dim
        self.dense = nn.Linear(vision_width, width)
        self.latents = nn.Parameter(torch.randn(config.image_tokens, width))
        self.attention = MultiheadAttention(
            decoder,
            width,
            decoder.decoder_attention_heads,
            dropout=decoder.attention_dropout,
            encoder_decoder_attention=True,
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        latents = self.latents.unsqueeze(0).expand(features.size(0), -1, -1)
        seen = torch.cat((self.dense(features), latents), dim=1)
        return self.attention(latents, seen, seen)[0]


class PerceiverResampler(nn.Module):
    """Flamingo's, of any depth, then a linear map to the decoder's width: [N, L, vision_width] → [N, image_tokens, E].

    An image is a clip of one frame: the first time embedding is added to all of its features, and nothing tells them
    apart in space. Each layer is an attention of the latents to features and latents, and a feed-forward network, both
    on normalized input and with a residual (Flamingo, §3.1.1 and appendix A.1.1).
    """

    def __init__(self, config: KosmosConfig, decoder: DecoderConfig, num_features: int, vision_width: int):
        super().__init__()
        if config.resampler_layers < 1:
            raise UserError(f"--resampler-layers must be at least 1, not {config.resampler_layers}.")
        self.latents = nn.Parameter(torch.randn(config.image_tokens, vision_width))
        self.time_embeddings = nn.Parameter(torch.randn(1, vision_width))
        self.layers = nn.ModuleList(
            PerceiverLayer(vision_width, decoder.attention_dropout) for _ in range(config.resampler_layers)
        )
        self.layer_norm = nn.LayerNorm(vision_width)
        self.dense = nn.Linear(vision_width, decoder.decoder_embed_dim)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        features = features + self.time_embeddings
        latents = self.latents.unsqueeze(0).expand(features.size(0), -1, -1)
        for layer in self.layers:
            latents = layer(latents, features)
        return self.dense(self.layer_norm(latents))


class PerceiverLayer(nn.Module):
    """latents [N, M, W], features [N, L, W] → latents [N, M, W]"""

    HEAD_DIM = 64

    def __init__(self, width: int, attention_dropout: float):
        super().__init__()
        self.heads = max(width // self.HEAD_DIM, 1)
        self.attention_dropout = attention_dropout
        self.features_layer_norm = nn.LayerNorm(width)
        self.latents_layer_norm = nn.LayerNorm(width)
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.out_proj = nn.Linear(width, width, bias=False)
        self.ffn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width, bias=False)
        self.fc2 = nn.Linear(4 * width, width, bias=False)

    def forward(self, latents: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        queries = self.latents_layer_norm(latents)
        seen = torch.cat((self.features_layer_norm(features), queries), dim=1)
        q, k, v = (
            projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projected in (self.q_proj(queries), self.k_proj(seen), self.v_proj(seen))
        )
        dropout = self.attention_dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        latents = latents + self.out_proj(attended.transpose(1, 2).flatten(2))
        squared_relu = F.relu(self.fc1(self.ffn_layer_norm(latents))).square()
        return latents + self.fc2(squared_relu)


class LinearResampler(nn.Module):
    """No resampler: a linear map of each of the image's L features, [N, L, vision_width] → [N, L, E]."""

    def __init__(self, config: KosmosConfig, decoder: DecoderConfig, num_features: int, vision_width: int):
        super().__init__()
        if config.image_tokens != num_features:
            raise UserError(
                f"--resampler linear makes an embedding of each of the vision encoder's {num_features} features: "
                f"give --image-tokens {num_features}, not {config.image_tokens}."
            )
        self.dense = nn.Linear(vision_width, decoder.decoder_embed_dim)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.dense(features)


RESAMPLERS = {"attentive": AttentiveResampler, "perceiver": PerceiverResampler, "linear": LinearResampler}


def build_resampler(config: KosmosConfig, decoder: DecoderConfig, num_features: int, vision_width: int) -> nn.Module:
    """The resampler that `config` names, for `num_features` features of `vision_width` an image."""
    return RESAMPLERS[config.resampler](config, decoder, num_features, vision_width)
