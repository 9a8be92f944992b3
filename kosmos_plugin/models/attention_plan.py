"""How attention is computed over a packed batch (`--attention`), planned once per batch for all layers.

The batch's M tokens reach the layers as one flat sequence:

    varlen      one call of FlashAttention's variable-length kernel, on GPUs, without any gathering. Padding is part of
                the sequence, whose length then depends only on the number of rows. If all rows are single documents,
                they are plain causal attention, by the kernel that torch prefers on the GPU.
    documents   documents of similar length become the rows of plain causal attention calls. Nothing is computed between
                documents, and torch's fused kernels apply, which support dropout only without a mask. No padding.
    masked      the batch's rows in one attention call with a T×T mask, the reference for testing the others.

A plan is computed on the CPU, in training by the processes that load data, and its tensors travel with the batch.
torch's FlexAttention and `varlen_attn` have no dropout, which the paper's model uses.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from kosmos_plugin.models.dropout_attention import causal_attention_with_dropout
from kosmos_plugin.models.varlen_attention import causal_varlen_attention

# Documents are grouped by length in powers of two; below this length another call costs more than padding.
_SHORTEST_GROUP = 128


@dataclass(frozen=True)
class Group:
    """The rows of one attention call.

    Documents shorter than P repeat their last token: with causal attention, no earlier position sees the repeats.
    """

    token_index: torch.Tensor  # int64 [G, P], into the flat sequence
    mask: torch.Tensor | None = None  # bool [G, 1, P, P], True where a query sees a key; None: plain causal attention


@dataclass
class AttentionPlan:  # not frozen: torch.compile would look into it, and recompile for another number of groups
    """A packed batch as one flat sequence, and the attention calls that cover it (an `AttentionContext`)."""

    batch_shape: tuple[int, int]  # (B, T)
    positions: torch.Tensor  # int64 [M], each token's position in its document
    token_index: torch.Tensor | None = None  # int64 [M], each token's index among the B·T positions; None: it is all
    # varlen: documents end where the next begins, and after the last come empty ones, as padding of this tensor
    cu_seqlens: torch.Tensor | None = None  # int32 [documents + 1], where each begins in the flat sequence, then M
    max_length: int = 0  # at least the longest document's length
    row_length: int = 0  # instead: the length that all documents have; 0: they differ
    # documents and masked
    groups: tuple[Group, ...] = ()
    result_index: torch.Tensor | None = (
        None  # int64 [M], into the groups' concatenated results; None: those are in order
    )

    def pack(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T, …] → [1, M, …]"""
        x = x.flatten(0, 1)
        return (x if self.token_index is None else x.index_select(0, self.token_index)).unsqueeze(0)

    def unpack(self, x: torch.Tensor) -> torch.Tensor:
        """[1, M, E] → [B, T, E], zero at padding that is not in the sequence."""
        if self.token_index is not None:
            batch, length = self.batch_shape
            x = x.new_zeros(1, batch * length, x.size(-1)).index_copy(1, self.token_index, x)
        return x.view(*self.batch_shape, -1)

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float) -> torch.Tensor:
        """Causal attention within each document: q, k, v [1, M, H, D] → [1, M, H, D]."""
        if self.cu_seqlens is not None:
            return causal_varlen_attention(q[0], k[0], v[0], self.cu_seqlens, self.max_length, dropout).unsqueeze(0)
        if self.row_length:
            q_GHPD, k_GHPD, v_GHPD = (x[0].unflatten(0, (-1, self.row_length)).transpose(1, 2) for x in (q, k, v))
            return _attend(q_GHPD, k_GHPD, v_GHPD, None, dropout).transpose(1, 2).flatten(0, 1).unsqueeze(0)
        return self._attend_in_groups(q, k, v, dropout)

    @torch._disable_dynamo  # torch.compiler.disable would import the compiler, which takes a second, with this module
    def _attend_in_groups(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float) -> torch.Tensor:
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

    def to_dict(self) -> dict[str, Any]:
        """As nested dictionaries and tuples, whose tensors data loaders pin and fairseq moves to a GPU."""
        return {**vars(self), "groups": tuple((group.token_index, group.mask) for group in self.groups)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "AttentionPlan":
        """The plan that `to_dict` turned into `values`."""
        return cls(**{**values, "groups": tuple(Group(*group) for group in values["groups"])})


def _attend(
    q_GHPD: torch.Tensor, k_GHPD: torch.Tensor, v_GHPD: torch.Tensor, mask: torch.Tensor | None, dropout: float
) -> torch.Tensor:
    """Attention [G, H, P, D] by torch's fused kernels, except for dropout on CPUs, which they do not have."""
    if mask is None and dropout > 0 and q_GHPD.device.type == "cpu":
        return causal_attention_with_dropout(q_GHPD, k_GHPD, v_GHPD, dropout)
    return F.scaled_dot_product_attention(q_GHPD, k_GHPD, v_GHPD, mask, dropout, is_causal=mask is None)


def padded_size(size: int, multiple: int) -> int:
    """The bucket of a size that varies: few different sizes occur, and at most a sixteenth is padding.

    Args:
        size: The number of elements.
        multiple: Every bucket is a multiple of this, a power of two, and small ones may have more padding.
    """
    step = max(multiple, (1 << max(size - 1, 0).bit_length()) >> 5)
    return max(-(-size // step), 1) * step


def plan_packed_attention(document_ids: torch.Tensor, kind: str) -> AttentionPlan:
    """Plan the attention over a packed batch, on the CPU.

    If a batch holds only padding, one of its positions at least is treated as a token, so that every parameter still
    gets a gradient.

    Args:
        document_ids: int64 [B, T], on the CPU. Equal neighbors belong to the same document; 0 is padding.
        kind: "varlen", "documents" or "masked" (see the module's docstring).
    """
    if kind == "varlen":
        return _variable_lengths(document_ids)
    if not document_ids.any():
        document_ids = document_ids.clone()
        document_ids[0, 0] = 1
    token_index = document_ids.flatten().nonzero().flatten()
    is_first = torch.ones_like(document_ids, dtype=torch.bool)
    is_first[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    starts = is_first.flatten()[token_index].nonzero().flatten()
    lengths = torch.diff(starts, append=torch.tensor([len(token_index)]))
    if kind == "documents":
        groups, result_index = _documents_as_rows(starts, lengths)
    else:
        assert kind == "masked"
        groups, result_index = _rows_with_mask(document_ids, token_index)
    return AttentionPlan(
        _shape(document_ids), _positions(starts, lengths), token_index, groups=tuple(groups), result_index=result_index
    )


def _shape(document_ids: torch.Tensor) -> tuple[int, int]:
    batch, length = document_ids.shape
    return batch, length


def _positions(starts: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """int64 [M], positions within documents."""
    return torch.arange(int(lengths.sum())) - torch.repeat_interleave(starts, lengths)


def _variable_lengths(ids: torch.Tensor) -> AttentionPlan:
    """All B·T positions. Padding continues the document before it, which never sees it."""
    shape = _shape(ids)
    is_first = torch.ones_like(ids, dtype=torch.bool)
    is_first[:, 1:] = (ids[:, 1:] != ids[:, :-1]) & (ids[:, 1:] != 0)
    starts = is_first.flatten().nonzero().flatten()
    lengths = torch.diff(starts, append=torch.tensor([ids.numel()]))
    positions = _positions(starts, lengths)
    if bool((lengths == shape[1]).all()):
        return AttentionPlan(shape, positions, row_length=shape[1])
    cu_seqlens = torch.full((padded_size(len(starts), 16) + 1,), ids.numel(), dtype=torch.int32)
    cu_seqlens[: len(starts)] = starts
    return AttentionPlan(shape, positions, cu_seqlens=cu_seqlens, max_length=_power_of_two(int(lengths.max())))


def _power_of_two(length: int) -> int:
    """The smallest power of two that is not below `length`, nor below a tile of FlashAttention's kernel."""
    return max(128, 1 << (length - 1).bit_length())


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


def moved(plan: Any, device: torch.device) -> Any:
    """Nested dictionaries and tuples with all their tensors on `device`."""
    if isinstance(plan, torch.Tensor):
        return plan.to(device)
    if isinstance(plan, dict):
        return {key: moved(value, device) for key, value in plan.items()}
    return tuple(moved(value, device) for value in plan) if isinstance(plan, tuple) else plan
