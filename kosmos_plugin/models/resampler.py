"""Resamplers: features of an image [N, L, W] → a fixed number of image embeddings for the decoder [N, K, E] (§2.1).

The paper says "Resampler [ADL+22]", which is Flamingo's (Alayrac et al. 2022), but its parameter count fits KOSMOS-2's
form of it, one attention layer. `--resampler` chooses among those in RESAMPLERS.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from kosmos_plugin.errors import UserError
from kosmos_plugin.models.config import KosmosConfig
from kosmos_plugin.models.torchscale import DecoderConfig, MultiheadAttention


class Resampler(nn.Module):
    """Interface of a resampler."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """features [N, L, W] → image embeddings [N, K, E]"""
        raise NotImplementedError

    def rollout(self, features: torch.Tensor) -> torch.Tensor:
        """Which features the embeddings are made of, by the attention of all layers, mean over heads.

        The layers are composed by attention rollout (Abnar and Zuidema 2020, https://arxiv.org/abs/2005.00928), in
        which half of a layer's output comes from its residual, if it has one.

        Returns:
            The share of each feature in each embedding, float32 [N, K, L]. They sum to less than 1: the rest is that of
            the resampler's own latents.
        """
        raise NotImplementedError


class AttentiveResampler(Resampler):
    """KOSMOS-2's resampler: a linear map, then one attention layer.

    Learned latents attend to the image's features and to themselves; no residual, no feed-forward network.
    Source: kosmos-2/unilm/models/connector.py of https://github.com/microsoft/unilm.
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
        """features [N, L, W] → [N, K, E]"""
        return self._attend(features)[0]

    def rollout(self, features: torch.Tensor) -> torch.Tensor:
        weights_HNKP = self._attend(features)[1]
        return weights_HNKP.float().mean(dim=0)[..., : features.size(1)]

    def _attend(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The embeddings [N, K, E], and the attention weights [H, N, K, L + K]."""
        latents_NKE = self.latents.unsqueeze(0).expand(features.size(0), -1, -1)
        keys = torch.cat((self.dense(features), latents_NKE), dim=1)  # [N, L + K, E]
        return self.attention(latents_NKE, keys, keys)


class PerceiverResampler(Resampler):
    """Flamingo's resampler of any depth, then a linear map to the decoder's width.

    An image is a video of one frame: one time embedding is added to all of its features, which get no spatial
    positions. In each layer the latents attend to the features and to themselves, then pass through a feed-forward
    network; both have pre-LayerNorm and a residual. Source: Flamingo, §3.1.1 and appendix A.1.1.
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
        """features [N, L, W] → [N, K, E]"""
        features = features + self.time_embeddings
        latents = self.latents.unsqueeze(0).expand(features.size(0), -1, -1)
        for layer in self.layers:
            latents = layer(latents, features)
        return self.dense(self.layer_norm(latents))

    def rollout(self, features: torch.Tensor) -> torch.Tensor:
        features = features + self.time_embeddings
        latents = self.latents.unsqueeze(0).expand(features.size(0), -1, -1)
        shares_NKL = features.new_zeros(*latents.shape[:2], features.size(1), dtype=torch.float32)
        for layer in self.layers:
            assert isinstance(layer, PerceiverLayer)
            to_features, to_latents = layer.attention_weights(latents, features).split(
                [features.size(1), latents.size(1)], dim=-1
            )
            shares_NKL = (shares_NKL + to_features + to_latents @ shares_NKL) / 2
            latents = layer(latents, features)
        return shares_NKL


class PerceiverLayer(nn.Module):
    """One layer of the perceiver resampler, as wide as the vision features."""

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
        """latents [N, K, W], features [N, L, W] → latents [N, K, W]"""
        queries, keys = self._queries_and_keys(latents, features)
        q, k, v = map(self._heads, (self.q_proj(queries), self.k_proj(keys), self.v_proj(keys)))
        dropout = self.attention_dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        latents = latents + self.out_proj(attended.transpose(1, 2).flatten(2))
        squared_relu = F.relu(self.fc1(self.ffn_layer_norm(latents))).square()
        return latents + self.fc2(squared_relu)

    def attention_weights(self, latents: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """As `forward` → the attention of each latent to features, then latents: mean over heads, [N, K, L + K]."""
        queries, keys = self._queries_and_keys(latents, features)
        q_NHKD, k_NHPD = self._heads(self.q_proj(queries)).float(), self._heads(self.k_proj(keys)).float()
        scores_NHKP = q_NHKD @ k_NHPD.transpose(-2, -1) * q_NHKD.size(-1) ** -0.5
        return scores_NHKP.softmax(dim=-1).mean(dim=1)

    def _queries_and_keys(self, latents: torch.Tensor, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What attends [N, K, W], and to what [N, L + K, W]."""
        queries = self.latents_layer_norm(latents)
        return queries, torch.cat((self.features_layer_norm(features), queries), dim=1)

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """[N, P, W] → [N, H, P, D]"""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class LinearResampler(Resampler):
    """No resampling: a linear map of each feature, so K = L."""

    def __init__(self, config: KosmosConfig, decoder: DecoderConfig, num_features: int, vision_width: int):
        super().__init__()
        if config.image_tokens != num_features:
            raise UserError(
                f"--resampler linear turns each of the vision encoder's {num_features} features into an embedding: "
                f"give --image-tokens {num_features}, not {config.image_tokens}."
            )
        self.dense = nn.Linear(vision_width, decoder.decoder_embed_dim)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """features [N, L, W] → [N, L, E]"""
        return self.dense(features)

    def rollout(self, features: torch.Tensor) -> torch.Tensor:
        return torch.eye(features.size(1), device=features.device).expand(features.size(0), -1, -1)


RESAMPLERS: dict[str, Callable[..., Resampler]] = {
    "attentive": AttentiveResampler,
    "perceiver": PerceiverResampler,
    "linear": LinearResampler,
}


def build_resampler(config: KosmosConfig, decoder: DecoderConfig, num_features: int, vision_width: int) -> Resampler:
    """Build the resampler that `config` names.

    Args:
        config: The architecture.
        decoder: TorchScale's configuration of the decoder.
        num_features: L.
        vision_width: W.
    """
    return RESAMPLERS[config.resampler](config, decoder, num_features, vision_width)
