"""The model (Figure 1 of the paper).

images [N, 3, S, S] ─ vision tower ─→ features [N, L, W] ─ resampler ─→ image embeddings [N, K, E]
                                                                              │ into the image slots
tokens [B, T] ───────────────── embedding table ─────────────→ embeddings [B, T, E] ─ decoder ─→ logits [B, T, V]
"""

from typing import TYPE_CHECKING

import torch
from torch import nn
from typing_extensions import Self

from kosmos_plugin.errors import UserError
from kosmos_plugin.models.autocast import bfloat16_autocast
from kosmos_plugin.models.config import KosmosConfig
from kosmos_plugin.models.cross_entropy import summed_cross_entropy

if TYPE_CHECKING:  # TorchScale and open_clip take seconds to import
    from kosmos_plugin.models.decoder import KosmosDecoder
    from kosmos_plugin.models.vision import VisionTower


class Kosmos(nn.Module):
    """Vision tower, resampler and decoder. `build` makes them from a configuration.

    Args:
        config: The architecture.
        vision: The vision tower; None for a text-only model (`--vision-encoder none`).
        resampler: features [N, L, W] → image embeddings [N, K, E]; None for a text-only model.
        decoder: The language model.
    """

    def __init__(
        self,
        config: KosmosConfig,
        vision: "VisionTower | None",
        resampler: nn.Module | None,
        decoder: "KosmosDecoder",
    ):
        super().__init__()
        if config.compile and config.checkpoint_activations == "selective":
            raise UserError(
                "--compile itself chooses what is cheap to recompute: give --checkpoint-activations none or full."
            )
        self.config = config
        self.vision = vision
        self.resampler = resampler
        self.decoder = decoder
        if config.compile:
            # Layer by layer: equal layers share the compiled code. Sequence lengths and numbers of images vary
            # independently, even if they happen to be equal in the first batch.
            from torch.fx.experimental import _config

            _config.use_duck_shape = False
            for layer in (*decoder.layers, *(vision.encoder.layers() if vision is not None else ())):
                layer.compile(dynamic=True)

    @classmethod
    def build(cls, config: KosmosConfig, vocabulary_size: int, pad: int, pretrained_vision: bool = True) -> Self:
        """Build a model with random weights and a pretrained vision encoder.

        Args:
            config: The architecture.
            vocabulary_size: V.
            pad: The id of `<pad>`.
            pretrained_vision: Whether to read `config.vision_weights`; False if a checkpoint is loaded afterwards.

        Raises:
            UserError: Options contradict each other, or the vision model or its weights cannot be loaded.
        """
        from kosmos_plugin.models.decoder import KosmosDecoder
        from kosmos_plugin.models.resampler import build_resampler
        from kosmos_plugin.models.vision import VisionTower, build_vision_encoder

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
        vision = VisionTower(encoder, config.cache_vision_features, config.frozen_vision_dtype)
        return cls(config, vision, resampler, decoder)

    def max_positions(self) -> int:
        """The longest sequence that the model is trained on, in positions."""
        return self.config.tokens_per_sample

    def forward(
        self,
        tokens: torch.Tensor,
        document_ids: torch.Tensor,
        image_slots: torch.Tensor | None = None,
        images: torch.Tensor | None = None,
        targets: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Compute logits, or the loss of a training batch. The arguments are the tensors of `data.batch.Batch`.

        The loss is computed in here because wrappers such as FSDP gather the weights only for `forward`.

        Args:
            tokens: int64 [B, T].
            document_ids: int64 [B, T]; tokens attend within their document. 0 is padding.
            image_slots: bool [B, T], True where an image embedding replaces the token's.
            images: uint8 [N, 3, S, S], in the order of their slots.
            targets: int64 [B, T], `pad` where there is no loss.

        Returns:
            Without targets, (logits [B, T, V], None). With targets, (the sum of nll [], the nll of each target in the
            loss [M], row by row, without a gradient).
        """
        with bfloat16_autocast(self.config.bf16_autocast, tokens.device):
            hidden_BTE = self.decoder(self.embed(tokens, image_slots, images), document_ids)
            if targets is None:
                return self.decoder.output_layer(hidden_BTE), None
            in_loss_M = targets.flatten().ne(self.decoder.embed_tokens.padding_idx).nonzero().flatten()  # into B·T
            hidden_ME = hidden_BTE.flatten(0, 1).index_select(0, in_loss_M)
            return summed_cross_entropy(hidden_ME, self.decoder.output_projection.weight, targets.flatten()[in_loss_M])

    def embed(
        self, tokens: torch.Tensor, image_slots: torch.Tensor | None, images: torch.Tensor | None
    ) -> torch.Tensor:
        """The decoder's input [B, T, E]: token embeddings, and image embeddings in the image slots."""
        embeddings_BTE = self.decoder.embed_tokens(tokens)
        if images is None:
            return embeddings_BTE
        if len(images) > 0:
            assert image_slots is not None, "images without slots"
            image_embeddings_NKE = self.embed_images(images).to(embeddings_BTE.dtype)
            return embeddings_BTE.masked_scatter(image_slots.unsqueeze(-1), image_embeddings_NKE)
        if self.training and self.vision is not None:
            # Every trainable parameter needs a gradient on every rank: add a blank image's embeddings with weight zero.
            blank = images.new_zeros(1, *images.shape[1:])
            return embeddings_BTE + 0.0 * self.embed_images(blank).sum().to(embeddings_BTE.dtype)
        return embeddings_BTE

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        """images uint8 [N, 3, S, S] → image embeddings [N, K, E]"""
        if self.vision is None or self.resampler is None:
            raise UserError("This model reads only text (--vision-encoder none), but its data contains an image.")
        if self.config.compile and len(images) == 1:
            # torch.compile specializes on dimensions of size 1, even with dynamic=True.
            return self.embed_images(images.repeat(2, 1, 1, 1))[:1]
        return self.resampler(self.vision(images))
