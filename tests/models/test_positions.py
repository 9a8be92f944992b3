"""Positions against fairseq's sinusoids and TorchScale's decoder: packed, cached, and with rows of unequal lengths."""

import pytest
import torch
from fairseq.modules import SinusoidalPositionalEmbedding
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchscale.architecture.decoder import Decoder

from kosmos_plugin.fairseq_modules.architectures import KosmosModel
from kosmos_plugin.generation.decoding_state import DecodingState
from kosmos_plugin.models.decoder import decoder_config
from kosmos_plugin.models.positions import SinusoidalPositions, rotate, xpos_rotation
from tests import tiny

PAD = 1
VARIANTS = ["xpos", "sinusoidal", "both"]


@torch.no_grad()
@settings(max_examples=30, deadline=None)
@given(half=st.integers(2, 40), lengths=st.lists(st.integers(1, 3000), min_size=1, max_size=3))
def test_sinusoids_equal_fairseqs(half, lengths):
    theirs = SinusoidalPositionalEmbedding(2 * half, padding_idx=PAD, init_size=16)
    ours = SinusoidalPositions(2 * half)
    for length in lengths:
        expected = theirs(torch.full((1, length), PAD + 1))
        torch.testing.assert_close(ours(torch.arange(length)[None]), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_compiler_rotates_as_we_do(monkeypatch, dtype):
    """As complex numbers, or in real ones where the compiler looks on; values and gradients."""
    tables = xpos_rotation(torch.randint(0, 3000, (2, 7)), 16)
    x, gradient = torch.randn(2, 7, 3, 16, dtype=dtype), torch.randn(2, 7, 3, 16, dtype=dtype)
    found = []
    for compiling in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda compiling=compiling: compiling)
        leaf = x.clone().requires_grad_()
        turned = rotate(leaf, tables.query_cos, tables.query_sin)
        turned.backward(gradient)
        assert turned.dtype == dtype
        found.append((turned.detach(), leaf.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5 if dtype == torch.float32 else 0.05, rtol=1e-2)


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request, data):
    """A text-only model, and TorchScale's decoder with the same weights and fairseq's sinusoids."""
    task = tiny.task(data)
    model = tiny.model(task, vision_encoder="none", positions=request.param)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    vocabulary, width = model.decoder.embed_tokens.weight.shape
    sinusoids = None if request.param == "xpos" else SinusoidalPositionalEmbedding(width, PAD)
    config = decoder_config(model.config, vocabulary)
    assert config.xpos_rel_pos == (request.param != "sinusoidal")
    stock = Decoder(config, nn.Embedding(vocabulary, width), sinusoids).eval()
    stock.load_state_dict(model.decoder.state_dict(), strict=True)
    return model, stock


def random_tokens(*shape):
    return torch.randint(4, 70, shape)


def assert_near(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_full_pass_equals_torchscale(pair):
    model, stock = pair
    tokens = random_tokens(3, 50)
    assert_near(model(tokens, torch.ones_like(tokens))[0], stock(tokens)[0])


@torch.no_grad()
@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=5), padding=st.integers(0, 5))
def test_packed_documents_equal_torchscale_on_each_document(pair, lengths, padding):
    """Positions count within each document of a row."""
    model, stock = pair
    tokens = random_tokens(1, sum(lengths) + padding)
    ids = [number for number, length in enumerate(lengths, 1) for _ in range(length)] + [0] * padding
    logits = model(tokens, torch.tensor([ids]))[0]
    start = 0
    for length in lengths:
        document = slice(start, start + length)
        assert_near(logits[:, document], stock(tokens[:, document])[0])
        start += length


def left_padded(rows):
    """Left-padded tokens [B, T], and a mask of those that are not padding, bool [B, T]."""
    length = max(map(len, rows))
    tokens = torch.full((len(rows), length), PAD)
    for padded, row in zip(tokens, rows, strict=True):
        padded[length - len(row) :] = row
    return tokens, tokens != PAD


def read(model, state, tokens, valid):
    return model.decoder.output_layer(state.extend(tokens, valid))


@torch.no_grad()
@settings(max_examples=25, deadline=None)
@given(
    prompts=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    chunks=st.lists(st.integers(1, 5), min_size=0, max_size=5),
    seed=st.integers(0, 1000),
)
def test_prompts_of_unequal_lengths_equal_torchscale_on_each_prompt(pair, prompts, chunks, seed):
    """A batch of prompts, then chunks of one or more tokens: each row equals TorchScale's, and that row by itself."""
    model, stock = pair
    torch.manual_seed(seed)
    rows = [random_tokens(length + sum(chunks)) for length in prompts]
    state = DecodingState(model)
    parts = [read(model, state, *left_padded([row[:length] for row, length in zip(rows, prompts, strict=True)]))]
    read_so_far = 0
    for chunk in chunks:
        starts = [length + read_so_far for length in prompts]
        tokens = torch.stack([row[start : start + chunk] for row, start in zip(rows, starts, strict=True)])
        parts.append(read(model, state, tokens, torch.ones_like(tokens, dtype=torch.bool)))
        read_so_far += chunk
    logits = torch.cat(parts, dim=1)
    for row, found in zip(rows, logits, strict=True):
        found = found[-len(row) :]
        assert_near(found, stock(row[None])[0][0])
        by_itself = read(model, DecodingState(model), row[None], torch.ones(1, len(row), dtype=torch.bool))[0]
        assert_near(found, by_itself)


@torch.no_grad()
def test_one_token_at_a_time_equals_torchscales_own_steps(pair):
    """TorchScale's incremental decoding, which rotates its whole cache again in each step."""
    model, stock = pair
    tokens = random_tokens(2, 12)
    state, incremental, valid = DecodingState(model), {}, torch.ones(2, 1, dtype=torch.bool)
    for step in range(tokens.size(1)):
        ours = read(model, state, tokens[:, step : step + 1], valid)
        theirs = stock(tokens[:, : step + 1], incremental_state=incremental)[0]
        assert_near(ours, theirs)


@torch.no_grad()
def test_rows_selected_several_times_continue_with_their_own_positions(pair):
    """As in beam search: after `select`, each row continues with its own positions."""
    model, stock = pair
    rows = [random_tokens(length) for length in (3, 9, 5)]
    state = DecodingState(model)
    state.extend(*left_padded(rows))
    kept = [2, 0, 2, 1]
    state.select(kept)
    more = random_tokens(len(kept), 2)
    logits = read(model, state, more, torch.ones_like(more, dtype=torch.bool))
    for row, tokens, found in zip(kept, more, logits, strict=True):
        assert_near(found, stock(torch.cat((rows[row], tokens))[None])[0][0, -2:])


@torch.no_grad()
def test_the_variants_differ(data):
    """With the same weights, the three variants give different logits, so none is ignored."""
    task = tiny.task(data)
    tokens = random_tokens(1, 20)

    def logits(positions) -> torch.Tensor:
        model: KosmosModel = tiny.model(task, vision_encoder="none", positions=positions)
        return model(tokens, torch.ones_like(tokens))[0]

    xpos, sinusoidal, both = map(logits, VARIANTS)
    for one, other in [(xpos, sinusoidal), (xpos, both), (sinusoidal, both)]:
        assert (one - other).abs().max() > 1e-3
