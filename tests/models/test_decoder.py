"""The decoder against TorchScale's own, with the same weights."""

import pytest
import torch
from torch import nn
from torchscale.architecture.decoder import Decoder

from kosmos_plugin.models.decoder import KosmosDecoder, decoder_config
from kosmos_plugin.models.positions import document_positions, xpos_rotation
from tests import tiny

VOCABULARY = 50


@pytest.fixture(scope="module", params=[2, 3])
def pair(request, data):
    """Ours and TorchScale's stock decoder, the same random weights (biases and norms too)."""
    torch.manual_seed(0)
    config = tiny.model_config(data, decoder_layers=request.param)
    ours = KosmosDecoder(config, VOCABULARY, padding_idx=1).eval()
    for parameter in ours.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    stock = Decoder(decoder_config(config, VOCABULARY), nn.Embedding(VOCABULARY, config.decoder_embed_dim)).eval()
    stock.load_state_dict(ours.state_dict(), strict=True)
    return ours, stock


def one_document(tokens):
    return torch.ones_like(tokens)


@torch.no_grad()
def test_full_pass_equals_torchscale(pair):
    ours, stock = pair
    tokens = torch.randint(4, VOCABULARY, (3, 40))
    logits = ours.output_layer(ours(ours.embed_tokens(tokens), one_document(tokens)))
    torch.testing.assert_close(logits, stock(tokens)[0], atol=1e-5, rtol=0)


@torch.no_grad()
def test_packed_documents_equal_torchscale_on_each_alone(pair):
    ours, stock = pair
    tokens = torch.randint(4, VOCABULARY, (2, 30))
    ids = torch.tensor([[1] * 7 + [2] * 13 + [3] * 8 + [0] * 2, [1] * 1 + [2] * 29])
    logits = ours.output_layer(ours(ours.embed_tokens(tokens), ids))
    for b, begin, end in [(0, 0, 7), (0, 7, 20), (0, 20, 28), (1, 0, 1), (1, 1, 30)]:
        alone = stock(tokens[b : b + 1, begin:end])[0][0]
        torch.testing.assert_close(logits[b, begin:end], alone, atol=1e-5, rtol=0)
    assert logits.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("chunks", [[1] * 12, [8, 1, 1, 1, 1], [5, 4, 3], [12]])
def test_cached_steps_equal_torchscale(pair, chunks):
    ours, stock = pair
    tokens = torch.randint(4, VOCABULARY, (2, 12))
    cache, hidden, done = {}, [], 0
    for size in chunks:
        part = tokens[:, done : done + size]
        positions = torch.arange(done, done + size).expand_as(part)
        mask = torch.ones(size, done + size, dtype=torch.bool).tril(done).expand(2, 1, -1, -1)
        hidden.append(ours.extend(ours.embed_tokens(part), positions, mask, cache))
        done += size
    logits = ours.output_layer(torch.cat(hidden, dim=1))
    torch.testing.assert_close(logits, stock(tokens)[0], atol=1e-5, rtol=0)


def test_positions_count_within_documents():
    ids = torch.tensor([[1, 1, 1, 2, 2, 3, 0, 0], [4, 4, 4, 4, 4, 4, 4, 4]])
    expected = [[0, 1, 2, 0, 1, 0, 0, 1], [0, 1, 2, 3, 4, 5, 6, 7]]
    assert document_positions(ids).tolist() == expected


def test_scores_depend_on_distance_alone():
    """xPos: a fixed query and key at a fixed distance score the same wherever they stand."""
    query, key = torch.randn(2, 1, 1, 1, 64, generator=torch.Generator().manual_seed(0))
    from kosmos_plugin.models.positions import rotate

    length, distance = 2048, 5
    table = xpos_rotation(torch.arange(length)[None], 64)
    q = rotate(query.expand(1, 1, length, 64), table.query_cos, table.query_sin)
    k = rotate(key.expand(1, 1, length, 64), table.key_cos, table.key_sin)
    scores = (q[..., distance:, :] * k[..., : length - distance, :]).sum(-1)
    torch.testing.assert_close(scores, scores[..., :1].expand_as(scores), atol=1e-3, rtol=1e-4)


def test_dropout_happens_in_training_alone(data):
    torch.manual_seed(0)
    for name in ("dropout", "attention_dropout"):
        decoder = KosmosDecoder(tiny.model_config(data, **{name: 0.5}), VOCABULARY, padding_idx=1)
        tokens = torch.randint(4, VOCABULARY, (1, 20))

        def run(decoder=decoder, tokens=tokens):
            return decoder(decoder.embed_tokens(tokens), one_document(tokens))

        decoder.train()
        assert not torch.equal(run(), run()), name
        decoder.eval()
        assert torch.equal(run(), run()), name
