"""Packed attention against TorchScale's own, and attention with dropout on CPUs against autograd."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchscale.architecture.decoder import Decoder

from kosmos_plugin.models.attention_plan import padded_size, plan_packed_attention
from kosmos_plugin.models.decoder import KosmosDecoder, decoder_config
from kosmos_plugin.models.dropout_attention import causal_attention_with_dropout
from tests import tiny
from tests.flash_stand_in import flash_on_cpu

KINDS = ["documents", "masked", "varlen"]
VOCABULARY = 50


def decoder(data, **options) -> KosmosDecoder:
    torch.manual_seed(0)
    config = tiny.model_config(data, **{"attention_dropout": 0.0, **options})
    return KosmosDecoder(config, VOCABULARY, padding_idx=1).eval()


def run(model, embeddings, ids, kind):
    """Hidden states [B, T, E] of a packed batch."""
    plan = plan_packed_attention(ids, kind)
    return plan.unpack(model.run(plan.pack(embeddings), plan))


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
    ours = decoder(data)
    stock = Decoder(
        decoder_config(tiny.model_config(data), VOCABULARY), nn.Embedding(VOCABULARY, ours.embed_dim)
    ).eval()
    stock.load_state_dict(ours.state_dict(), strict=True)
    tokens = torch.randint(4, VOCABULARY, ids.shape)
    with torch.no_grad(), flash_on_cpu():
        logits = ours.output_layer(run(ours, ours.embed_tokens(tokens), ids, kind))
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
    for kind in KINDS:
        model, x = decoder(data), embeddings.clone().requires_grad_()
        with flash_on_cpu():
            (run(model, x, ids, kind) * weight).sum().backward()
        found.append([x.grad, *(p.grad for p in model.layers.parameters())])
    for others in (found[0], found[2]):
        for one, other in zip(found[1], others, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_bfloat16_is_within_its_rounding_of_float32(data, flash):
    """The error of either way is at most 1.5 times that of the masked reference in bfloat16."""
    ids = torch.tensor([[1] * 150 + [2] * 70 + [3] * 30 + [0] * 6, [1] * 256])
    embeddings, tokens = torch.randn(*ids.shape, 32), ids > 0
    exact = run(decoder(data), embeddings, ids, "masked")[tokens]
    documents, masked, varlen = (
        (run(decoder(data).bfloat16(), embeddings.bfloat16(), ids, kind)[tokens] - exact).abs().mean() for kind in KINDS
    )
    assert max(documents, varlen) <= 1.5 * masked < 0.05
    assert flash


@pytest.mark.parametrize("attention", ["auto", "varlen", "documents", "masked"])
def test_a_batch_without_a_plan_is_planned_by_the_decoder(data, attention):
    ids = torch.tensor([[1] * 20 + [2] * 9 + [0] * 3, [1] * 32])
    embeddings = torch.randn(*ids.shape, 32)
    model = decoder(data, attention=attention)
    expected = run(model, embeddings, ids, "masked" if attention == "masked" else "documents")
    assert torch.equal(model(embeddings, ids), expected)


def test_positions_count_within_documents():
    ids = torch.tensor([[1, 1, 1, 2, 2, 3, 0, 0], [4, 4, 4, 4, 4, 4, 4, 4]])
    plan = plan_packed_attention(ids, "documents")
    assert plan.token_index.tolist() == [0, 1, 2, 3, 4, 5, *range(8, 16)]
    assert plan.positions.tolist() == [0, 1, 2, 0, 1, 0, *range(8)]


@settings(max_examples=50, deadline=None)
@given(ids=packed())
def test_bounds_of_documents_of_any_lengths(ids):
    """Every position is in a document, padding in the one before it, and the empty ones come last."""
    plan = plan_packed_attention(ids, "varlen")
    batch, length = ids.shape
    starts = sorted({b * length for b in range(batch)} | {b * length + start for b, start, _ in documents_of(ids)})
    lengths = [end - start for start, end in zip(starts, [*starts[1:], ids.numel()], strict=True)]
    assert plan.positions.tolist() == [i for size in lengths for i in range(size)]
    assert plan.token_index is None and not plan.groups
    if set(lengths) == {length}:
        assert plan.cu_seqlens is None and plan.row_length == length
        return
    assert plan.cu_seqlens.dtype == torch.int32
    bounds = plan.cu_seqlens.tolist()
    assert bounds[: len(starts)] == starts and set(bounds[len(starts) :]) == {ids.numel()}
    assert len(bounds) == padded_size(len(starts), 16) + 1
    assert max(lengths) <= plan.max_length == max(128, 2 ** (max(lengths) - 1).bit_length())


def test_a_zero_between_documents_separates_them():
    plan = plan_packed_attention(torch.tensor([[5, 5, 0, 5, 0, 0, 7, 7], [0, 0, 3, 3, 3, 3, 3, 0]]), "varlen")
    assert plan.cu_seqlens.tolist() == [0, 3, 6, 8, 10, *[16] * 12]
    assert plan.positions.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 0, 1, 0, 1, 2, 3, 4, 5]


@given(size=st.integers(0, 10**6), multiple=st.sampled_from([1, 2, 16, 128]))
def test_buckets_are_few_and_little_larger(size, multiple):
    bucket = padded_size(size, multiple)
    assert bucket >= size and bucket % multiple == 0 and bucket > 0
    assert bucket - size <= max(multiple, size / 16)
    assert padded_size(bucket, multiple) == bucket


def test_there_are_few_buckets():
    assert len({padded_size(size, 2) for size in range(1, 1025)}) <= 100


def test_nothing_is_computed_between_documents():
    """24 captions in a row: 24 rows of a caption's length each, not one of 2,048."""
    ids = torch.arange(1, 25).repeat_interleave(85).unsqueeze(0)
    [group] = plan_packed_attention(ids, "documents").groups
    assert group.token_index.shape == (24, 85) and group.mask is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_only_padding_gives_every_parameter_a_gradient(data, kind, flash):
    model = decoder(data).train()
    hidden = run(model, torch.randn(1, 16, 32), torch.zeros(1, 16, dtype=torch.int64), kind)
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
