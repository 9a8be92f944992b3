"""Magneto's initialization: each matrix has the standard deviation of the formula, or of TorchScale.

The sample standard deviation of n normal numbers has a relative standard error of 1/√(2n): with the width below, 1 % is
five standard errors for the smallest matrix.
"""

import math
from collections import defaultdict

import pytest
import torch
from torch import nn
from torchscale.architecture.decoder import Decoder

from kosmos_plugin.models.decoder import KosmosDecoder, decoder_config
from tests import tiny

WIDTH, INNER, VOCABULARY = 384, 1536, 1000
SCALED = ("v_proj", "out_proj", "fc1", "fc2")
MATRICES = {"q_proj": (WIDTH, WIDTH), "k_proj": (WIDTH, WIDTH), "v_proj": (WIDTH, WIDTH), "out_proj": (WIDTH, WIDTH),
            "fc1": (WIDTH, INNER), "fc2": (INNER, WIDTH)}  # fmt: skip


def decoder(data, layers, **options):
    torch.manual_seed(layers)
    config = tiny.model_config(
        data, decoder_layers=layers, decoder_embed_dim=WIDTH, decoder_ffn_embed_dim=INNER, decoder_attention_heads=4,
        **options,
    )  # fmt: skip
    return config, KosmosDecoder(config, VOCABULARY, padding_idx=1)


def linear_layers(model):
    """(kind, module) of every linear module in the layers."""
    for name, module in model.layers.named_modules():
        if isinstance(module, nn.Linear):
            yield name.rpartition(".")[2], module


@pytest.mark.parametrize("layers", [2, 12, 24])
@pytest.mark.parametrize("checkpoint_activations", ["none", "full"])
def test_the_papers_initialization(data, layers, checkpoint_activations):
    gamma = math.sqrt(math.log(2 * layers))
    if layers == 24:
        assert gamma == pytest.approx(1.9675, abs=1e-4)
    _, model = decoder(data, layers, checkpoint_activations=checkpoint_activations)
    seen = defaultdict(int)
    for kind, module in linear_layers(model):
        fan_in, fan_out = MATRICES[kind]
        expected = (gamma if kind in SCALED else 1) * math.sqrt(2 / (fan_in + fan_out))
        assert module.weight.std().item() == pytest.approx(expected, rel=0.01), kind
        assert abs(module.weight.mean().item()) < 5 * expected / math.sqrt(fan_in * fan_out)
        assert not module.bias.any(), kind
        seen[kind] += 1
    assert seen == dict.fromkeys(MATRICES, layers)
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == 4 * layers + 1, "two per sublayer, and the last"
    assert all((norm.weight == 1).all() and not norm.bias.any() for norm in norms)


@pytest.mark.parametrize("initialization", ["xavier", "torchscale"])
def test_embeddings(data, initialization):
    _, model = decoder(data, 2, initialization=initialization, untied_embeddings=True)
    words = model.embed_tokens.weight
    assert not words[1].any(), "padding"
    others = torch.cat((words[:1], words[2:]))
    for matrix in (others, model.output_projection.weight):
        assert matrix.std().item() == pytest.approx(WIDTH**-0.5, rel=0.01)
    _, tied = decoder(data, 2, initialization=initialization)
    assert tied.output_projection.weight is tied.embed_tokens.weight


@pytest.mark.parametrize("layers", [2, 12, 24])
def test_torchscales_initialization(data, layers):
    """torch's default for linear modules times the gain, biases included, like stock TorchScale."""

    def spreads(model):
        pooled = defaultdict(list)
        for kind, module in linear_layers(model):
            pooled[kind, "weight"].append(module.weight.detach().flatten())
            pooled[kind, "bias"].append(module.bias.detach())
        return {key: float(torch.cat(parts).std()) for key, parts in pooled.items()}

    config, model = decoder(data, layers, initialization="torchscale")
    torch.manual_seed(layers)
    stock = spreads(Decoder(decoder_config(config, VOCABULARY), nn.Embedding(VOCABULARY, WIDTH)))
    gamma = math.sqrt(math.log(2 * layers))
    for (kind, which), found in spreads(model).items():
        # Relative standard error of uniform numbers: 0.45/√n, with the smallest n for one projection's biases.
        tolerance = 0.01 if which == "weight" else 0.11 / math.sqrt(layers)
        assert found == pytest.approx(stock[kind, which], rel=tolerance), (kind, which)
        torch_default = 1 / math.sqrt(3 * MATRICES[kind][0])
        expected = (gamma if kind in SCALED else 1) * torch_default
        assert found == pytest.approx(expected, rel=tolerance), (kind, which)
