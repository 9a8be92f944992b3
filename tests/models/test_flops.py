"""The formula of floating-point operations against torch's own counter."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kosmos_plugin.models.flops import unit_flops, without_weights
from tests import tiny


@pytest.mark.parametrize("untied", [False, True])
def test_positions_and_targets_as_torch_counts_them(task, untied):
    """On the CPU the counter leaves out fused attention, so what it counts are the matrices."""
    model = tiny.model(task, untied_embeddings=untied).train()
    pad = task.vocabulary.pad
    tokens = torch.randint(4, len(task.vocabulary), (3, 40))
    targets = torch.where(torch.rand(tokens.shape) < 0.7, tokens, pad)
    document_ids = torch.ones_like(tokens)
    with FlopCounterMode(display=False) as counter:
        loss, _ = model(tokens, document_ids, targets=targets)
        loss.backward()
    each = unit_flops(without_weights(model.config, len(task.vocabulary), pad))
    expected = each.total(tokens.numel(), 0, int((targets != pad).sum()), 0)
    assert counter.get_total_flops() == expected


def test_a_pair_as_torch_counts_it(task, data):
    """Attention of all T × T pairs, heads together."""
    model = without_weights(tiny.model_config(data), len(task.vocabulary), task.vocabulary.pad)
    layers, heads, width = len(model.decoder.layers), model.decoder.args.decoder_attention_heads, 32
    query, key, value = (torch.zeros(1, heads, 50, width // heads, device="meta", requires_grad=True) for _ in range(3))
    with FlopCounterMode(display=False) as counter:
        ((query @ key.transpose(-1, -2)).softmax(-1) @ value).sum().backward()
    assert layers * counter.get_total_flops() == unit_flops(model).pair * 50 * 50


def test_options_of_speed_change_nothing(task, data):
    fast = {"compile": True, "frozen_vision_dtype": "bfloat16", "bf16_autocast": True, "cache_vision_features": True}
    plain, changed = (
        unit_flops(without_weights(tiny.model_config(data, **options), len(task.vocabulary), task.vocabulary.pad))
        for options in ({}, fast)
    )
    assert plain == changed


def test_a_model_without_vision():
    from kosmos_plugin.models.config import KosmosLmConfig

    assert unit_flops(without_weights(KosmosLmConfig(decoder_layers=1), 100, 1)).image == 0
