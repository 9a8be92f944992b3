"""The KV cache against TorchScale's decoder on separate rows, for any sequence of extend, branch and select."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchscale.architecture.decoder import Decoder

from kosmos_plugin.models.decoder import KosmosDecoder, decoder_config
from kosmos_plugin.models.kv_cache import KeyValueCache
from tests import tiny

VOCABULARY = 50
PAD = 1


@pytest.fixture(scope="module")
def pair(data):
    """Our decoder and TorchScale's, with the same random weights."""
    torch.manual_seed(0)
    config = tiny.model_config(data)
    ours = KosmosDecoder(config, VOCABULARY, padding_idx=PAD).eval()
    for parameter in ours.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    stock = Decoder(decoder_config(config, VOCABULARY), nn.Embedding(VOCABULARY, config.decoder_embed_dim)).eval()
    stock.load_state_dict(ours.state_dict(), strict=True)
    return ours, stock


def read(decoder, cache, parts):
    """Extend each row by one part (a list of tokens), left-padded → the logits of each part's tokens."""
    length = max(map(len, parts))
    tokens = torch.tensor([[PAD] * (length - len(part)) + part for part in parts])
    unequal = any(len(part) < length for part in parts)
    hidden = decoder.extend(decoder.embed_tokens(tokens), cache, tokens.ne(PAD) if unequal else None)
    return [logits[length - len(part) :] for logits, part in zip(decoder.output_layer(hidden), parts, strict=True)]


def parts(draw, rows, longest):
    token = st.integers(PAD + 1, VOCABULARY - 1)
    return draw(st.lists(st.lists(token, min_size=1, max_size=longest), min_size=rows, max_size=rows))


@torch.no_grad()
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_levels_equal_torchscale_on_each_row(pair, data):
    """Random sequences of extending (by unequal lengths, beyond the smallest capacity too), branching and selecting."""
    ours, stock = pair
    rows = parts(data.draw, data.draw(st.integers(1, 4)), 20)
    cache = KeyValueCache(ours.num_layers)
    found = [read(ours, cache, rows)]
    expected = [[stock(torch.tensor([row]))[0][0] for row in rows]]
    for step in data.draw(st.lists(st.sampled_from(["read", "token", "branch", "select"]), max_size=7)):
        if step in ("branch", "select"):
            kept = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=6))
            rows = [rows[row] for row in kept]
            cache = cache.branch(kept) if step == "branch" else (cache.select(kept), cache)[1]
            if step == "select":
                continue
        new = parts(data.draw, len(rows), 1 if step == "token" else 6)
        rows = [row + part for row, part in zip(rows, new, strict=True)]
        found.append(read(ours, cache, new))
        expected.append([stock(torch.tensor([row]))[0][0, -len(part) :] for row, part in zip(rows, new, strict=True)])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_branch_does_not_change_its_origin(pair):
    """The origin continues after several branches, made one after the other."""
    ours, stock = pair
    rows = [[5, 6, 7, 8], [9, 10]]
    cache = KeyValueCache(ours.num_layers)
    read(ours, cache, rows)
    for parents in ([1], [0, 0, 0], [1, 0]):
        branch = cache.branch(parents)
        for token in (11, 12):
            logits = read(ours, branch, [[token]] * len(parents))
        for parent, row_logits in zip(parents, logits, strict=True):
            expected = stock(torch.tensor([[*rows[parent], 11, 12]]))[0][0, -1:]
            torch.testing.assert_close(row_logits, expected, atol=1e-5, rtol=0)
    logits = read(ours, cache, [[20, 21]] * 2)
    for row, row_logits in zip(rows, logits, strict=True):
        torch.testing.assert_close(row_logits, stock(torch.tensor([[*row, 20, 21]]))[0][0, -2:], atol=1e-5, rtol=0)


@torch.no_grad()
def test_layers_compute_nothing_for_padding(pair):
    ours, _ = pair
    shapes = []
    hook = ours.layers[-1].register_forward_hook(lambda module, args, output: shapes.append(tuple(args[0].shape[:2])))
    cache = KeyValueCache(ours.num_layers)
    read(ours, cache, [[5] * 30, [6] * 3])
    read(ours, cache.branch([1, 0, 1]), [[7], [8] * 9, [9] * 2])
    hook.remove()
    assert shapes == [(1, 33), (1, 12)]


def stores(cache):
    return [level.store.data_ptr() for level in cache.levels]


@torch.no_grad()
def test_shared_levels_are_not_copied(pair):
    ours, _ = pair
    cache = KeyValueCache(ours.num_layers)
    read(ours, cache, [[5] * 30, [6] * 30])
    branch = cache.branch([0, 0, 0, 1, 1, 1])
    read(ours, branch, [[7]] * 6)
    before = stores(branch)
    branch.select([0, 1, 2, 3, 4, 5])
    assert stores(branch) == before, "the order did not change"
    branch.select([2, 2, 0, 5, 5, 4])
    assert stores(branch)[0] == before[0] == stores(cache)[0]
    assert branch.levels[1].store.size(4) < 30


@torch.no_grad()
def test_rows_that_no_row_continues_are_dropped(pair):
    ours, stock = pair
    rows = [[5 + row] * 8 for row in range(8)]
    cache = KeyValueCache(ours.num_layers)
    read(ours, cache, rows)
    branch = cache.branch(range(8))
    read(ours, branch, [[30]] * 8)
    branch.select([1, 4, 6, 7, 2])
    assert [level.rows for level in branch.levels] == [8, 5]
    branch.select([1, 2])
    assert [level.rows for level in branch.levels] == [2, 2]
    assert cache.levels[0].rows == 8
    for row, logits in zip((4, 6), read(ours, branch, [[31]] * 2), strict=True):
        torch.testing.assert_close(logits, stock(torch.tensor([[*rows[row], 30, 31]]))[0][0, -1:], atol=1e-5, rtol=0)


@torch.no_grad()
def test_bfloat16_is_within_its_rounding(data):
    """With levels, the error against float32 is less than twice that of a full pass in bfloat16."""
    torch.manual_seed(0)
    decoder = KosmosDecoder(tiny.model_config(data), VOCABULARY, padding_idx=PAD).eval()
    tokens = torch.randint(4, VOCABULARY, (1, 40))
    whole = decoder(decoder.embed_tokens(tokens), torch.ones_like(tokens))[0, 20:]
    decoder = decoder.bfloat16()
    error = (decoder(decoder.embed_tokens(tokens), torch.ones_like(tokens))[0, 20:] - whole).abs().max()
    cache = KeyValueCache(decoder.num_layers)
    decoder.extend(decoder.embed_tokens(tokens[:, :20]), cache)
    branch = cache.branch([0])
    hidden = [decoder.extend(decoder.embed_tokens(token), branch)[0] for token in tokens[:, 20:].split(1, dim=1)]
    assert (torch.cat(hidden) - whole).abs().max() < 2 * error
