"""TorchScale's modules, with torch's LayerNorm whatever package named apex is installed.

TorchScale takes `FusedLayerNorm` of NVIDIA's apex where it finds it. Without apex's CUDA part no model could be built
then, nor with one that was compiled for another torch; and PyPI's unrelated `apex` can fail to be imported in ways that
TorchScale does not expect. torch's LayerNorm has the same weights and results, and unlike apex's it becomes part of the
kernels that `--compile` makes, where apex itself falls back to torch's.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def hidden(package: str) -> Iterator[None]:
    """Let imports of `package` fail as if it were not installed."""
    loaded = sys.modules.get(package)
    sys.modules[package] = None  # type: ignore[assignment]  # how Python is told so
    try:
        yield
    finally:
        del sys.modules[package]
        if loaded is not None:
            sys.modules[package] = loaded


with hidden("apex"):
    from torchscale.architecture import decoder
    from torchscale.architecture.config import DecoderConfig
    from torchscale.architecture.decoder import Decoder, DecoderLayer
    from torchscale.component import feedforward_network, multihead_attention
    from torchscale.component.multihead_attention import MultiheadAttention

for module in (decoder, feedforward_network, multihead_attention):
    module.LayerNorm = nn.LayerNorm  # if something else imported them before

__all__ = ["Decoder", "DecoderConfig", "DecoderLayer", "MultiheadAttention"]
