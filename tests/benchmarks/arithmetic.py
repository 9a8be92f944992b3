"""The minimum cost of an update, and the baselines' cost: FLOPs and bytes moved, computed from shapes.

FLOPs are those of `kosmos_plugin.models.flops`. Implementations differ in how many positions they compute, how many
pairs of a query and a key, at how many positions they have logits, and how far the backward pass of an image goes.

With H heads, width E and V tokens in the vocabulary, bytes count each read or write of the large tensors that only one
side has:

    scores            passes · size · layers · H · pairs      none if attention is fused
    logits            passes · size · V · positions with logits
    Adam              passes · 4 · trained parameters

For each of the scores, dropout also draws a random number: `layers · H · pairs`. A number has 4 bytes on the CPU and 2
on a GPU. Work that all implementations share (norms, activations, dropout of hidden states) is left out.

An implementation's time is the sum of these amounts divided by the machine's rates: of matrix products, of copies, of
copies into new memory (which the CPU's allocator gets from the system, page by page) and of random draws. The
theoretical limit of a speed-up is the ratio of two implementations' times.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from kosmos_plugin.data.samples import Sample
from kosmos_plugin.models.flops import decoder_flops, image_flops

FLOAT = 4  # bytes


class Passes(NamedTuple):
    """The number of times a tensor is read or written: in place, and by operations that write to new memory."""

    in_place: float
    new: float


# Attention scores. TorchScale, forward: product 1, nan_to_num 2, mask 2 in place, padding 2, softmax 2, dropout
# 6 (random 1, scale 2 in place, product 3), product 1 read; backward: product 1 and 1 read, dropout 3, softmax 3,
# padding 2, nan_to_num 8 (isfinite 6, product 2), product 2 read.
TORCHSCALE_SCORES = Passes(8, 28)
# torch's `scaled_dot_product_attention` with a mask and dropout on the CPU, forward: product 1, mask 2, safe softmax 6,
# dropout 6, product 1 read; backward: product 1 and 1 read, dropout 3, softmax 3, product 2 read. Fused on a GPU.
TORCH_SCORES = Passes(6, 20)
# Logits in one piece: product 1, log-softmax 2; backward: zeros 1, log-softmax 3, products 2 read. In chunks, which use
# the same memory again: product 1, logsumexp 1, gradient in their place 2, products 2.
LOGITS_AT_ONCE, LOGITS_IN_CHUNKS = Passes(2, 7), Passes(6, 0)
NONE = Passes(0, 0)
# fairseq's Adam, one operation after the other: moments 5 + 5, denominator 4, decay 2, step 4. Fused: gradient 1, and
# weight and moments read and written.
ADAM_BY_OPERATION, ADAM_FUSED = 20, 7


class Cost(NamedTuple):
    """FLOPs, bytes moved in place and into new memory, and random numbers drawn."""

    flops: float = 0.0
    bytes: float = 0.0
    new_bytes: float = 0.0
    random: float = 0.0

    def plus(self, other: "Cost") -> "Cost":
        return Cost(*map(sum, zip(self, other, strict=True)))


class Rates(NamedTuple):
    """The machine's rate for each cost, per second."""

    flops: float
    bytes: float
    new_bytes: float
    random: float

    def seconds(self, cost: Cost) -> float:
        return sum(amount / rate for amount, rate in zip(cost, self, strict=True))


class Way(NamedTuple):
    """The properties of an implementation that affect its cost."""

    padded: bool  # one sample per row, padded to the longest, full T×T attention and logits everywhere
    scores: Passes
    logits: Passes
    adam: int
    vision_graph: bool  # the backward pass goes through the frozen vision layers


LEAST = Way(padded=False, scores=NONE, logits=LOGITS_IN_CHUNKS, adam=ADAM_FUSED, vision_graph=False)
STOCK = Way(True, TORCHSCALE_SCORES, LOGITS_AT_ONCE, ADAM_BY_OPERATION, vision_graph=True)
STOCK_FROZEN_CLIP = STOCK._replace(vision_graph=False)
TRANSFORMERS = Way(True, TORCH_SCORES, LOGITS_AT_ONCE, ADAM_FUSED, vision_graph=False)
TRANSFORMERS_ON_GPU = TRANSFORMERS._replace(scores=NONE)


def update_cost(model: nn.Module, batches: list[list[Sample]], pad: int, way: Way) -> Cost:
    """The cost of an update on `batches`, lists of samples; `model` is ours, on the meta device."""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    cost = Cost(bytes=way.adam * FLOAT * trained)
    for samples in batches:
        cost = cost.plus(decoder_cost(model.decoder, samples, pad, way))
    images = sum(len(sample.images) for samples in batches for sample in samples)
    if images:
        vision, resampler, backward = image_flops(model)
        if way.vision_graph:
            backward = 2 * (vision + resampler)
        cost = cost.plus(Cost(flops=images * (vision + resampler + backward)))
    return cost


def decoder_cost(decoder: nn.Module, samples: list[Sample], pad: int, way: Way) -> Cost:
    """The decoder's part for a micro-batch, from the token embeddings to the gradient."""
    args, words = decoder.args, decoder.output_projection.weight.size(0)
    lengths, size = [len(sample) for sample in samples], 2 if torch.cuda.is_available() else FLOAT
    if way.padded:
        positions = logits = len(samples) * max(lengths)
        pairs = len(samples) * max(lengths) ** 2
    else:
        positions, pairs = sum(lengths), sum(length * (length + 1) / 2 for length in lengths)
        logits = sum(int((sample.targets != pad).sum()) for sample in samples)
    flops = decoder_flops(decoder).total(positions, pairs, logits, images=0)
    scores = args.decoder_layers * args.decoder_attention_heads * pairs
    moved = (
        size * (over_scores * scores + over_logits * words * logits)
        for over_scores, over_logits in zip(way.scores, way.logits, strict=True)
    )
    return Cost(flops, *moved, random=0 if way.scores == NONE else scores)


def measured_rates(repeats: int = 5) -> Rates:
    """Rates of a feed-forward layer over a row (float32 on the CPU, bf16 on a GPU), of copies and of random draws."""
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    large, copy = (torch.ones(2**26, device=device) for _ in range(2))
    moved = 2 * FLOAT * large.numel()
    return Rates(
        flops=matmul_rate(dtype, device, repeats),
        bytes=moved / _seconds(lambda: torch.mul(large, 2, out=copy), repeats),
        new_bytes=moved / _seconds(lambda: torch.mul(large, 2), repeats),
        random=copy.numel() / _seconds(lambda: copy.bernoulli_(0.9), repeats),
    )


def matmul_rate(dtype: torch.dtype, device: str = "cpu", repeats: int = 5) -> float:
    """FLOP/s of kosmos_1's first feed-forward matrix with a row of 2,048."""
    x, weight = (torch.randn(rows, 2048, device=device, dtype=dtype) for rows in (2048, 8192))
    return 2 * len(x) * weight.numel() / _seconds(lambda: F.linear(x, weight), repeats)


def bfloat16_is_faster() -> bool:
    """Whether this machine multiplies faster in bfloat16: GPUs do, CPUs only with instructions for it."""
    return torch.cuda.is_available() or matmul_rate(torch.bfloat16, repeats=1) > matmul_rate(torch.float32, repeats=1)


def _seconds(function: Callable[[], object], repeats: int) -> float:
    """The shortest of `repeats` runs, after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return min(times[1:])
