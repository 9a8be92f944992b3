"""How attention is computed over a packed batch (`--attention`), planned once per batch for all layers.

The batch's M tokens reach the layers as one flat sequence without padding:

    documents   documents of similar length become the rows of plain causal attention calls. Nothing is computed between
                documents, and torch's fused kernels apply, which support dropout only without a mask.
    masked      the batch's rows in one attention call with a T×T mask, the reference for testing `documents`.

torch's FlexAttention and `varlen_attn` have no dropout, which the paper's model uses.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from kosmos_plugin.models.dropout_attention import causal_attention_with_dropout

# Documents are grouped by length in powers of two; below this length another call costs more than padding.
_SHORTEST_GROUP = 128


@dataclass(frozen=True)
class Group:
    """The rows of one attention call.

    Documents shorter than P repeat their last token: with causal attention, no earlier position sees the repeats.
    """

    token_index: torch.Tensor  # int64 [G, P], into the flat sequence
    mask: torch.Tensor | None = None  # bool [G, 1, P, P], True where a query sees a key; None: plain causal attention

    def to(self, device: torch.device) -> "Group":
        return Group(self.token_index.to(device), None if self.mask is None else self.mask.to(device))


@dataclass
class AttentionPlan:  # not frozen: torch.compile would look into it, and recompile for another number of groups
    """A packed batch as one flat sequence, and the attention calls that cover it (an `AttentionContext`)."""

    batch_shape: torch.Size  # [B, T]
    token_index: torch.Tensor  # int64 [M], each token's index among the B·T positions
    positions: torch.Tensor  # int64 [M], each token's position in its document
    groups: tuple[Group, ...]
    result_index: torch.Tensor | None  # int64 [M], into the groups' concatenated results; None: those are in order

    def pack(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T, E] → [1, M, E], without padding."""
        return x.flatten(0, 1).index_select(0, self.token_index).unsqueeze(0)

    def unpack(self, x: torch.Tensor) -> torch.Tensor:
        """[1, M, E] → [B, T, E], zero at padding."""
        rows = x.new_zeros(self.batch_shape.numel(), x.size(-1)).index_copy(0, self.token_index, x[0])
        return rows.view(*self.batch_shape, -1)

    @torch.compiler.disable
    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float) -> torch.Tensor:
        """Causal attention within each document: q, k, v [1, M, H, D] → [1, M, H, D]."""
        results = []
        for group in self.groups:
            q_GHPD, k_GHPD, v_GHPD = (self._gather(x[0], group) for x in (q, k, v))
            attended_GHPD = _attend(q_GHPD, k_GHPD, v_GHPD, group.mask, dropout)
            results.append(attended_GHPD.transpose(1, 2).flatten(0, 1))
        result = torch.cat(results)
        return (result if self.result_index is None else result.index_select(0, self.result_index)).unsqueeze(0)

    def _gather(self, x_MHD: torch.Tensor, group: Group) -> torch.Tensor:
        """The group's rows [G, H, P, D]."""
        if self.result_index is not None:
            x_MHD = x_MHD.index_select(0, group.token_index.flatten())
        return x_MHD.unflatten(0, group.token_index.shape).transpose(1, 2)


def _attend(
    q_GHPD: torch.Tensor, k_GHPD: torch.Tensor, v_GHPD: torch.Tensor, mask: torch.Tensor | None, dropout: float
) -> torch.Tensor:
    """Attention [G, H, P, D] by torch's fused kernels, except for dropout on CPUs, which they do not have."""
    if mask is None and dropout > 0 and q_GHPD.device.type == "cpu":
        return causal_attention_with_dropout(q_GHPD, k_GHPD, v_GHPD, dropout)
    return F.scaled_dot_product_attention(q_GHPD, k_GHPD, v_GHPD, mask, dropout, is_causal=mask is None)


def plan_packed_attention(document_ids: torch.Tensor, kind: str) -> AttentionPlan:
    """Plan the attention over a packed batch.

    The plan is made on the CPU, which costs one synchronization with the device per batch. If a batch holds only
    padding, its first position is treated as a token, so that every parameter still gets a gradient.

    Args:
        document_ids: int64 [B, T]. Equal neighbors belong to the same document; 0 is padding.
        kind: "documents" or "masked" (see the module's docstring).
    """
    ids = document_ids.cpu()
    if not ids.any():
        ids = ids.clone()
        ids[0, 0] = 1
    token_index = ids.flatten().nonzero().flatten()
    is_first = torch.ones_like(ids, dtype=torch.bool)
    is_first[:, 1:] = ids[:, 1:] != ids[:, :-1]
    starts = is_first.flatten()[token_index].nonzero().flatten()
    lengths = torch.diff(starts, append=torch.tensor([len(token_index)]))
    positions = torch.arange(len(token_index)) - torch.repeat_interleave(starts, lengths)
    if kind == "documents":
        groups, result_index = _documents_as_rows(starts, lengths)
    else:
        assert kind == "masked"
        groups, result_index = _rows_with_mask(ids, token_index)
    device = document_ids.device
    return AttentionPlan(
        ids.shape,
        token_index.to(device),
        positions.to(device),
        tuple(group.to(device) for group in groups),
        None if result_index is None else result_index.to(device),
    )


def _documents_as_rows(starts: torch.Tensor, lengths: torch.Tensor) -> tuple[list[Group], torch.Tensor | None]:
    """Groups of documents of similar length, and the result index. `starts` index the flat sequence."""
    if bool((lengths == lengths[0]).all()):
        return [Group(torch.arange(int(lengths.sum())).view(len(lengths), -1))], None
    groups, result_index, done = [], torch.empty(int(lengths.sum()), dtype=torch.int64), 0
    length_class = lengths.clamp(min=_SHORTEST_GROUP).sub(1).log2().floor()
    for number in length_class.unique():
        start, length = (x[length_class == number].unsqueeze(1) for x in (starts, lengths))
        offset = torch.arange(int(length.max()))
        token_index = start + torch.minimum(offset, length - 1)
        is_token = offset < length
        result_index[token_index[is_token]] = done + is_token.flatten().nonzero().flatten()
        done += token_index.numel()
        groups.append(Group(token_index))
    return groups, result_index


def _rows_with_mask(ids: torch.Tensor, token_index: torch.Tensor) -> tuple[list[Group], torch.Tensor]:
    """One group, the rows of document ids [B, T] as they are, and the result index, which skips padding."""
    causal = torch.ones(ids.size(1), ids.size(1), dtype=torch.bool).tril()
    mask = (ids.unsqueeze(2) == ids.unsqueeze(1)) & causal
    row_tokens = torch.zeros(ids.numel(), dtype=torch.int64)  # padding takes the first token's values
    row_tokens[token_index] = torch.arange(len(token_index))
    return [Group(row_tokens.view_as(ids), mask.unsqueeze(1))], token_index
