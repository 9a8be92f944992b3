"""Self-attention in place of TorchScale's: fused, and documents never see each other.

A batch's tokens reach the layers as one flat sequence without padding. `AttentionPlan` says, once a batch, how
attention is computed over it (`--attention`):

    documents   documents of similar length become the rows of plain causal attentions: nothing is computed between
                documents, and torch's fused kernels can be used, which know dropout without a mask alone
    masked      one attention over the batch's rows with a T×T mask: what the other is checked against

torch's FlexAttention and `varlen_attn` know no dropout, which the paper's model has.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torchscale.component.multihead_attention import MultiheadAttention

from kosmos_plugin.models.dropout_attention import causal_attention_with_dropout
from kosmos_plugin.models.kv_cache import LayerCache
from kosmos_plugin.models.positions import Rotation, rotate

# Documents are grouped by length in powers of two; below this, another call costs more than the padding.
_SHORTEST_GROUP = 128


@dataclass(frozen=True)
class Group:
    """Rows of one attention: the place in the flat sequence of each of their positions, int64 [N, L].

    `mask` is bool [N, 1, L, L], True where a key is seen, or None for plain causal attention. Rows shorter than L
    repeat their last place, which no earlier position sees.
    """

    places: torch.Tensor
    mask: torch.Tensor | None = None


@dataclass
class AttentionPlan:  # not frozen: torch.compile would look into it, and compile again for another number of groups
    """A batch of rows [B, T] as one flat sequence of M tokens, and how attention is computed over it.

    `results` (int64 [M]) is where each token's result stands among those of all groups, one after the other; None if
    the only group is the sequence itself.
    """

    tokens: torch.Tensor  # int64 [M], where the tokens stand in B·T
    positions: torch.Tensor  # int64 [M], each in its document
    groups: tuple[Group, ...]
    results: torch.Tensor | None


def plan_packed_attention(document_ids: torch.Tensor, kind: str) -> AttentionPlan:
    """The plan for document_ids [B, T]; 0 is padding, which is no part of the flat sequence.

    It is made on the CPU: one synchronization with the device a batch. Of a batch without any token the first place is
    taken for one, so that every parameter still has a gradient.
    """
    device, ids = document_ids.device, document_ids.cpu()
    if not ids.any():
        ids = ids.clone()
        ids[0, 0] = 1
    tokens = ids.flatten().nonzero().flatten()
    begins = torch.ones_like(ids, dtype=torch.bool)
    begins[:, 1:] = ids[:, 1:] != ids[:, :-1]
    starts = begins.flatten()[tokens].nonzero().flatten()
    lengths = torch.diff(starts, append=torch.tensor([len(tokens)]))
    positions = torch.arange(len(tokens)) - torch.repeat_interleave(starts, lengths)
    if kind == "documents":
        groups, results = _by_documents(starts, lengths)
    else:
        assert kind == "masked"
        groups, results = _by_mask(ids, tokens)
    return AttentionPlan(
        tokens.to(device),
        positions.to(device),
        tuple(Group(*(None if x is None else x.to(device) for x in (group.places, group.mask))) for group in groups),
        None if results is None else results.to(device),
    )


def _by_documents(starts: torch.Tensor, lengths: torch.Tensor) -> tuple[list[Group], torch.Tensor | None]:
    """Groups, and places of the results, for documents that begin at `starts` and have `lengths`, int64 [D] each."""
    if bool((lengths == lengths[0]).all()):
        return [Group(torch.arange(int(lengths.sum())).view(len(lengths), -1))], None
    groups, results, done = [], torch.empty(int(lengths.sum()), dtype=torch.int64), 0
    classes = lengths.clamp(min=_SHORTEST_GROUP).sub(1).log2().floor()
    for number in classes.unique():
        begin, length = (x[classes == number].unsqueeze(1) for x in (starts, lengths))
        offsets = torch.arange(int(length.max()))
        places = begin + torch.minimum(offsets, length - 1)
        real = offsets < length
        results[places[real]] = done + real.flatten().nonzero().flatten()
        done += places.numel()
        groups.append(Group(places))
    return groups, results


def _by_mask(ids: torch.Tensor, tokens: torch.Tensor) -> tuple[list[Group], torch.Tensor]:
    """One group, the rows of document ids [B, T] as they are; what is computed at padding is left out."""
    causal = torch.ones(ids.size(1), ids.size(1), dtype=torch.bool).tril()
    mask = (ids.unsqueeze(2) == ids.unsqueeze(1)) & causal
    places = torch.zeros(ids.numel(), dtype=torch.int64)
    places[tokens] = torch.arange(len(tokens))
    return [Group(places.view_as(ids), mask.unsqueeze(1))], tokens


class FusedAttention(MultiheadAttention):
    """TorchScale's module (its parameters, their names) around fused attention.

    TorchScale's layer passes its arguments through: `attn_mask` is the AttentionPlan, `rel_pos` the xPos tables,
    `incremental_state` the layer's cache (`cached_attention`), which is there in place of the plan.
    """

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        incremental_state: LayerCache | None = None,
        key_padding_mask: None = None,
        attn_mask: AttentionPlan | None = None,
        rel_pos: Rotation | None = None,
        is_first_step: bool = False,
    ) -> tuple[torch.Tensor, None]:
        """query, key, value: the same [B, T, E] → [B, T, E]; with an AttentionPlan B is 1 and T the flat sequence."""
        assert key_padding_mask is None, "padding is masked by attn_mask"
        q, k, v = (self._heads(projection(query)) for projection in (self.q_proj, self.k_proj, self.v_proj))
        if rel_pos is not None:
            q = rotate(q, rel_pos.query_cos, rel_pos.query_sin)
            k = rotate(k, rel_pos.key_cos, rel_pos.key_sin)
        dropout = self.dropout_module.p if self.training else 0.0
        if incremental_state is None:
            attended = attend(q, k, v, attn_mask, dropout).unsqueeze(0)
        else:
            attended = incremental_state.attend(q, k, v, dropout).transpose(1, 2).flatten(2)
        if self.inner_attn_ln is not None:
            attended = self.inner_attn_ln(attended)
        return self.out_proj(attended), None

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T, E] → [B, H, T, head_dim]"""
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)


@torch.compiler.disable
def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: AttentionPlan, dropout: float) -> torch.Tensor:
    """q, k, v [1, H, M, head_dim] of the flat sequence → [M, H·head_dim]."""
    q, k, v = (x[0].transpose(0, 1) for x in (q, k, v))
    attended = []
    for group in plan.groups:
        rows = (
            (x if plan.results is None else x.index_select(0, group.places.flatten()))
            .unflatten(0, group.places.shape)
            .transpose(1, 2)
            for x in (q, k, v)
        )
        attended.append(_attend(*rows, group.mask, dropout).transpose(1, 2).flatten(0, 1).flatten(1))
    result = torch.cat(attended)
    return result if plan.results is None else result.index_select(0, plan.results)


def _attend(q, k, v, mask: torch.Tensor | None, dropout: float) -> torch.Tensor:
    """[N, H, L, head_dim] each → the same, by torch's fused kernels; its one for CPUs knows no dropout."""
    if mask is None and dropout > 0 and q.device.type == "cpu":
        return causal_attention_with_dropout(q, k, v, dropout)
    return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=mask is None)
