"""What torch.compile makes of the operations between matrix products: each reads and writes its tensors once.

The plan of inductor's kernels is counted, in bytes; for GPUs it fuses these operations in the same way or better.
"""

import pytest
import torch
from torch._inductor.graph import GraphLowering

from kosmos_plugin.models.decoder import KosmosDecoder
from kosmos_plugin.models.positions import Rotation, rotate, xpos_rotation
from tests import tiny

TOKENS = 512
ROOM = 1.2  # for weights and statistics


@pytest.fixture
def kernels(monkeypatch):
    """For each compiled graph, the bytes that each of its kernels reads and writes."""
    graphs = []
    compile_to_module = GraphLowering.compile_to_module

    def counted(self):
        module = compile_to_module(self)
        _, nodes, _ = self.count_bytes()
        graphs.append([4 * elements for _, elements in nodes if elements])
        return module

    monkeypatch.setattr(GraphLowering, "compile_to_module", counted)
    torch._dynamo.reset()
    with torch._inductor.config.patch(force_disable_caches=True):
        yield graphs


@pytest.mark.slow
def test_gelu_and_layernorm_are_one_pass(data, kernels):
    """Forward reads x and writes y. Backward reads x and y's gradient and writes x's, beside the weights' gradients."""
    config = tiny.model_config(data, decoder_embed_dim=128, decoder_ffn_embed_dim=512)
    ffn = KosmosDecoder(config, 50, padding_idx=1).bfloat16().layers[0].ffn

    def between(x):
        return ffn.ffn_layernorm(ffn.activation_fn(x.float()).type_as(x))

    x = torch.randn(TOKENS, 512, dtype=torch.bfloat16, requires_grad=True)
    torch.compile(between, dynamic=True)(x).sum().backward()
    size = x.numel() * x.itemsize
    forward, backward = kernels
    assert len(forward) == 1 and forward[0] <= ROOM * 2 * size
    assert max(backward) <= ROOM * 3 * size


@pytest.mark.slow
def test_the_rotation_of_xpos_is_one_pass(kernels):
    """It reads x and two tables, which all heads share, and writes x."""
    heads, width = 8, 64
    x = torch.randn(1, TOKENS, heads, width, dtype=torch.bfloat16)
    table: Rotation = xpos_rotation(torch.arange(TOKENS)[None], width)
    torch.compile(rotate, dynamic=True)(x, table.query_cos, table.query_sin)
    [[moved]] = kernels
    assert moved <= ROOM * (2 * x.numel() * x.itemsize + 2 * table.query_cos.numel() * 4)
