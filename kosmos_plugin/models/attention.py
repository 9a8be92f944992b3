"""The decoder's self-attention: TorchScale's module and parameters around fused attention."""

from typing import Protocol

import torch

from kosmos_plugin.models.positions import Rotation, rotate
from kosmos_plugin.models.torchscale import MultiheadAttention


class AttentionContext(Protocol):
    """The keys that queries attend to: those of a packed batch (`AttentionPlan`) or of a KV cache (`LayerCache`)."""

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float) -> torch.Tensor:
        """Let each query attend to all keys that it may see.

        Args:
            q: Queries [B, T, H, D]; of a packed batch, B is 1 and T the M tokens of the flat sequence.
            k: Keys of the same positions.
            v: Values of the same positions.
            dropout: Rate of dropout on the attention weights; 0 outside training.

        Returns:
            [B, T, H, D]
        """
        ...


class SelfAttention(MultiheadAttention):
    """TorchScale's `MultiheadAttention`, with its parameters and sub-LayerNorm but another forward pass."""

    def forward(self, x: torch.Tensor, rotation: Rotation | None, context: AttentionContext) -> torch.Tensor:
        """x [B, T, E] → [B, T, E]; `rotation` holds the xPos tables of its positions (None: no xPos)."""
        q_BTHD, k_BTHD, v_BTHD = (
            projection(x).unflatten(-1, (self.num_heads, self.head_dim))
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        if rotation is not None:
            q_BTHD = rotate(q_BTHD, rotation.query_cos, rotation.query_sin)
            k_BTHD = rotate(k_BTHD, rotation.key_cos, rotation.key_sin)
        dropout = self.dropout_module.p if self.training else 0.0
        attended_BTE = context.attend(q_BTHD, k_BTHD, v_BTHD, dropout).flatten(2)
        if self.inner_attn_ln is not None:
            attended_BTE = self.inner_attn_ln(attended_BTE)
        return self.out_proj(attended_BTE)
