"""The decoder against TorchScale's with the same weights, and dropout on every path through it."""

import copy

import pytest
import torch
from torch import nn
from torchscale.architecture.decoder import Decoder, DecoderLayer

from kosmos_plugin.models.attention_plan import plan_packed_attention
from kosmos_plugin.models.decoder import KosmosDecoder, decoder_config
from kosmos_plugin.models.kv_cache import KeyValueCache
from kosmos_plugin.models.positions import rotate, xpos_rotation
from tests import tiny

VOCABULARY = 50


@pytest.fixture(scope="module", params=[2, 3])
def pair(request, data):
    """Our decoder and TorchScale's, with the same random weights (biases and norms too)."""
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
def test_packed_documents_equal_torchscale_on_each_document(pair):
    ours, stock = pair
    tokens = torch.randint(4, VOCABULARY, (2, 30))
    ids = torch.tensor([[1] * 7 + [2] * 13 + [3] * 8 + [0] * 2, [1] * 1 + [2] * 29])
    logits = ours.output_layer(ours(ours.embed_tokens(tokens), ids))
    for b, start, end in [(0, 0, 7), (0, 7, 20), (0, 20, 28), (1, 0, 1), (1, 1, 30)]:
        expected = stock(tokens[b : b + 1, start:end])[0][0]
        torch.testing.assert_close(logits[b, start:end], expected, atol=1e-5, rtol=0)
    assert logits.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("chunks", [[1] * 12, [8, 1, 1, 1, 1], [5, 4, 3], [12]])
def test_cached_steps_equal_torchscale(pair, chunks):
    ours, stock = pair
    tokens = torch.randint(4, VOCABULARY, (2, 12))
    cache = KeyValueCache(ours.num_layers)
    hidden = [ours.extend(ours.embed_tokens(part), cache) for part in tokens.split(chunks, dim=1)]
    logits = ours.output_layer(torch.cat(hidden, dim=1))
    torch.testing.assert_close(logits, stock(tokens)[0], atol=1e-5, rtol=0)


def test_scores_depend_only_on_distance():
    """xPos: a fixed query and key at a fixed distance have the same score at all positions."""
    query, key = torch.randn(2, 1, 1, 1, 64, generator=torch.Generator().manual_seed(0))
    length, distance = 2048, 5
    table = xpos_rotation(torch.arange(length)[None], 64)
    q = rotate(query.expand(1, length, 1, 64), table.query_cos, table.query_sin)
    k = rotate(key.expand(1, length, 1, 64), table.key_cos, table.key_sin)
    scores = (q[:, distance:] * k[:, : length - distance]).sum(-1)
    torch.testing.assert_close(scores, scores[:, :1].expand_as(scores), atol=1e-3, rtol=1e-4)


class WithTorchScalesSignature(nn.Module):
    """Our attention, callable by TorchScale's layer."""

    def __init__(self, attention, rotation, context):
        super().__init__()
        self.attention, self.rotation, self.context = attention, rotation, context

    def forward(self, query, **_):
        return self.attention(query, self.rotation, self.context), None


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_layer_equals_torchscales_layer_around_the_same_attention(data, training, dtype):
    """Outputs and gradients are bit-identical; dropout draws its random numbers in the same order."""
    torch.manual_seed(0)
    config = tiny.model_config(data, dropout=0.1, attention_dropout=0.1, activation_dropout=0.1)
    decoder = KosmosDecoder(config, VOCABULARY, padding_idx=1).to(dtype).train(training)
    plan = plan_packed_attention(torch.tensor([[1] * 20 + [2] * 9 + [0] * 3, [1] * 32]), "documents")
    rotation = xpos_rotation(plan.positions[None], decoder.head_dim)
    ours = decoder.layers[0]
    stock = DecoderLayer(decoder.args, depth=0).to(dtype).train(training)
    stock.load_state_dict(ours.state_dict(), strict=True)
    attention = copy.deepcopy(ours.self_attn)
    stock.self_attn = WithTorchScalesSignature(attention, rotation, plan)
    embeddings = torch.randn(1, len(plan.positions), config.decoder_embed_dim, dtype=dtype)
    found = []
    for layer in (lambda x: ours(x, rotation, plan), lambda x: stock(x)[0]):
        x = embeddings.clone().requires_grad_()
        torch.manual_seed(1)
        out = layer(x)
        out.square().sum().backward()
        found.append([out, x.grad])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
    theirs = {name.replace("self_attn.attention.", "self_attn."): p.grad for name, p in stock.named_parameters()}
    assert theirs.keys() == dict(ours.named_parameters()).keys()
    for name, parameter in ours.named_parameters():
        assert torch.equal(parameter.grad, theirs[name]), name


