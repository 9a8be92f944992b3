"""The decoder: TorchScale's `Decoder` and `DecoderLayer` with fused attention and the paper's initialization.

State-dict names are TorchScale's. What TorchScale does in every layer (a T×T mask, the xPos tables) is done once a
batch here; the layers are TorchScale's own.
"""

import math

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from torchscale.architecture.config import DecoderConfig
from torchscale.architecture.decoder import Decoder, DecoderLayer

from kosmos_plugin.errors import UserError
from kosmos_plugin.models.attention import FusedAttention, plan_packed_attention
from kosmos_plugin.models.config import KosmosConfig
from kosmos_plugin.models.kv_cache import KeyValueCache
from kosmos_plugin.models.positions import Rotation, SinusoidalPositions, xpos_rotation


def decoder_config(config: KosmosConfig, vocabulary_size: int) -> DecoderConfig:
    """TorchScale's configuration for ours: Magneto (sub-LayerNorm), and xPos if it is asked for."""
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
    def build_self_attention(self, embed_dim, args):
        return FusedAttention(
            args,
            embed_dim,
            args.decoder_attention_heads,
            dropout=args.attention_dropout,
            self_attention=True,
            subln=args.subln,
        )


class KosmosDecoder(Decoder):
    """Token embeddings (image embeddings already in place) → hidden states; `output_layer` makes logits of them."""

    def __init__(self, config: KosmosConfig, vocabulary_size: int, padding_idx: int):
        if config.decoder_embed_dim % (2 * config.decoder_attention_heads):
            raise UserError(
                f"--decoder-embed-dim {config.decoder_embed_dim} is not a multiple of twice --decoder-attention-heads "
                f"{config.decoder_attention_heads}: heads are equally wide, and positions turn pairs of components."
            )
        embed_tokens = nn.Embedding(vocabulary_size, config.decoder_embed_dim, padding_idx)
        nn.init.normal_(embed_tokens.weight, std=config.decoder_embed_dim**-0.5)
        nn.init.zeros_(embed_tokens.weight[padding_idx])
        embed_positions = None if config.positions == "xpos" else SinusoidalPositions(config.decoder_embed_dim)
        super().__init__(decoder_config(config, vocabulary_size), embed_tokens, embed_positions)
        self.attention = config.attention
        self.checkpoint_activations = config.checkpoint_activations
        self.head_dim = config.decoder_embed_dim // config.decoder_attention_heads
        if config.initialization == "xavier":
            initialize_magneto(self)

    def build_decoder_layer(self, args, depth, is_moe_layer=False, is_encoder_decoder=False):
        return KosmosDecoderLayer(args, depth, is_moe_layer, is_encoder_decoder)

    def forward(self, token_embeddings: torch.Tensor, document_ids: torch.Tensor) -> torch.Tensor:
        """token_embeddings [B, T, E], document_ids [B, T] → hidden states [B, T, E], zeros where there is padding."""
        plan = plan_packed_attention(document_ids, self.attention)
        x = token_embeddings.flatten(0, 1).index_select(0, plan.tokens).unsqueeze(0)
        x, rotation = self._place(x, plan.positions.unsqueeze(0))
        for layer in self.layers:
            x = self._run(layer, x, self_attn_mask=plan, self_attn_rel_pos=rotation)[0]
        hidden = self.layer_norm(x)[0]
        rows = hidden.new_zeros(document_ids.numel(), hidden.size(-1)).index_copy(0, plan.tokens, hidden)
        return rows.view(*document_ids.shape, -1)

    def _run(self, layer: KosmosDecoderLayer, x: torch.Tensor, **arguments):
        """The layer's result; what `--checkpoint-activations` says of its activations is computed again in backward."""
        if self.checkpoint_activations == "none" or not torch.is_grad_enabled():
            return layer(x, **arguments)
        selective = {"context_fn": _keep_expensive} if self.checkpoint_activations == "selective" else {}
        return checkpoint(layer, x, use_reentrant=False, **selective, **arguments)

    def extend(
        self, token_embeddings: torch.Tensor, cache: KeyValueCache, valid: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Hidden states [B, T, E] of T more positions after what `cache` holds, which grows by them.

        token_embeddings [B, T, E]; `valid` (bool [B, T]) is False where there is padding (None: nowhere), which costs
        no more than its place in the cache.
        """
        positions = cache.begin(*token_embeddings.shape[:2], token_embeddings.device, valid)
        x, rotation = self._place(cache.pack(token_embeddings), cache.pack(positions))
        for number, layer in enumerate(self.layers):
            x = layer(x, incremental_state=cache.of_layer(number), self_attn_rel_pos=rotation)[0]
        return cache.unpack(self.layer_norm(x))

    def _place(self, token_embeddings: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, Rotation | None]:
        """The layers' input [B, T, E] for `positions` [B, T], and the xPos tables."""
        # TorchScale hands its first argument on to `embed_positions` and, given embeddings, uses it for nothing else.
        x, _ = self.forward_embedding(positions, token_embeddings)
        if not self.args.xpos_rel_pos:
            return x, None
        return x, xpos_rotation(positions, self.head_dim, self.args.xpos_scale_base)


# The operations whose results `--checkpoint-activations selective` keeps.
EXPENSIVE = (
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
)


def _keep_expensive():
    def policy(context, operation, *args, **kwargs) -> CheckpointPolicy:
        return CheckpointPolicy.MUST_SAVE if operation in EXPENSIVE else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)


def initialize_magneto(decoder: Decoder) -> None:
    """Magneto's initialization (Wang et al. 2022, for a decoder-only model): Xavier, biases zero.

    The gain is γ = √(ln 2N) on the value, output and both feed-forward projections, 1 on query and key. TorchScale
    multiplies γ onto torch's default initialization instead, biases included (`--initialization torchscale`).
    """
    gamma = math.sqrt(math.log(2 * decoder.num_layers))
    for name, module in decoder.layers.named_modules():
        if isinstance(module, nn.Linear):
            scaled = name.endswith(("v_proj", "out_proj", "fc1", "fc2"))
            nn.init.xavier_normal_(module.weight, gain=gamma if scaled else 1.0)
            nn.init.zeros_(module.bias)
