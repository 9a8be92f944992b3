"""xPos in half precision: scores depend only on distance, up to the rounding of the factors.

Let u be a dtype's unit roundoff (half of torch's `eps`). The rotated query and key are each rounded once, a relative
error of u in each of their components, so a score's error is at most 2u·Σ|q'ᵢk'ᵢ|. By Cauchy–Schwarz on each rotated
pair of components that sum is at most S = Σ_pairs ζ^(distance/512)·|q_pair||k_pair|, the scales of query and key being
reciprocal but for the distance; the error is at most eps·S. The angles themselves, computed in float32, are off by at
most 2,048·2⁻²⁴ for the product and as much for the frequency in it, for the query and for the key: 2⁻¹¹·S together.
"""

import copy

import pytest
import torch
from torch import nn
from torchscale.architecture.decoder import Decoder
from torchscale.component.xpos_relative_position import XPOS

from kosmos_plugin.models.decoder import KosmosDecoder, decoder_config
from kosmos_plugin.models.positions import rotate, xpos_rotation
from tests import tiny

LENGTH = 2048
HEAD = 64
PAIRS = 8
HALF = [torch.bfloat16, torch.float16]


def exact_score(query, key, distance):
    """The paper's formula in float64, pairs as complex numbers rotated by d·θ and scaled by ζ^(d/512); and its S."""
    i = torch.arange(0, HEAD, 2, dtype=torch.float64)
    theta, zeta = 10000 ** (-i / HEAD), (i / HEAD + 0.4) / 1.4
    q, k = (torch.view_as_complex(x.double().view(PAIRS, -1, 2)) for x in (query, key))
    products = q * torch.polar(zeta ** (distance / 512), distance * theta) * k.conj()
    return products.real.sum(-1), products.abs().sum(-1)


def our_scores(query, key, distance):
    table = xpos_rotation(torch.arange(LENGTH)[None], HEAD)
    at_all_positions = (x[None, None].expand(1, LENGTH, PAIRS, HEAD) for x in (query, key))
    q = rotate(next(at_all_positions), table.query_cos, table.query_sin)[0].transpose(0, 1)
    k = rotate(next(at_all_positions), table.key_cos, table.key_sin)[0].transpose(0, 1)
    return products(q, k, distance, query.dtype)


def torchscale_scores(query, key, distance):
    module = XPOS(HEAD).to(query.dtype)
    q, k = (x[:, None].expand(PAIRS, LENGTH, HEAD) for x in (query, key))
    return products(module(q), module(k, downscale=True), distance, query.dtype)


def products(q, k, distance, dtype):
    """Scores [PAIRS, positions] of each query with the key `distance` before it, summed without rounding."""
    assert q.dtype == k.dtype == dtype
    return (q[:, distance:].double() * k[:, : LENGTH - distance].double()).sum(-1)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_scores_vary_within_rounding_and_torchscales_do_not(dtype):
    query, key = torch.randn(2, PAIRS, HEAD, generator=torch.Generator().manual_seed(0)).to(dtype)
    for distance in (0, 1, 7, 64, 700):
        exact, most = exact_score(query, key, distance)
        allowed = (torch.finfo(dtype).eps + 2**-11) * most
        ours = our_scores(query, key, distance)
        theirs = torchscale_scores(query, key, distance)
        assert ((ours - exact[:, None]).abs().amax(dim=1) <= allowed).all(), distance
        assert (ours.amax(dim=1) - ours.amin(dim=1) <= 2 * allowed).all(), distance
        if distance:  # at distance 0 the errors of query and key cancel
            spread = theirs.amax(dim=1) - theirs.amin(dim=1)
            assert (spread >= 2 * allowed).all(), (distance, spread / allowed)
            assert (spread / allowed).median() >= 10, (distance, spread / allowed)


@torch.no_grad()
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_a_decoder_in_half_precision_is_close_to_float32(data, dtype):
    """With the same weights, at 2,048 tokens: TorchScale's decoder becomes a different function, this one does not."""
    torch.manual_seed(0)
    config = tiny.model_config(data, decoder_layers=1, decoder_embed_dim=HEAD, decoder_attention_heads=1)
    ours = KosmosDecoder(config, 50, padding_idx=1).eval()
    for projection in (ours.layers[0].self_attn.q_proj, ours.layers[0].self_attn.k_proj):
        projection.weight.data *= 4  # scores of a trained model: attention that is not uniform
    ours = ours.to(dtype)
    stock = Decoder(decoder_config(config, 50), nn.Embedding(50, HEAD)).eval()
    stock.load_state_dict(dict(ours.named_parameters()), strict=False)
    tokens = torch.randint(4, 50, (1, LENGTH))
    whole = torch.ones_like(tokens)

    def our_logits(decoder):
        return decoder.output_layer(decoder(decoder.embed_tokens(tokens), whole)).float()

    in_float32 = our_logits(copy.deepcopy(ours).float())
    torch.testing.assert_close(in_float32, stock(tokens)[0], atol=1e-3, rtol=0)
    our_error = (our_logits(ours) - in_float32).abs().amax()
    their_error = (stock.to(dtype)(tokens)[0].float() - in_float32).abs().amax()
    assert our_error <= 8 * torch.finfo(dtype).eps * in_float32.abs().amax()
    assert their_error >= 10 * our_error
