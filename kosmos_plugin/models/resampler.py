"""The resampler: any number of image features → a fixed number of image embeddings of the decoder's width (§2.1).

The public relative's form of Flamingo's: a linear map, then one attention layer in which learned latents query the
image's features and the latents themselves; no residual, no feed-forward network.
"""

import torch
from torch import nn
from torchscale.architecture.config import DecoderConfig
from torchscale.component.multihead_attention import MultiheadAttention


class AttentiveResampler(nn.Module):
    """features [N, L, vision_width] → image embeddings [N, image_tokens, E]"""

    def __init__(self, config: DecoderConfig, vision_width: int, image_tokens: int):
        super().__init__()
        width = config.decoder_embed_dim
        self.dense = nn.Linear(vision_width, width)
        self.latents = nn.Parameter(torch.randn(image_tokens, width))
        self.attention = MultiheadAttention(
            config,
            width,
            config.decoder_attention_heads,
            dropout=config.attention_dropout,
            encoder_decoder_attention=True,
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        latents = self.latents.unsqueeze(0).expand(features.size(0), -1, -1)
        seen = torch.cat((self.dense(features), latents), dim=1)
        return self.attention(latents, seen, seen)[0]
