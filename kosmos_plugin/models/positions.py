"""Positions: xPos and sinusoids, all computed in float32.

xPos (Sun et al. 2022): with θ_i = 10000^(−2i/d) and ζ_i = (2i/d + 0.4) / 1.4, a query at position n is rotated by n·θ
and scaled by ζ^(n/512), a key at m rotated by m·θ and scaled by ζ^(−m/512), so that their product depends only on
n − m. TorchScale computes the same product, but casts the angles to the model's dtype before sin and cos: at 2,048
tokens its scores are off by up to 13 in bfloat16. Here angles stay in float32.
"""

import math
from typing import NamedTuple

import torch
from torch import nn

XPOS_BASE = 10000.0
XPOS_SMOOTHING = 0.4
# fairseq numbers positions from padding_idx + 1, and KOSMOS-2 was trained that way.
FIRST_SINUSOID = 2


class Rotation(NamedTuple):
    """xPos tables, float32 [B, T, 1, D]: cos and sin of the angles, times the scale; sin is negated at even indices."""

    query_cos: torch.Tensor
    query_sin: torch.Tensor
    key_cos: torch.Tensor
    key_sin: torch.Tensor


def xpos_rotation(positions: torch.Tensor, head_dim: int, scale_base: int = 512) -> Rotation:
    """The xPos tables of some positions (Sun et al. 2022, https://arxiv.org/abs/2212.10554).

    Args:
        positions: int64 [B, T].
        head_dim: D, even.
        scale_base: The distance, in positions, over which a score decays by ζ.
    """
    i = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device)
    frequency = XPOS_BASE ** (-i / head_dim)
    zeta = (i / head_dim + XPOS_SMOOTHING) / (1 + XPOS_SMOOTHING)
    n = positions.to(torch.float32).unsqueeze(-1)
    angle = (n * frequency).repeat_interleave(2, dim=-1).unsqueeze(2)
    scale = (zeta ** (n / scale_base)).repeat_interleave(2, dim=-1).unsqueeze(2)
    cos, sin = angle.cos(), angle.sin()
    sin = torch.where(torch.arange(head_dim, device=positions.device) % 2 == 0, -sin, sin)
    return Rotation(cos * scale, sin * scale, cos / scale, sin / scale)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate x [B, T, H, D] in pairs (0 with 1, 2 with 3, …) in float32; the result has x's dtype.

    `cos` and `sin` are tables of a Rotation. Under torch.compile, which knows no complex numbers, pairs are only
    swapped, as the table of sines has the signs: that is fused into one pass.
    """
    pairs = x.unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():
        return (x.float() * cos + pairs.flip(-1).flatten(-2).float() * sin).to(x.dtype)
    turn = torch.complex(cos[..., 1::2], sin[..., 1::2])
    return torch.view_as_real(torch.view_as_complex(pairs.float().contiguous()) * turn).flatten(-2).to(x.dtype)


class SinusoidalPositions(nn.Module):
    """fairseq's sinusoids, as in KOSMOS-2: sin(n·ω), then cos(n·ω), ω from 1 to 1/10000; no weights, any length."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        """positions int64 [B, T], from 0 → float32 [B, T, E]"""
        half = self.width // 2
        i = torch.arange(half, dtype=torch.float32, device=positions.device)
        frequency = torch.exp(i * -(math.log(10000) / (half - 1)))
        angle = (positions + FIRST_SINUSOID).to(torch.float32).unsqueeze(-1) * frequency
        return torch.cat((angle.sin(), angle.cos()), dim=-1)
