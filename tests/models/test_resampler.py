"""The resamplers against their implementations in transformers, with the same weights."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import IdeficsConfig, Kosmos2Config
from transformers.activations import ACT2FN
from transformers.models.idefics.perceiver import IdeficsPerceiverResampler
from transformers.models.kosmos2.modeling_kosmos2 import Kosmos2ImageToTextProjection

from kosmos_plugin.models.decoder import decoder_config
from kosmos_plugin.models.resampler import PerceiverLayer, build_resampler
from tests import tiny

WIDTH, HEADS = 48, 4  # of the decoder


def resampler(data, kind, num_features=10, vision_width=40, image_tokens=6, **options):
    torch.manual_seed(0)
    sizes = {"decoder_embed_dim": WIDTH, "decoder_attention_heads": HEADS}
    config = tiny.model_config(data, resampler=kind, **(sizes | options))
    config.image_tokens = image_tokens
    module = build_resampler(config, decoder_config(config, 50), num_features, vision_width).eval()
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return module


def renamed(state, names):
    """A state dict under the other implementation's names; `names` are pairs of substrings (ours, theirs)."""
    result = {}
    for name, tensor in state.items():
        for ours, theirs in names:
            name = name.replace(ours, theirs)
        result[name] = tensor
    return result


@torch.no_grad()
@settings(max_examples=15, deadline=None)
@given(images=st.integers(1, 4), num_features=st.integers(1, 30), image_tokens=st.integers(1, 12))
def test_attentive_equals_transformers_kosmos2(data, images, num_features, image_tokens):
    ours = resampler(data, "attentive", num_features, image_tokens=image_tokens)
    config = Kosmos2Config(
        text_config={"embed_dim": WIDTH, "attention_heads": HEADS, "attention_dropout": 0.1},
        vision_config={"hidden_size": 40},
        latent_query_num=image_tokens,
        attn_implementation="eager",
    )
    theirs = Kosmos2ImageToTextProjection(config).eval()
    theirs.load_state_dict(renamed(ours.state_dict(), [("latents", "latent_query"), ("attention.", "x_attn.")]))
    features = torch.randn(images, num_features, 40)
    found = ours(features)
    assert found.shape == (images, image_tokens, WIDTH)
    torch.testing.assert_close(found, theirs(features)[0], atol=1e-5, rtol=0)


