"""Packed attention against TorchScale's own, and attention with dropout on CPUs against autograd."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchscale.architecture.decoder import Decoder

from kosmos_plugin.models.attention_plan import plan_packed_attention
from kosmos_plugin.models.decoder import KosmosDecoder, decoder_config
from kosmos_plugin.models.dropout_attention import causal_attention_with_dropout
from tests import tiny

KINDS = ["documents", "masked"]
VOCABULARY = 50


def decoder(data, **options) -> KosmosDecoder:
    torch.manual_seed(0)
    config = tiny.model_config(data, **{"attention_dropout": 0.0, **options})
    return KosmosDecoder(config, VOCABULARY, padding_idx=1).eval()


@st.composite
def packed(draw):
    """document_ids [B, T]: rows of whole documents, then padding."""
    length = draw(st.integers(1, 300))
    rows = []
    for _ in range(draw(st.integers(1, 3))):
        lengths = draw(st.lists(st.integers(1, 200), max_size=6))
        ids = [number + 1 for number, size in enumerate(lengths) for _ in range(size)][:length]
        rows.append(ids + [0] * (length - len(ids)))
    return torch.tensor(rows)


def documents_of(ids):
    """(row, start, end) of each document."""
    for b, row in enumerate(ids.tolist()):
        start = 0
        for position in range(1, len(row) + 1):
            if position == len(row) or row[position] != row[start]:
                if row[start]:
                    yield b, start, position
                start = position


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(ids=packed())
def test_packed_documents_equal_torchscale_on_each_document(data, kind, ids):
    ours = decoder(data, attention=kind)
    stock = Decoder(
        decoder_config(tiny.model_config(data), VOCABULARY), nn.Embedding(VOCABULARY, ours.embed_dim)
    ).eval()
    stock.load_state_dict(ours.state_dict(), strict=True)
    tokens = torch.randint(4, VOCABULARY, ids.shape)
    with torch.no_grad():
        logits = ours.output_layer(ours(ours.embed_tokens(tokens), ids))
        assert logits.isfinite().all()
        for row, start, end in documents_of(ids):
            expected = stock(tokens[row : row + 1, start:end])[0][0]
            torch.testing.assert_close(logits[row, start:end], expected, atol=1e-5, rtol=1e-5)


@settings(max_examples=10, deadline=None)
@given(ids=packed())
def test_gradients_equal_those_of_the_masked_reference(data, ids):
    embeddings = torch.randn(*ids.shape, 32)
    weight = torch.randn(*ids.shape, 32) * (ids != 0).unsqueeze(-1)
    found = []
    for attention in KINDS:
        model, x = decoder(data, attention=attention), embeddings.clone().requires_grad_()
        (model(x, ids) * weight).sum().backward()
        found.append([x.grad, *(p.grad for p in model.layers.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_bfloat16_is_within_its_rounding_of_float32(data):
    """The error of documents as rows is at most 1.5 times that of the masked reference in bfloat16."""
    ids = torch.tensor([[1] * 150 + [2] * 70 + [3] * 30 + [0] * 6, [1] * 256])
    embeddings = torch.randn(*ids.shape, 32)
    exact = decoder(data, attention="masked")(embeddings, ids)
    errors = [
        (decoder(data, attention=kind).bfloat16()(embeddings.bfloat16(), ids) - exact).abs().mean() for kind in KINDS
    ]
    assert errors[0] <= 1.5 * errors[1] < 0.05


def test_positions_count_within_documents():
    ids = torch.tensor([[1, 1, 1, 2, 2, 3, 0, 0], [4, 4, 4, 4, 4, 4, 4, 4]])
    plan = plan_packed_attention(ids, "documents")
    assert plan.token_index.tolist() == [0, 1, 2, 3, 4, 5, *range(8, 16)]
    assert plan.positions.tolist() == [0, 1, 2, 0, 1, 0, *range(8)]


def test_nothing_is_computed_between_documents():
    """24 captions in a row: 24 rows of a caption's length each, not one of 2,048."""
    ids = torch.arange(1, 25).repeat_interleave(85).unsqueeze(0)
    [group] = plan_packed_attention(ids, "documents").groups
    assert group.token_index.shape == (24, 85) and group.mask is None


def test_a_batch_of_only_padding_gives_every_parameter_a_gradient(data):
    model = decoder(data).train()
    hidden = model(torch.randn(1, 16, 32), torch.zeros(1, 16, dtype=torch.int64))
    hidden.sum().backward()
    assert all(p.grad is not None for p in model.layers.parameters())


# ---- attention with dropout on CPUs


def tensors(heads=3, length=7, width=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, heads, length, width, dtype=dtype, generator=generator).requires_grad_() for _ in range(3)]


@pytest.mark.parametrize("length", [1, 127, 128, 300])
def test_at_rate_zero_it_equals_torchs_attention(length):
    q, k, v = tensors(length=length, dtype=torch.float32)
    weight = torch.randn_like(v)
    results = []
    for attention in (
        lambda: causal_attention_with_dropout(q, k, v, 0.0),
        lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    ):
        out = attention()
        results.append([out, *torch.autograd.grad((out * weight).sum(), (q, k, v))])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_gradients_with_dropout_equal_numerical_ones(monkeypatch):
    monkeypatch.setattr("kosmos_plugin.models.dropout_attention._TILE_QUERIES", 3)

    def fixed(q, k, v):
        torch.manual_seed(5)
        return causal_attention_with_dropout(q, k, v, 0.3)

    # The weights are float32, which limits the precision of the numerical gradient.
    torch.autograd.gradcheck(fixed, tensors(), eps=1e-2, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize("length", [60, 400])
def test_weights_are_kept_scaled_or_dropped_at_the_given_rate(rate, length):
    """With unit vectors as values, the output is the attention weights."""
    torch.manual_seed(0)
    q, k = torch.randn(2, 4, 2, length, 8)
    v = torch.eye(length).expand(4, 2, -1, -1)
    weights = causal_attention_with_dropout(q, k, v, rate)
    plain = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    visible = torch.ones(length, length, dtype=torch.bool).tril()
    assert (weights[..., ~visible] == 0).all()
    kept = (weights != 0) & visible
    torch.testing.assert_close(weights[kept], plain[kept] / (1 - rate), atol=1e-6, rtol=1e-3)
    share = 1 - kept[..., visible].double().mean().item()
    assert share == pytest.approx(rate, abs=5 * (rate * (1 - rate) / kept[..., visible].numel()) ** 0.5)
    # No correlation: not between neighbors, between the four that share 64 random bits, or between heads.
    dropped = (~kept[..., -1, :]).double().flatten(0, 1)
    for shifted in (dropped.roll(1, -1), dropped.roll(2, -1), dropped.roll(4, -1), dropped.roll(1, 0)):
        assert (
            abs(torch.corrcoef(torch.stack((dropped.flatten(), shifted.flatten())))[0, 1]) < 5 / dropped.numel() ** 0.5
        )
