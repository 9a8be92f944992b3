"""The model (Figure 1 of the paper).

images [N, 3, S, S] ─ vision tower ─→ features [N, L, W] ─ resampler ─→ image embeddings [N, K, E]
                                                                              │ into the image slots
tokens [B, T] ───────────────── embedding table ─────────────→ embeddings [B, T, E] ─ decoder ─→ logits [B, T, V]
"""

import logging
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn
from typing_extensions import Self

from kosmos_plugin.errors import UserError
from kosmos_plugin.models.autocast import bfloat16_autocast
from kosmos_plugin.models.config import KosmosConfig
from kosmos_plugin.models.cross_entropy import summed_cross_entropy

if TYPE_CHECKING:  # TorchScale and open_clip take seconds to import
    from kosmos_plugin.models.batch_plan import BatchPlan
    from kosmos_plugin.models.decoder import KosmosDecoder
    from kosmos_plugin.models.resampler import Resampler
    from kosmos_plugin.models.vision import VisionTower

logger = logging.getLogger(__name__)


class Kosmos(nn.Module):
    """Vision tower, resampler and decoder. `build` makes them from a configuration.

    Args:
        config: The architecture.
        vision: The vision tower; None for a text-only model (`--vision-encoder none`).
        resampler: features [N, L, W] → image embeddings [N, K, E]; None for a text-only model.
        decoder: The language model.

    Attributes:
        lora_base: With `--lora-rank`, the fingerprint of the weights of the model that is adapted; otherwise None.
    """

    lora_base: str | None = None

    def __init__(
        self,
        config: KosmosConfig,
        vision: "VisionTower | None",
        resampler: "Resampler | None",
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
        self._to_compile = config.compile  # at the first update
        if config.compile:
            # Layer by layer: equal layers share the compiled code, which serves all numbers of rows, documents and
            # images. These vary independently, even if they happen to be equal in the first batch. The backward pass
            # of LayerNorm is one kernel for any number of rows; by default that depends on it, and is compiled again.
            from torch._inductor import config as inductor
            from torch.fx.experimental import _config

            _config.use_duck_shape = False
            inductor.triton.mix_order_reduction_non_strict_mode = True
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
        plan: "BatchPlan | None" = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Compute logits, or the loss of a training batch. The arguments are the tensors of `data.batch.Batch`.

        The loss is computed in here because wrappers such as FSDP gather the weights only for `forward`.

        Args:
            tokens: int64 [B, T].
            document_ids: int64 [B, T]; tokens attend within their document. 0 is padding.
            image_slots: bool [B, T], True where an image embedding replaces the token's.
            images: uint8 [N, 3, S, S], in the order of their slots.
            targets: int64 [B, T], `pad` where there is no loss.
            plan: The batch's plan, with its tensors on the model's device. None: it is made here, which waits for the
                device.

        Returns:
            Without targets, (logits [B, T, V], None). With targets, (the sum of nll [], the nll of each target in the
            loss [n], row by row and without a gradient; zero for a target of padding).
        """
        if self._to_compile and torch.is_grad_enabled():
            self._to_compile = False
            if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
                logger.info("The first update compiles the layers (--compile): it takes up to a minute longer.")
        from kosmos_plugin.models.attention_plan import AttentionPlan  # late: every run of fairseq imports this module

        if plan is None:
            plan = self._plan(document_ids, image_slots, images, targets)
        attention = AttentionPlan.from_dict(plan["attention"])
        with bfloat16_autocast(self.config.bf16_autocast, tokens.device):
            embeddings_ME = self.embed(attention.pack(tokens)[0], images, plan)
            hidden_ME = self.decoder.run(embeddings_ME.unsqueeze(0), attention)[0]
            if targets is None:
                return self.decoder.output_layer(attention.unpack(hidden_ME.unsqueeze(0))), None
            hidden_nE = hidden_ME.index_select(0, plan["target_index"])
            weight = self.decoder.output_projection.weight
            return summed_cross_entropy(hidden_nE, weight, plan["targets"], plan["num_targets"])

    def _plan(
        self,
        document_ids: torch.Tensor,
        image_slots: torch.Tensor | None,
        images: torch.Tensor | None,
        targets: torch.Tensor | None,
    ) -> "BatchPlan":
        """The plan of a batch that came without one; no padding is added to it."""
        from kosmos_plugin.models.attention_plan import moved
        from kosmos_plugin.models.batch_plan import BatchPlanner

        pad = self.decoder.embed_tokens.padding_idx
        planner = BatchPlanner(self.decoder.attention, pad, image_tokens=0)
        slots_on_cpu, targets_on_cpu = (None if x is None else x.cpu() for x in (image_slots, targets))
        num_images = 0 if images is None else len(images)
        plan = planner(document_ids.cpu(), num_images, slots_on_cpu, targets_on_cpu)
        return moved(plan, document_ids.device)

    def embed(self, tokens: torch.Tensor, images: torch.Tensor | None, plan: "BatchPlan") -> torch.Tensor:
        """The decoder's input [M, E]: embeddings of the tokens [M], and image embeddings in the image slots."""
        if images is None:
            return self.decoder.embed_tokens(tokens)
        if len(images) == 0:
            embeddings_ME = self.decoder.embed_tokens(tokens)
            if not self.training or self.vision is None:
                return embeddings_ME
            # Every trainable parameter needs a gradient on every rank: add a blank image's embeddings with weight zero.
            blank = images.new_zeros(1, *images.shape[1:])
            return embeddings_ME + 0.0 * self.embed_images(blank).sum().to(embeddings_ME.dtype)
        padding = len(images) > plan["num_images"]
        if padding:  # its embeddings go to one more position
            tokens = F.pad(tokens, (0, 1), value=self.decoder.embed_tokens.padding_idx)
        embeddings_ME = self.decoder.embed_tokens(tokens)
        image_embeddings_NKE = self.embed_images(images).to(embeddings_ME.dtype)
        embeddings_ME = embeddings_ME.index_copy(0, plan["slot_index"], image_embeddings_NKE.flatten(0, 1))
        return embeddings_ME[:-1] if padding else embeddings_ME

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        """images uint8 [N, 3, S, S] → image embeddings [N, K, E]"""
        if self.vision is None or self.resampler is None:
            raise UserError("This model reads only text (--vision-encoder none), but its data contains an image.")
        if self.config.compile and len(images) == 1:
            # torch.compile specializes on dimensions of size 1, even with dynamic=True.
            return self.embed_images(images.repeat(2, 1, 1, 1))[:1]
        return self.resampler(self.vision(images))
