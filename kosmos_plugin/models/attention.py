"""Fused causal self-attention in place of TorchScale's, with documents masked from each other and a key–value cache."""

import torch
import torch.nn.functional as F
from torchscale.component.multihead_attention import MultiheadAttention

from kosmos_plugin.models.cached_attention import LayerCache
from kosmos_plugin.models.positions import Rotation, rotate


def document_mask(document_ids: torch.Tensor) -> torch.Tensor | None:
    """Which positions see which: bool [B, 1, T, T], True where the key is not later and of the same document.

    None if plain causal attention says the same: every row holds one document, then at most padding.
    """
    if bool(((document_ids == document_ids[:, :1]) | (document_ids == 0)).all()):
        return None
    length = document_ids.size(1)
    causal = torch.ones(length, length, dtype=torch.bool, device=document_ids.device).tril()
    return ((document_ids.unsqueeze(2) == document_ids.unsqueeze(1)) & causal).unsqueeze(1)


class FusedAttention(MultiheadAttention):
    """TorchScale's module (its parameters, their names) around `scaled_dot_product_attention`.

    TorchScale's layer passes its arguments through: `attn_mask` is `document_mask`'s (None is plain causal), `rel_pos`
    the xPos tables, `incremental_state` the layer's cache (`cached_attention`), which knows its own mask.
    """

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        incremental_state: LayerCache | None = None,
        key_padding_mask: None = None,
        attn_mask: torch.Tensor | None = None,
        rel_pos: Rotation | None = None,
        is_first_step: bool = False,
    ) -> tuple[torch.Tensor, None]:
        """query, key, value: the same [B, T, E] → [B, T, E]."""
        assert key_padding_mask is None, "padding is masked by attn_mask"
        q, k, v = (self._heads(projection(query)) for projection in (self.q_proj, self.k_proj, self.v_proj))
        if rel_pos is not None:
            q = rotate(q, rel_pos.query_cos, rel_pos.query_sin)
            k = rotate(k, rel_pos.key_cos, rel_pos.key_sin)
        dropout = self.dropout_module.p if self.training else 0.0
        if incremental_state is not None:
            attended = incremental_state.attend(q, k, v, dropout)
        else:
            attended = F.scaled_dot_product_attention(
                q, k, v, attn_mask=attn_mask, dropout_p=dropout, is_causal=attn_mask is None
            )
        attended = attended.transpose(1, 2).flatten(2)
        if self.inner_attn_ln is not None:
            attended = self.inner_attn_ln(attended)
        return self.out_proj(attended), None

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T, E] → [B, H, T, head_dim]"""
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
