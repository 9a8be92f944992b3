"""The decoder's attention weights against TorchScale's own, and what recording them leaves as it is."""

import pytest
import torch

from kosmos_plugin.models.attention_weights import AttentionRecorder
from kosmos_plugin.models.kv_cache import KeyValueCache
from kosmos_plugin.models.torchscale import MultiheadAttention
from tests import tiny

LAYERS, LENGTH = 3, 11


@pytest.fixture(scope="module", params=["xpos", "sinusoidal", "both"])
def decoder(data, request):
    decoder = tiny.model(tiny.task(data), seed=1, decoder_layers=LAYERS, positions=request.param).decoder
    for parameter in decoder.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return decoder


@torch.no_grad()
def torchscales(decoder, embeddings):
    """The weights of all layers, [layers, heads, T, T], by TorchScale's forward pass on each layer's input."""
    inputs, found = [], []
    hooks = [
        layer.self_attn.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
        for layer in decoder.layers
    ]
    decoder.extend(embeddings, KeyValueCache(LAYERS))
    for hook in hooks:
        hook.remove()
    mask = torch.full((LENGTH, LENGTH), -torch.inf).triu(1)
    for layer, x in zip(decoder.layers, inputs, strict=True):
        found.append(MultiheadAttention.forward(layer.self_attn, x, x, x, attn_mask=mask)[1][:, 0])
    return torch.stack(found)


@torch.no_grad()
@pytest.mark.parametrize("layers", [(0,), (2,), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("queries", [1, 4, LENGTH])
def test_weights_are_torchscales(decoder, layers, queries):
    embeddings = torch.randn(1, LENGTH, 32)
    recorder = AttentionRecorder(layers, queries)
    hidden = decoder.extend(embeddings, recorder)
    torch.testing.assert_close(hidden, decoder.extend(embeddings, KeyValueCache(LAYERS)), atol=1e-5, rtol=0)
    expected = torchscales(decoder, embeddings)[list(layers)].mean(dim=(0, 1))[-queries:]
    assert recorder.weights.shape == (queries, LENGTH)
    torch.testing.assert_close(recorder.weights, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(recorder.weights.sum(dim=1), torch.ones(queries), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_are_float32_in_any_precision(data, dtype):
    decoder = tiny.model(tiny.task(data), seed=1).decoder
    embeddings = torch.randn(1, LENGTH, 32)
    weights = []
    for precision in (torch.float32, dtype):
        recorder = AttentionRecorder((0, 1), 5)
        decoder.to(precision).extend(embeddings.to(precision), recorder)
        weights.append(recorder.weights)
    assert weights[1].dtype == torch.float32
    torch.testing.assert_close(*weights, atol=1e-2, rtol=0)
    torch.testing.assert_close(weights[1].sum(dim=1), torch.ones(5), atol=1e-5, rtol=0)
