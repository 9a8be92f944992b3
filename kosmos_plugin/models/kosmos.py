"""The model: vision encoder → resampler → the image slots of the decoder's input (Figure 1 of the paper)."""

from typing import TYPE_CHECKING, Self

import torch
from torch import nn

from kosmos_plugin.errors import UserError
from kosmos_plugin.models.autocast import bfloat16_autocast
from kosmos_plugin.models.config import KosmosConfig
from kosmos_plugin.models.cross_entropy import summed_cross_entropy

if TYPE_CHECKING:  # TorchScale and open_clip take seconds to import
    from kosmos_plugin.models.decoder import KosmosDecoder
    from kosmos_plugin.models.vision import Vision


class Kosmos(nn.Module):
    """Vision, resampler and decoder. Tensors are those of `data.batch.Batch`; E is the decoder's width.

    A text-only model (`--vision-encoder none`) is only the decoder: `vision` and `resampler` are None.
    """

    def __init__(
        self,
        config: KosmosConfig,
        vision: "Vision | None",
        resampler: nn.Module | None,
        decoder: "KosmosDecoder",
    ):
        super().__init__()
        if config.compile and config.checkpoint_activations == "selective":
            raise UserError(
                "--compile chooses itself what is cheap to recompute: give --checkpoint-activations none or full."
            )
        self.config = config
        self.vision = vision
        self.resampler = resampler
        self.decoder = decoder
        if config.compile:
            # Layer by layer: equal layers share what was compiled. Lengths and numbers of images vary freely, also from
            # what they happen to equal in the first batch.
            from torch.fx.experimental import _config

            _config.use_duck_shape = False
            for layer in (*decoder.layers, *(vision.encoder.layers() if vision is not None else ())):
                layer.compile(dynamic=True)

    @classmethod
    def build(cls, config: KosmosConfig, vocabulary_size: int, pad: int, pretrained_vision: bool = True) -> Self:
        """A model with random weights, but for the vision encoder's pretrained ones.

        Args:
            config: The architecture.
            vocabulary_size: Tokens of the vocabulary.
            pad: The id of `<pad>`.
            pretrained_vision: Whether to read `config.vision_weights`; not if a checkpoint is about to be loaded.
        """
        from kosmos_plugin.models.decoder import KosmosDecoder
        from kosmos_plugin.models.resampler import build_resampler
        from kosmos_plugin.models.vision import Vision, build_vision_encoder

        encoder = None
        if config.vision_encoder != "none":
            encoder = build_vision_encoder(
                config.vision_encoder,
                config.vision_model,
                None if config.vision_weights == "none" else config.vision_weights,
                config.image_size,
                config.trainable_vision_layers,
                load_weights=pretrained_vision,
            )
        decoder = KosmosDecoder(config, vocabulary_size, pad)
        if encoder is None:
            return cls(config, None, None, decoder)
        resampler = build_resampler(config, decoder.args, encoder.num_features, encoder.width)
        vision = Vision(encoder, config.cache_vision_features, config.frozen_vision_dtype)
        return cls(config, vision, resampler, decoder)

    def max_positions(self) -> int:
        """The longest sequence that the model was trained on."""
        return self.config.tokens_per_sample

    def forward(
        self,
        tokens: torch.Tensor,
        document_ids: torch.Tensor,
        image_slots: torch.Tensor | None = None,
        images: torch.Tensor | None = None,
        targets: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(logits [B, T, V], None), or the loss and nothing larger if `targets` [B, T] are given.

        Then it is (the sum of nll over the M targets that are not `pad`, the nll of each [M], row by row, without a
        gradient). The loss is computed in here, where wrappers that gather the weights for `forward` have them.
        """
        with bfloat16_autocast(self.config.bf16_autocast, tokens.device):
            hidden = self.decoder(self.embed(tokens, image_slots, images), document_ids)
            if targets is None:
                return self.decoder.output_layer(hidden), None
            places = targets.flatten().ne(self.decoder.embed_tokens.padding_idx).nonzero().flatten()
            weight = self.decoder.output_projection.weight
            return summed_cross_entropy(hidden.flatten(0, 1).index_select(0, places), weight, targets.flatten()[places])

    def embed(
        self, tokens: torch.Tensor, image_slots: torch.Tensor | None, images: torch.Tensor | None
    ) -> torch.Tensor:
        """Token embeddings [B, T, E] with the image embeddings in the places of the slots."""
        embeddings = self.decoder.embed_tokens(tokens)
        if images is not None and len(images) > 0:
            places = image_slots.unsqueeze(-1)
            return embeddings.masked_scatter(places, self.embed_images(images).to(embeddings.dtype))
        if self.training and images is not None and self.vision is not None:
            # Every trainable parameter needs a gradient on every rank: one blank image, with weight zero.
            blank = images.new_zeros(1, *images.shape[1:])
            return embeddings + 0.0 * self.embed_images(blank).sum().to(embeddings.dtype)
        return embeddings

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        """images uint8 [N, 3, S, S] → [N, image_tokens, E]"""
        if self.vision is None:
            raise UserError("This model reads text alone (--vision-encoder none), and its data has an image.")
        if self.config.compile and len(images) == 1:
            # torch.compile compiles once more for dimensions of one, whatever it is told.
            return self.embed_images(images.repeat(2, 1, 1, 1))[:1]
        return self.resampler(self.vision(images))
