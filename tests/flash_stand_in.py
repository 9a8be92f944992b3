"""Kernels for the CPU in the place of FlashAttention's, which torch has only for GPUs.

The operator itself, its derivative and its shapes under torch.compile and FakeTensorMode are torch's own.
"""

import itertools
from contextlib import contextmanager

import torch


def documents(q, k, cu_seqlens, dropout, seed):
    """(slice, attention weights [H, P, P], what dropout multiplies them by) of each document."""
    generator = torch.Generator().manual_seed(seed)
    bounds = cu_seqlens.tolist()
    for start, end in itertools.pairwise(bounds):
        part = slice(start, end)
        scores = torch.einsum("qhd,khd->hqk", q[part].float(), k[part].float()) * q.size(-1) ** -0.5
        future = torch.ones(end - start, end - start, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(future, -torch.inf).softmax(dim=-1)
        yield part, weights, (torch.rand(weights.shape, generator=generator) >= dropout) / (1 - dropout)


def check(q, k, v, cu_q, cu_k, max_q, max_k):
    """What FlashAttention's kernel requires."""
    assert q.dim() == 3 and q.shape == k.shape == v.shape and q.size(2) % 8 == 0
    assert all(x.stride(-1) == 1 for x in (q, k, v))
    assert cu_q.dtype == torch.int32 and cu_q.is_contiguous() and torch.equal(cu_q, cu_k)
    lengths = cu_q.diff()
    # Positions of no document would keep whatever was in the result's memory.
    assert cu_q[0] == 0 and cu_q[-1] == len(q) and bool((lengths >= 0).all()) and int(lengths.max()) <= max_q == max_k


@contextmanager
def flash_on_cpu():
    """Within this context the operator computes on the CPU; yields the rate of dropout of each call."""
    calls: list[float] = []

    def forward(q, k, v, cu_q, cu_k, max_q, max_k, dropout, is_causal, debug, *, scale=None, **unused):
        assert is_causal and not debug and scale is None
        check(q, k, v, cu_q, cu_k, max_q, max_k)
        calls.append(dropout)
        seed, out = torch.randint(2**31, (2,)), torch.empty_like(v)
        for part, weights, keep in documents(q, k, cu_q, dropout, int(seed[0])):
            out[part] = torch.einsum("hqk,khd->qhd", weights * keep, v[part].float()).to(v.dtype)
        log_sums = q.new_empty(q.size(1), q.size(0), dtype=torch.float32)  # only the kernel's own backward reads them
        return out, log_sums, seed.to(torch.uint64), torch.empty((), dtype=torch.uint64), q.new_empty(0)

    def backward(grad, q, k, v, out, sums, cu_q, cu_k, max_q, max_k, dropout, is_causal, seed, unused, **options):
        grad_q, grad_k, grad_v = (torch.empty_like(x) for x in (q, k, v))
        for part, weights, keep in documents(q, k, cu_q, dropout, int(seed[0])):
            grad_out = grad[part].float()
            grad_v[part] = torch.einsum("hqk,qhd->khd", weights * keep, grad_out).to(v.dtype)
            grad_weights = torch.einsum("qhd,khd->hqk", grad_out, v[part].float()) * keep
            mean = (grad_weights * weights).sum(dim=-1, keepdim=True)
            grad_scores = weights * (grad_weights - mean) * q.size(-1) ** -0.5
            grad_q[part] = torch.einsum("hqk,khd->qhd", grad_scores, k[part].float()).to(q.dtype)
            grad_k[part] = torch.einsum("hqk,qhd->khd", grad_scores, q[part].float()).to(k.dtype)
        return grad_q, grad_k, grad_v

    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("_flash_attention_forward", forward, "CPU")
        library.impl("_flash_attention_backward", backward, "CPU")
        yield calls
