"""Causal attention with dropout on the attention weights, for CPUs, where torch's fused kernel has no dropout.

It is computed tile by tile: no P×P matrix is held, and the masked half is not computed. The backward pass recomputes
the weights (Dao et al. 2022, FlashAttention, algorithm 4); the dropout mask is kept, one byte per weight.
"""

from collections.abc import Iterator
from typing import Any

import torch

# Queries per tile, and maximum weights per tile: about what fits in a core's cache.
_TILE_QUERIES = 128
_TILE_WEIGHTS = 1 << 20


def causal_attention_with_dropout(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rate: float) -> torch.Tensor:
    """Causal attention, dropout(softmax(q·kᵀ/√D))·v; q, k, v and the result are [G, H, P, D].

    `rate` is the probability of dropping a weight, rounded to 1/65,536; the others are scaled by 1 / (1 − rate).
    """
    flat = (x.flatten(0, 1) for x in (q, k, v))
    return _CausalAttentionWithDropout.apply(*flat, rate).unflatten(0, q.shape[:2])


def _tiles(heads: int, length: int) -> Iterator[tuple[slice, slice, slice]]:
    """(heads, queries, keys) of each tile; the keys are those that its last query sees."""
    size = max(1, _TILE_WEIGHTS // (min(_TILE_QUERIES, length) * length))
    for head in range(0, heads, size):
        for start in range(0, length, _TILE_QUERIES):
            end = min(start + _TILE_QUERIES, length)
            yield slice(head, head + size), slice(start, end), slice(0, end)


def _random_keep(shape: torch.Size, dropped: int) -> torch.Tensor:
    """Random bool of `shape`, False with probability `dropped` / 65,536; four come from each 64 random bits."""
    words = torch.empty(-(-shape.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    return (words.view(torch.int16)[: shape.numel()] >= dropped - 2**15).view(shape)


def _scores(q: torch.Tensor, k: torch.Tensor, heads: slice, queries: slice, keys: slice) -> torch.Tensor:
    """Scaled float32 scores of a tile, −∞ where a key comes after the query."""
    scores = torch.bmm(q[heads, queries] * q.size(-1) ** -0.5, k[heads, keys].transpose(1, 2)).float()
    size = queries.stop - queries.start
    future = torch.ones(size, size, dtype=torch.bool).triu(1)
    scores[:, :, queries].masked_fill_(future, -torch.inf)
    return scores


class _CausalAttentionWithDropout(torch.autograd.Function):
    """q, k, v [G·H, P, D] → [G·H, P, D]. Weights are float32 for any input dtype; matrix products have that dtype."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rate: float) -> torch.Tensor:
        dropped = round(rate * 2**16)
        scale = 2**16 / (2**16 - dropped)
        out, tiles = torch.empty_like(v), list(_tiles(*q.shape[:2]))
        log_sums = q.new_empty(*q.shape[:2], 1, dtype=torch.float32)
        kept = []
        for heads, queries, keys in tiles:
            weights = _scores(q, k, heads, queries, keys)
            maximum = weights.amax(dim=-1, keepdim=True)
            total = weights.sub_(maximum).exp_().sum(dim=-1, keepdim=True)
            log_sums[heads, queries] = maximum + total.log()
            kept.append(_random_keep(weights.shape, dropped))
            weights = weights.mul_(kept[-1]).mul_(scale / total)
            out[heads, queries] = torch.bmm(weights.to(v.dtype), v[heads, keys])
        ctx.save_for_backward(q, k, v, out, log_sums, *kept)
        ctx.tiles, ctx.scale = tiles, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        [grad] = grads
        q, k, v, out, log_sums, *kept = ctx.saved_tensors
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        root = q.size(-1) ** -0.5
        # Softmax's derivative subtracts Σ_j weight_ij · ∂loss/∂weight_ij, which equals out_i · ∂loss/∂out_i.
        mean = (grad * out).sum(dim=-1, keepdim=True, dtype=torch.float32)
        for (heads, queries, keys), keep in zip(ctx.tiles, kept, strict=True):
            weights = _scores(q, k, heads, queries, keys).sub_(log_sums[heads, queries]).exp_()
            grad_tile = grad[heads, queries] * ctx.scale
            grad_v[heads, keys] += torch.bmm((weights * keep).to(v.dtype).transpose(1, 2), grad_tile)
            grad_weights = torch.bmm(grad_tile, v[heads, keys].transpose(1, 2)).float().mul_(keep)
            grad_scores = weights.mul_(grad_weights.sub_(mean[heads, queries])).to(q.dtype)
            grad_q[heads, queries] = torch.bmm(grad_scores, k[heads, keys]) * root
            grad_k[heads, keys] += torch.bmm(grad_scores.transpose(1, 2), q[heads, queries]) * root
        return grad_q, grad_k, grad_v, None
