"""The paged cache against the packed attention of training, for sequences that come, share beginnings, and go."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kosmos_plugin.models.decoder import KosmosDecoder
from kosmos_plugin.models.paged_cache import BLOCK_SIZE, PagedCache, Span
from tests import tiny

VOCABULARY = 50
BLOCKS = 40


@pytest.fixture(scope="module")
def decoder(data):
    torch.manual_seed(0)
    decoder = KosmosDecoder(tiny.model_config(data), VOCABULARY, padding_idx=1).eval()
    for parameter in decoder.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return decoder


def new_cache(decoder, num_blocks=BLOCKS):
    weight = decoder.embed_tokens.weight
    cache = PagedCache(decoder.num_layers, num_blocks, decoder.args.decoder_attention_heads, decoder.head_dim, weight)
    cache.store.fill_(torch.nan)  # what nobody wrote must not be seen
    return cache


def packed(decoder, rows):
    """Hidden states of the rows' last positions, as documents of one packed row."""
    tokens = torch.tensor([[token for row in rows for token in row]])
    ids = torch.tensor([[number for number, row in enumerate(rows, start=1) for _ in row]])
    hidden = decoder(decoder.embed_tokens(tokens), ids)[0]
    return hidden[torch.tensor([len(row) for row in rows]).cumsum(0) - 1]


class Row:
    """A sequence with its blocks; `computed` of its tokens are in the cache."""

    def __init__(self, tokens, blocks=(), computed=0):
        self.tokens, self.blocks, self.computed = tokens, list(blocks), computed


def step(decoder, cache, free, rows, lengths):
    """Run the next tokens of each row; hidden states of the last of them."""
    spans, tokens = [], []
    for row, length in zip(rows, lengths, strict=True):
        end = row.computed + length
        new = [free.pop() for _ in range(-(-end // BLOCK_SIZE) - len(row.blocks))]
        cache.clear(new)
        row.blocks += new
        spans.append(Span(row.blocks, row.computed, length))
        tokens += row.tokens[row.computed : end]
        row.computed = end
    plan = cache.step(spans)
    hidden = decoder.extend(decoder.embed_tokens(torch.tensor([tokens])), plan)[0]
    return hidden[plan.last_index]


@torch.no_grad()
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_equals_packed_attention(decoder, data):
    """Each step takes some tokens of some rows; rows leave, and new ones take their blocks or continue them."""
    cache, free, rows = new_cache(decoder), list(range(BLOCKS)), []
    token = st.integers(2, VOCABULARY - 1)
    for _ in range(data.draw(st.integers(1, 6))):
        for _ in range(data.draw(st.integers(0, 3))):
            if len(rows) < 5:
                rows.append(Row(data.draw(st.lists(token, min_size=1, max_size=3 * BLOCK_SIZE))))
        waiting = [row for row in rows if row.computed < len(row.tokens)]
        if waiting:
            lengths = [data.draw(st.integers(1, len(row.tokens) - row.computed)) for row in waiting]
            found = step(decoder, cache, free, waiting, lengths)
            expected = packed(decoder, [row.tokens[: row.computed] for row in waiting])
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        for row in rows:
            if row.computed == len(row.tokens) and len(row.tokens) < 3 * BLOCK_SIZE:  # as generated
                row.tokens.append(data.draw(token))
        if rows and data.draw(st.booleans()):
            gone = rows.pop(data.draw(st.integers(0, len(rows) - 1)))
            free += gone.blocks


@torch.no_grad()
def test_rows_share_the_blocks_of_a_common_beginning(decoder):
    cache, free = new_cache(decoder), list(range(BLOCKS))
    torch.manual_seed(1)
    beginning, *ends = (torch.randint(2, VOCABULARY, (length,)).tolist() for length in (2 * BLOCK_SIZE, 1, 5, 20))
    first = Row(beginning)
    step(decoder, cache, free, [first], [2 * BLOCK_SIZE])
    written = cache.store[:, :, first.blocks].clone()
    rows = [Row(beginning + end, first.blocks, first.computed) for end in ends]
    found = step(decoder, cache, free, rows, list(map(len, ends)))
    torch.testing.assert_close(found, packed(decoder, [row.tokens for row in rows]), atol=1e-5, rtol=0)
    assert torch.equal(cache.store[:, :, first.blocks], written)


@torch.no_grad()
def test_one_token_of_many_rows_takes_few_calls(decoder, monkeypatch):
    """Of 3 … 400 tokens: a call for each class of length, in which the longest has less than twice as many keys."""
    cache, free = new_cache(decoder, 200), list(range(200))
    torch.manual_seed(2)
    rows = [Row(torch.randint(2, VOCABULARY, (length,)).tolist()) for length in (3, 9, 40, 47, 60, 130, 200, 400)]
    step(decoder, cache, free, rows, [len(row.tokens) for row in rows])
    for row in rows:
        row.tokens.append(7)
    plans = []
    monkeypatch.setattr(cache, "step", lambda spans: plans.append(PagedCache.step(cache, spans)) or plans[-1])
    found = step(decoder, cache, free, rows, [1] * len(rows))
    torch.testing.assert_close(found, packed(decoder, [row.tokens for row in rows]), atol=1e-5, rtol=0)
    [plan] = plans
    assert len(plan.groups) < len(rows)
    for group in plan.groups:
        if group.mask is not None:
            assert group.mask.sum(-1).min() >= group.keys // 2 - BLOCK_SIZE


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(data, dtype):
    torch.manual_seed(0)
    exact = KosmosDecoder(tiny.model_config(data), VOCABULARY, padding_idx=1).eval()
    tokens = torch.randint(2, VOCABULARY, (30,)).tolist()
    expected = packed(exact, [tokens])
    decoder = exact.to(dtype)
    cache, row = new_cache(decoder), Row(tokens)
    assert cache.store.dtype == dtype
    free = list(range(BLOCKS))
    step(decoder, cache, free, [row], [20])
    found = step(decoder, cache, free, [row], [10])
    torch.testing.assert_close(found.float(), expected, atol=0.1, rtol=0.1)
