"""The decoder: TorchScale's `Decoder` and `DecoderLayer` with fused attention and the paper's initialization.

Modules, parameters and state-dict names are TorchScale's; the forward passes are written out here. What TorchScale
computes in every layer (a T×T mask, the xPos tables) is computed once per batch. Training on packed rows (`forward`)
and decoding with a KV cache (`extend`) run the same layers.
"""

import math
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
    noop_context_fn,
)

from kosmos_plugin.errors import UserError
from kosmos_plugin.models.attention import AttentionContext, SelfAttention
from kosmos_plugin.models.attention_plan import AttentionPlan, moved, plan_packed_attention
from kosmos_plugin.models.attention_weights import AttentionRecorder
from kosmos_plugin.models.config import KosmosConfig
from kosmos_plugin.models.kv_cache import KeyValueCache
from kosmos_plugin.models.paged_cache import PagedStep
from kosmos_plugin.models.positions import Rotation, SinusoidalPositions, xpos_rotation
from kosmos_plugin.models.static_cache import StaticCache
from kosmos_plugin.models.torchscale import Decoder, DecoderConfig, DecoderLayer


def decoder_config(config: KosmosConfig, vocabulary_size: int) -> DecoderConfig:
    """Convert to TorchScale's configuration: Magneto's sub-LayerNorm, and xPos if `config` has it."""
    return DecoderConfig(
        decoder_embed_dim=config.decoder_embed_dim,
        decoder_attention_heads=config.decoder_attention_heads,
        decoder_ffn_embed_dim=config.decoder_ffn_embed_dim,
        decoder_layers=config.decoder_layers,
        activation_fn=config.activation_fn,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        activation_dropout=config.activation_dropout,
        layernorm_eps=config.layernorm_eps,
        share_decoder_input_output_embed=not config.untied_embeddings,
        vocab_size=vocabulary_size,
        no_scale_embedding=False,
        subln=True,
        xpos_rel_pos=config.positions in ("xpos", "both"),
    )


class KosmosDecoderLayer(DecoderLayer):
    """TorchScale's pre-LayerNorm layer: attention and feed-forward network, each with a residual."""

    def build_self_attention(self, embed_dim: int, args: DecoderConfig) -> SelfAttention:
        return SelfAttention(
            args,
            embed_dim,
            args.decoder_attention_heads,
            dropout=args.attention_dropout,
            self_attention=True,
            subln=args.subln,
        )

    def forward(self, x: torch.Tensor, rotation: Rotation | None, context: AttentionContext) -> torch.Tensor:
        """x [B, T, E] → [B, T, E]; `rotation` and `context` as for `SelfAttention`."""
        attended = self.self_attn(self.self_attn_layer_norm(x), rotation, context)
        x = x + self.dropout_module(attended)
        return x + self.ffn(self.final_layer_norm(x))  # the feed-forward network ends in its own dropout