# ---- dropout, on every path through attention

LENGTH = 48
RATE = 0.1


def causal(decoder, embeddings):
    return decoder(embeddings, torch.ones(embeddings.shape[:2], dtype=torch.int64))


def documents(decoder, embeddings):
    """Rows of two documents, the second of which does not see the first."""
    ids = torch.ones(embeddings.shape[:2], dtype=torch.int64)
    ids[:, LENGTH // 3 :] = 2
    return decoder(embeddings, ids)


def cached(decoder, embeddings):
    """A prompt, then steps of one token."""
    cache = KeyValueCache(decoder.num_layers)
    parts = embeddings.split([LENGTH - 3, 1, 1, 1], dim=1)
    return torch.cat([decoder.extend(part, cache) for part in parts], dim=1)


def branched(decoder, embeddings):
    """Like `cached`, with the steps in a second level."""
    prompt, *steps = embeddings.split([LENGTH - 3, 1, 1, 1], dim=1)
    cache = KeyValueCache(decoder.num_layers)
    hidden = [decoder.extend(prompt, cache)]
    branch = cache.branch(range(len(embeddings)))
    return torch.cat([*hidden, *(decoder.extend(step, branch) for step in steps)], dim=1)


PATHS = pytest.mark.parametrize(
    ("path", "checkpoint_activations"),
    [
        *((path, kept) for path in (causal, documents) for kept in ("none", "selective", "full")),
        (cached, "none"),
        (branched, "none"),
    ],
)


@PATHS
@pytest.mark.parametrize("kind", ["dropout", "attention_dropout", "activation_dropout", None])
def test_dropout_happens_only_in_training(data, path, checkpoint_activations, kind):
    torch.manual_seed(0)
    rates = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0} | ({kind: RATE} if kind else {})
    config = tiny.model_config(data, checkpoint_activations=checkpoint_activations, **rates)
    decoder = KosmosDecoder(config, VOCABULARY, padding_idx=1)
    embeddings = torch.randn(2, LENGTH, config.decoder_embed_dim, requires_grad=True)
    in_evaluation = path(decoder.eval(), embeddings)
    assert torch.equal(path(decoder, embeddings), in_evaluation)
    decoder.train()
    assert torch.equal(path(decoder, embeddings), path(decoder, embeddings)) == (kind is None)
    assert torch.equal(path(decoder.eval(), embeddings), in_evaluation)


def attention_weights(data, path, checkpoint_activations, training):
    """The attention weights [B, T, T], read from the output of the decoder's attention.

    Queries and keys are zero, so each position attends equally to all that it sees. The embedding of position j is unit
    vector j; the value projection undoes LayerNorm, so that values are unit vectors again.
    """
    width = 2 * LENGTH
    config = tiny.model_config(
        data, decoder_layers=1, decoder_embed_dim=width, decoder_attention_heads=1, dropout=0.0,
        attention_dropout=RATE, checkpoint_activations=checkpoint_activations,
    )  # fmt: skip
    decoder = KosmosDecoder(config, VOCABULARY, padding_idx=1).train(training)
    attention = decoder.layers[0].self_attn
    identity = torch.eye(width)
    for projection, weight in [
        (attention.q_proj, 0 * identity),
        (attention.k_proj, 0 * identity),
        # LayerNorm makes height·(e_j − 1/width): the difference of the two halves is height·e_j
        (attention.v_proj, identity - identity.roll(LENGTH, dims=1)),
        (attention.out_proj, identity),
    ]:
        projection.weight.data.copy_(weight)
    attention.inner_attn_ln = None
    height = width / (width - 1) ** 0.5
    outputs = []
    attention.register_forward_hook(lambda module, inputs, output: outputs.append(output.detach()))
    torch.manual_seed(1)
    path(decoder, torch.eye(LENGTH, width, requires_grad=True).expand(16, -1, -1))
    return torch.cat(outputs, dim=1).view(16, LENGTH, width)[..., :LENGTH] / height


