"""Attention over documents of any lengths in one call, by FlashAttention 2's variable-length kernel in torch.

torch's public `varlen_attn` calls the same operator, but without dropout.
"""

import torch

# Largest width of a head whose backward pass with dropout the kernel has on every GPU that it supports.
MAX_HEAD_DIM = 192


def causal_varlen_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens: torch.Tensor, max_length: int, dropout: float
) -> torch.Tensor:
    """Causal attention within each document of a flat sequence, dropout(softmax(q·kᵀ/√D))·v.

    Args:
        q: Queries [M, H, D], in float16 or bfloat16.
        k: Keys of the same positions.
        v: Values of the same positions.
        cu_seqlens: int32 [documents + 1], where each document begins, then M. Documents may be empty.
        max_length: At least the length of the longest document.
        dropout: Rate of dropout on the attention weights; 0 outside training.

    Returns:
        [M, H, D]
    """
    attended, *_ = torch.ops.aten._flash_attention_forward(
        q, k, v, cu_seqlens, cu_seqlens, max_length, max_length, dropout, True, False
    )
    return attended


def varlen_obstacle(head_dim: int, half_precision: bool) -> str | None:
    """Why the kernel cannot compute the attention of a training on this machine's GPU; None: it can.

    Args:
        head_dim: D.
        half_precision: Whether queries, keys and values are float16 or bfloat16.
    """
    if torch.version.hip or not torch.backends.cuda.is_flash_attention_available():
        return "this build of torch is without FlashAttention for NVIDIA GPUs"
    if torch.cuda.get_device_capability() < (8, 0):
        return f"{torch.cuda.get_device_name()} is older than NVIDIA's Ampere"
    if not half_precision:
        return "it needs --bf16, --bf16-autocast or --fp16"
    if head_dim % 8 or head_dim > MAX_HEAD_DIM:
        return f"heads have a width of {head_dim}, and it needs a multiple of 8 up to {MAX_HEAD_DIM}"
    return None
