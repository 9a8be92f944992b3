"""The attention weights of a decoder, which its fused attention never has in memory."""

from collections.abc import Collection
from typing import NamedTuple

import torch
import torch.nn.functional as F


class LayerRecorder(NamedTuple):
    """One layer's part of an AttentionRecorder (an `AttentionContext`)."""

    recorder: "AttentionRecorder"
    layer: int

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float) -> torch.Tensor:
        """Causal attention over the sequence: q, k, v [1, T, H, D] → [1, T, H, D]."""
        q_HTD, k_HTD, v_HTD = (x[0].transpose(0, 1) for x in (q, k, v))
        if self.layer in self.recorder.layers:
            self.recorder.record(q_HTD, k_HTD)
        attended_HTD = F.scaled_dot_product_attention(q_HTD, k_HTD, v_HTD, dropout_p=dropout, is_causal=True)
        return attended_HTD.transpose(0, 1).unsqueeze(0)


class AttentionRecorder:
    """Runs one whole sequence in `KosmosDecoder.extend`, in place of a cache, and keeps weights of its last positions.

    Args:
        layers: The layers whose weights are kept.
        queries: Q, the last positions of the sequence.

    Attributes:
        weights: The attention of each of these positions to all T, mean over heads and layers, float32 [Q, T].
    """

    def __init__(self, layers: Collection[int], queries: int):
        self.layers = layers
        self.queries = queries
        self.weights = torch.zeros(0)

    def reserve(self, rows: int, length: int, device: torch.device, valid: torch.Tensor | None = None) -> torch.Tensor:
        """Begin a sequence, and give its positions, int64 [1, T]."""
        assert rows == 1 and valid is None
        self.weights = torch.zeros(self.queries, length, device=device)
        return torch.arange(length, device=device).unsqueeze(0)

    def pack(self, x: torch.Tensor) -> torch.Tensor:
        """x itself, as there is no padding."""
        return x

    def unpack(self, x: torch.Tensor) -> torch.Tensor:
        """x itself, as there is no padding."""
        return x

    def layer(self, number: int) -> LayerRecorder:
        """The part of one layer."""
        return LayerRecorder(self, number)

    def record(self, q_HTD: torch.Tensor, k_HTD: torch.Tensor) -> None:
        """Add one layer's weights, head by head: those of all heads at once would need too much memory."""
        heads, length, head_dim = q_HTD.shape
        hidden = torch.ones(self.queries, length, dtype=torch.bool, device=q_HTD.device)
        hidden = hidden.triu(length - self.queries + 1)
        for q_QD, k_TD in zip(q_HTD[:, -self.queries :].float(), k_HTD.float(), strict=True):
            scores_QT = (q_QD @ k_TD.T * head_dim**-0.5).masked_fill_(hidden, -torch.inf)
            self.weights += scores_QT.softmax(dim=-1) / (heads * len(self.layers))