@PATHS
def test_the_rate_of_attention_dropout(data, path, checkpoint_activations):
    weights = attention_weights(data, path, checkpoint_activations, training=False)
    visible = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    if path is documents:
        visible[LENGTH // 3 :, : LENGTH // 3] = False
    everything = visible / visible.sum(dim=1, keepdim=True)
    torch.testing.assert_close(weights, everything.expand_as(weights), atol=1e-5, rtol=1e-3)
    weights = attention_weights(data, path, checkpoint_activations, training=True)
    assert weights[:, ~visible].abs().max() < 1e-5
    dropped = weights.abs() < 1e-5
    share = dropped[:, visible].double()
    assert share.mean().item() == pytest.approx(RATE, abs=5 * (RATE * (1 - RATE) / share.numel()) ** 0.5)
    kept = weights[~dropped & visible]
    torch.testing.assert_close(
        kept, (everything / (1 - RATE)).expand_as(weights)[~dropped & visible], atol=1e-5, rtol=1e-3
    )
    assert not torch.equal(dropped[0], dropped[1]), "dropout differs between the rows of a batch"


@torch.no_grad()
@PATHS
@pytest.mark.parametrize("sublayer", ["embeddings", "attention", "ffn"])
def test_the_rate_of_dropout_on_embeddings_and_sublayers(data, path, checkpoint_activations, sublayer):
    torch.manual_seed(0)
    config = tiny.model_config(
        data, decoder_layers=1, dropout=RATE, attention_dropout=0.0, checkpoint_activations=checkpoint_activations
    )
    decoder = KosmosDecoder(config, VOCABULARY, padding_idx=1).train()
    [layer] = decoder.layers
    other = {"attention": layer.ffn.fc2, "ffn": layer.self_attn.out_proj}.get(sublayer)
    if other is not None:
        other.weight.zero_()
    before, after = [], []
    layer.register_forward_pre_hook(lambda module, inputs: before.append(inputs[0]))
    layer.register_forward_hook(lambda module, inputs, output: after.append(output))
    path(decoder, torch.randn(16, LENGTH, config.decoder_embed_dim))
    before, after = torch.cat(before, dim=1), torch.cat(after, dim=1)
    dropped = (before if sublayer == "embeddings" else after - before) == 0
    assert float(dropped.double().mean()) == pytest.approx(RATE, abs=5 * (RATE * (1 - RATE) / dropped.numel()) ** 0.5)


@pytest.mark.parametrize("path", [causal, documents])
def test_recomputed_activations_drop_the_same(data, path):
    """Activation checkpointing does not change gradients, even with dropout."""
    found = []
    for checkpoint_activations in ("none", "selective", "full"):
        torch.manual_seed(0)
        config = tiny.model_config(
            data, dropout=RATE, attention_dropout=RATE, checkpoint_activations=checkpoint_activations
        )
        decoder = KosmosDecoder(config, VOCABULARY, padding_idx=1).train()
        path(decoder, torch.randn(2, LENGTH, config.decoder_embed_dim, requires_grad=True)).square().sum().backward()
        found.append({name: p.grad for name, p in decoder.named_parameters() if p.grad is not None})
    plain = found[0]
    for recomputed in found[1:]:
        assert plain.keys() == recomputed.keys() and len(plain) > 30
        for name in plain:
            torch.testing.assert_close(plain[name], recomputed[name], atol=1e-5, rtol=1e-4, msg=name)