PERCEIVER_NAMES = [
    ("layers.", "blocks."), ("features_layer_norm", "0.context_layer_norm"),
    ("latents_layer_norm", "0.latents_layer_norm"), ("out_proj", "0.output_proj"), ("q_proj", "0.q_proj"),
    ("k_proj", "0.k_proj"), ("v_proj", "0.v_proj"), ("ffn_layer_norm", "1.ln"), ("fc1", "1.fc"), ("fc2", "1.c_proj"),
]  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("depth", [1, 2, 6])
@pytest.mark.parametrize("vision_width", [40, 128])
@pytest.mark.parametrize("num_features", [1, 9, 40])
def test_perceiver_equals_transformers_idefics(data, depth, vision_width, num_features):
    """Idefics' resampler has no time embeddings (they are added to its input), and another activation (it is set)."""
    ours = resampler(data, "perceiver", num_features, vision_width, resampler_layers=depth)
    heads = max(vision_width // PerceiverLayer.HEAD_DIM, 1)
    config = IdeficsConfig(vision_config={"embed_dim": vision_width}, perceiver_config={"resampler_depth": depth})
    config.perceiver_config.qk_layer_norms_perceiver = False
    theirs = IdeficsPerceiverResampler(config, vision_width, depth, heads, vision_width // heads, n_latents=6).eval()
    for _, mlp in theirs.blocks:
        mlp.act = ACT2FN["relu2"]
    state = ours.state_dict()
    time, weight, bias = state.pop("time_embeddings"), state.pop("dense.weight"), state.pop("dense.bias")
    theirs.load_state_dict(renamed(state, PERCEIVER_NAMES))
    features = torch.randn(3, num_features, vision_width)
    expected = theirs(features + time[0]) @ weight.T + bias
    torch.testing.assert_close(ours(features), expected, atol=1e-5, rtol=0)


def test_perceiver_has_flamingos_sizes(data):
    """Flamingo: six layers, heads of width 64, feed-forward networks four times as wide, no biases."""
    ours = resampler(data, "perceiver", vision_width=128)
    assert len(ours.layers) == 6 and ours.layers[0].heads == 2
    attention_and_network = 4 * 128 * 128 + 2 * 128 * 512
    norms = 3 * 2 * 128
    latents_time_and_last_norm = (6 + 1 + 2) * 128
    expected = 6 * (attention_and_network + norms) + latents_time_and_last_norm + 128 * WIDTH + WIDTH
    assert sum(parameter.numel() for parameter in ours.parameters()) == expected


@torch.no_grad()
def test_linear_is_a_linear_map_of_each_feature(data):
    ours = resampler(data, "linear", num_features=6)
    features = torch.randn(2, 6, 40)
    [(_, weight), (_, bias)] = ours.named_parameters()
    torch.testing.assert_close(ours(features), torch.einsum("nlw,ew->nle", features, weight) + bias)
    order = [3, 1, 5, 0, 2, 4]
    torch.testing.assert_close(ours(features[:, order]), ours(features)[:, order])
    changed = features.clone()
    changed[:, 2] = 0
    assert (ours(changed) != ours(features)).any(dim=-1).sum(dim=1).tolist() == [1, 1]


@torch.no_grad()
@pytest.mark.parametrize("kind", ["attentive", "perceiver", "linear"])
def test_attention_dropout_happens_only_in_training(data, kind):
    features = torch.randn(2, 6, 40)
    for rate, happens in [(0.1, kind != "linear"), (0.0, False)]:
        ours = resampler(data, kind, num_features=6, attention_dropout=rate)
        in_evaluation = ours(features)
        assert torch.equal(ours(features), in_evaluation)
        ours.train()
        assert torch.equal(ours(features), ours(features)) != happens
        torch.testing.assert_close(ours.eval()(features), in_evaluation)


@torch.no_grad()
def test_the_rate_of_attention_dropout(data):
    """With zero queries and keys and unit vectors as values, the output is the attention weights."""
    ours = resampler(data, "attentive", vision_width=WIDTH, attention_dropout=0.1, decoder_attention_heads=1)
    for parameter in ours.parameters():
        parameter.zero_()
    units = torch.eye(WIDTH)
    for matrix in (ours.dense.weight, ours.attention.v_proj.weight, ours.attention.out_proj.weight):
        matrix.copy_(units)
    ours.latents.copy_(units[10:16])
    features = units[:10].expand(300, -1, -1)
    everything = torch.full((300, 6, 16), 1 / 16)
    torch.testing.assert_close(ours(features)[..., :16], everything)
    weights = ours.train()(features)[..., :16]
    dropped = weights == 0
    assert float(dropped.double().mean()) == pytest.approx(0.1, abs=5 * (0.09 / dropped.numel()) ** 0.5)
    torch.testing.assert_close(weights[~dropped], everything[~dropped] / 0.9)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["attentive", "perceiver"])
def test_the_order_of_features_does_not_matter(data, kind):
    """Resamplers add no spatial positions: only those of the vision encoder distinguish an image's features."""
    ours = resampler(data, kind, resampler_layers=2)
    features = torch.randn(2, 10, 40)
    torch.testing.assert_close(ours(features), ours(features.flip(1)), atol=1e-5, rtol=0)
    assert not torch.allclose(ours(features), ours(torch.randn(2, 10, 40)), atol=1e-2)


def peers_weights(queries, keys, q_proj, k_proj, heads):
    """The attention weights by `torch.nn.MultiheadAttention`, mean over heads."""
    width = queries.size(-1)
    peer = torch.nn.MultiheadAttention(width, heads, batch_first=True)
    for number, projection in enumerate((q_proj, k_proj)):
        peer.in_proj_weight[number * width : (number + 1) * width] = projection.weight
        if projection.bias is not None:
            peer.in_proj_bias[number * width : (number + 1) * width] = projection.bias
    return peer(queries, keys, keys, need_weights=True, average_attn_weights=True)[1]


@torch.no_grad()
@pytest.mark.parametrize("image_tokens", [1, 6])
def test_rollout_of_one_attention_layer_is_its_weights(data, image_tokens):
    ours = resampler(data, "attentive", image_tokens=image_tokens)
    features = torch.randn(3, 10, 40)
    latents = ours.latents.expand(3, -1, -1)
    keys = torch.cat((ours.dense(features), latents), dim=1)
    expected = peers_weights(latents, keys, ours.attention.q_proj, ours.attention.k_proj, HEADS)
    found = ours.rollout(features)
    torch.testing.assert_close(found, expected[..., :10], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.sum(-1), 1 - expected[..., 10:].sum(-1), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("depth", [1, 2, 6])
@pytest.mark.parametrize("vision_width", [40, 128])
def test_rollout_of_layers_is_the_product_of_their_matrices(data, depth, vision_width):
    """Abnar and Zuidema's (A + I) / 2, over features, which no layer changes, and latents."""
    ours = resampler(data, "perceiver", 10, vision_width, resampler_layers=depth)
    inputs = []
    hooks = [layer.register_forward_pre_hook(lambda module, args: inputs.append(args)) for layer in ours.layers]
    features = torch.randn(3, 10, vision_width)
    ours(features)
    for hook in hooks:
        hook.remove()
    whole = torch.eye(16)
    for layer, (latents, read) in zip(ours.layers, inputs, strict=True):
        queries = layer.latents_layer_norm(latents)
        keys = torch.cat((layer.features_layer_norm(read), queries), dim=1)
        attention = torch.eye(16).repeat(3, 1, 1)
        attention[:, 10:] = peers_weights(queries, keys, layer.q_proj, layer.k_proj, layer.heads)
        whole = (attention + torch.eye(16)) / 2 @ whole
    torch.testing.assert_close(whole.sum(-1), torch.ones(3, 16), atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.rollout(features), whole[:, 10:, :10], atol=1e-6, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["attentive", "perceiver", "linear"])
def test_rollout_in_half_precision(data, kind):
    ours = resampler(data, kind, num_features=6)
    features = torch.randn(2, 6, 40)
    exact, half = ours.rollout(features), ours.bfloat16().rollout(features.bfloat16())
    assert exact.dtype == half.dtype == torch.float32 and exact.shape == half.shape == (2, 6, 6)
    torch.testing.assert_close(exact, half, atol=2e-2, rtol=0)