class KosmosDecoder(Decoder):
    """Token embeddings (image embeddings inserted) → hidden states; `output_layer` turns those into logits.

    Args:
        config: The architecture.
        vocabulary_size: V.
        padding_idx: The id of `<pad>`, whose embedding is zero.
    """

    def __init__(self, config: KosmosConfig, vocabulary_size: int, padding_idx: int):
        if config.decoder_embed_dim % (2 * config.decoder_attention_heads):
            raise UserError(
                f"--decoder-embed-dim {config.decoder_embed_dim} is not a multiple of twice --decoder-attention-heads "
                f"{config.decoder_attention_heads}: heads have equal width, and xPos rotates pairs of components."
            )
        embed_tokens = nn.Embedding(vocabulary_size, config.decoder_embed_dim, padding_idx)
        nn.init.normal_(embed_tokens.weight, std=config.decoder_embed_dim**-0.5)
        nn.init.zeros_(embed_tokens.weight[padding_idx])
        embed_positions = None if config.positions == "xpos" else SinusoidalPositions(config.decoder_embed_dim)
        super().__init__(decoder_config(config, vocabulary_size), embed_tokens, embed_positions)
        # For batches that come without a plan.
        self.attention = "masked" if config.attention == "masked" else "documents"
        self.checkpoint_activations = config.checkpoint_activations
        self.head_dim = config.decoder_embed_dim // config.decoder_attention_heads
        if config.initialization == "xavier":
            initialize_magneto(self)

    def build_decoder_layer(
        self, args: DecoderConfig, depth: int, is_moe_layer: bool = False, is_encoder_decoder: bool = False
    ) -> KosmosDecoderLayer:
        return KosmosDecoderLayer(args, depth, is_moe_layer, is_encoder_decoder)

    def forward(self, token_embeddings: torch.Tensor, document_ids: torch.Tensor) -> torch.Tensor:
        """Run the decoder over packed rows, in which documents do not see each other.

        Args:
            token_embeddings: [B, T, E].
            document_ids: int64 [B, T], as in `plan_packed_attention`.

        Returns:
            Hidden states [B, T, E], zero at padding.
        """
        planned = plan_packed_attention(document_ids.cpu(), self.attention).to_dict()
        plan = AttentionPlan.from_dict(moved(planned, document_ids.device))
        return plan.unpack(self.run(plan.pack(token_embeddings), plan))

    def run(self, token_embeddings: torch.Tensor, plan: AttentionPlan) -> torch.Tensor:
        """Run the decoder over a packed batch as one flat sequence: [1, M, E] → hidden states [1, M, E]."""
        x, rotation = self._add_positions(token_embeddings, plan.positions.unsqueeze(0))
        for layer in self.layers:
            x = self._run_layer(layer, x, rotation, plan)
        return self.layer_norm(x)

    def extend(
        self,
        token_embeddings: torch.Tensor,
        cache: KeyValueCache | StaticCache | PagedStep | AttentionRecorder,
        valid: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Run the decoder over the next positions of the rows in `cache`, which grows by them.

        Args:
            token_embeddings: [B, T, E].
            cache: Keys and values of the rows' earlier positions; empty at first.
            valid: bool [B, T], False at padding, which no layer computes; None: no padding.

        Returns:
            Hidden states [B, T, E], zero at padding.
        """
        batch, length, _ = token_embeddings.shape
        positions = cache.reserve(batch, length, token_embeddings.device, valid)
        x, rotation = self._add_positions(cache.pack(token_embeddings), cache.pack(positions))
        for number, layer in enumerate(self.layers):
            x = layer(x, rotation, cache.layer(number))
        return cache.unpack(self.layer_norm(x))

    def _add_positions(
        self, token_embeddings: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, Rotation | None]:
        """The first layer's input [B, T, E] and the xPos tables, for `positions` [B, T]."""
        x = self.embed_scale * token_embeddings
        if self.embed_positions is not None:
            x = (x + self.embed_positions(positions)).to(x.dtype)  # added in float32
        rotation = None
        if self.args.xpos_rel_pos:
            rotation = xpos_rotation(positions, self.head_dim, self.args.xpos_scale_base)
        return self.dropout_module(x), rotation

    def _run_layer(
        self, layer: KosmosDecoderLayer, x: torch.Tensor, rotation: Rotation | None, plan: AttentionPlan
    ) -> torch.Tensor:
        """Run a layer, with activation checkpointing as `--checkpoint-activations` says."""
        if self.checkpoint_activations == "none" or not torch.is_grad_enabled():
            return layer(x, rotation, plan)
        context_fn = _save_expensive if self.checkpoint_activations == "selective" else noop_context_fn
        return checkpoint(layer, x, rotation, plan, use_reentrant=False, context_fn=context_fn)


# Operations whose results `--checkpoint-activations selective` saves.
EXPENSIVE = (
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten._flash_attention_forward.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
)


def _save_expensive() -> tuple[Any, Any]:
    """The context managers of selective checkpointing, for the forward pass and for recomputation."""

    def policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        return CheckpointPolicy.MUST_SAVE if operation in EXPENSIVE else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)


def initialize_magneto(decoder: Decoder) -> None:
    """Initialize the layers as Magneto does (Wang et al. 2022, decoder-only): Xavier weights, zero biases.

    The gain is γ = √(ln 2N) on the value, output and both feed-forward projections of N layers, 1 on query and key.
    TorchScale multiplies torch's default initialization by γ instead, biases included (`--initialization torchscale`).
    """
    gamma = math.sqrt(math.log(2 * decoder.num_layers))
    for name, module in decoder.layers.named_modules():
        if isinstance(module, nn.Linear):
            scaled = name.endswith(("v_proj", "out_proj", "fc1", "fc2"))
            nn.init.xavier_normal_(module.weight, gain=gamma if scaled else 1.0)
            nn.init.zeros_(module.bias)
