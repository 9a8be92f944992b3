"""`--decoder-weights`: a decoder starts from a text-only model's weights, or says why it cannot."""

import os

import pytest
import torch
from fairseq.models.transformer_lm import TransformerLanguageModel, TransformerLanguageModelConfig
from fairseq.modules import SinusoidalPositionalEmbedding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torchscale.architecture.config import DecoderConfig
from torchscale.architecture.decoder import Decoder

from kosmos_plugin.checkpoints.safetensors_file import write_safetensors
from kosmos_plugin.errors import UserError
from kosmos_plugin.generation.generator import load
from tests import tiny

TEXT_ONLY = ["--arch", "kosmos_1_lm", "--vision-encoder", "none", "--max-update", 1]


def decoder_of(state):
    """The decoder's tensors of a checkpoint's or a model's state dict."""
    return {name: tensor for name, tensor in state.items() if name.startswith("decoder.")}


def assert_equal_bits(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.equal(found[name], expected[name]), name


# ---- our own


@pytest.fixture(scope="module")
def text_data(data, tmp_path_factory):
    return tiny.text_data(data, tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def language_model(text_data, tmp_path_factory):
    """kosmos_1_lm after an update of fairseq-train on text."""
    return tiny.train(text_data, tmp_path_factory.mktemp("language_model"), *TEXT_ONLY)


@pytest.fixture(scope="module", params=[".pt", ".safetensors"])
def weights(request, language_model, tmp_path_factory):
    """The same as fairseq's file and as safetensors; a path, and the weights in it."""
    state = torch.load(language_model, weights_only=True)
    if request.param == ".pt":
        return language_model, state["model"]
    path = tmp_path_factory.mktemp("converted") / "language_model.safetensors"
    write_safetensors(state, path)
    return path, state["model"]


def test_the_language_model_is_only_a_decoder(weights):
    assert decoder_of(weights[1]) == weights[1]


@pytest.mark.parametrize("architecture", ["kosmos_1", "kosmos_1_lm"])
def test_a_model_starts_from_it(data, weights, tmp_path, architecture):
    """fairseq-train at a learning rate of zero writes what it started from."""
    path, expected = weights
    vision = ["--vision-encoder", "none"] if architecture == "kosmos_1_lm" else []
    source = tiny.text_data(data, tmp_path) if vision else data
    trained = tiny.train(
        source, tmp_path / "checkpoints", "--arch", architecture, *vision, "--decoder-weights", path, "--lr", 0,
        "--max-update", 1, "--disable-validation",
    )  # fmt: skip
    found = torch.load(trained, weights_only=True)["model"]
    assert_equal_bits(decoder_of(found), expected)
    assert vision or any(name.startswith("resampler.") for name in found)


def test_other_weights_are_not_touched(task, weights):
    bare, started = tiny.model(task), tiny.model(task, decoder_weights=str(weights[0]))
    assert_equal_bits(
        {name: tensor for name, tensor in started.state_dict().items() if not name.startswith("decoder.")},
        {name: tensor for name, tensor in bare.state_dict().items() if not name.startswith("decoder.")},
    )


def test_a_trained_checkpoint_does_not_need_the_file(data, language_model, tmp_path):
    start = tmp_path / "start.pt"
    os.link(language_model, start)
    trained = tiny.train(data, tmp_path / "checkpoints", "--decoder-weights", start, "--max-update", 1)
    start.unlink()
    loaded = load(trained)
    assert_equal_bits(loaded.model.state_dict(), torch.load(trained, weights_only=True)["model"])
    assert loaded.generate("the cat", max_new_tokens=2) is not None


# ---- TorchScale's


def torchscale(task, positions="xpos", tied=True, **options):
    """A stock decoder of the tiny model's size, as fairseq holds it (`decoder`), with all weights random."""
    torch.manual_seed(3)
    config = DecoderConfig(
        **{
            "decoder_layers": 2, "decoder_embed_dim": 32, "decoder_ffn_embed_dim": 64, "decoder_attention_heads": 2,
            "vocab_size": len(task.vocabulary), "share_decoder_input_output_embed": tied, "no_scale_embedding": False,
            "subln": True, "xpos_rel_pos": positions in ("xpos", "both"),
            **options,
        }
    )  # fmt: skip
    embed_tokens = nn.Embedding(len(task.vocabulary), 32, padding_idx=1)
    nn.init.normal_(embed_tokens.weight, std=32**-0.5)
    embed_positions = None if positions == "xpos" else SinusoidalPositionalEmbedding(32, padding_idx=1)
    decoder = Decoder(config, embed_tokens, embed_positions)
    for parameter in decoder.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return nn.ModuleDict({"decoder": decoder}).eval()


def saved(state, path):
    torch.save(state, path)
    return str(path)


@torch.no_grad()
@pytest.mark.parametrize("positions", ["xpos", "sinusoidal", "both"])
@pytest.mark.parametrize(
    ("stored", "tied"),
    [("whole", True), ("whole", False), ("bare", True), ("bare", False), ("without_output_projection", True)],
)
def test_torchscales_weights_give_torchscales_logits(task, tmp_path, positions, tied, stored):
    stock = torchscale(task, positions, tied)
    weights = dict(stock.state_dict())
    if stored == "without_output_projection":
        del weights["decoder.output_projection.weight"]
    if stored == "bare":
        weights = dict(stock["decoder"].state_dict())
    path = saved({"model": weights}, tmp_path / "lm.pt")
    model = tiny.model(task, decoder_weights=path, positions=positions, untied_embeddings=not tied)
    tokens = torch.randint(4, len(task.vocabulary), (3, 40))
    logits, _ = model(tokens, torch.ones_like(tokens))
    torch.testing.assert_close(logits, stock["decoder"](tokens)[0], atol=1e-5, rtol=0)


def test_a_tied_decoder_may_be_untied(task, tmp_path):
    stock = torchscale(task)
    path = saved({"model": stock.state_dict()}, tmp_path / "lm.pt")
    decoder = tiny.model(task, decoder_weights=path, untied_embeddings=True).decoder
    assert torch.equal(decoder.output_projection.weight, stock["decoder"].embed_tokens.weight)
    assert decoder.output_projection.weight is not decoder.embed_tokens.weight


def test_half_precision_weights_become_float32(task, tmp_path):
    stock = torchscale(task)
    path = saved({"model": stock.half().state_dict()}, tmp_path / "lm.pt")
    decoder = tiny.model(task, decoder_weights=path).decoder
    for name, tensor in decoder.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, stock["decoder"].state_dict()[name].float())


# ---- what does not fit


@pytest.mark.parametrize(
    ("there", "here", "words"),
    [
        ({"positions": "xpos"}, {"positions": "sinusoidal"}, "was trained with xPos"),
        ({"positions": "sinusoidal"}, {}, "was trained without xPos"),
        ({"tied": False}, {}, "--untied-embeddings"),
        ({"decoder_layers": 3}, {}, "Unexpected: layers.2."),
        ({"decoder_layers": 1}, {}, "Missing: layers.1."),
        ({"subln": False}, {}, "sub-LayerNorm.* Missing: layers.0.ffn.ffn_layernorm.bias"),
        ({"decoder_ffn_embed_dim": 48}, {}, r"decoder.layers.0.ffn.* has the shape \(48.* this decoder's has \(64"),
        ({"vocab_size": 7}, {"untied_embeddings": True}, r"has the shape \(7, 32\)"),
        ({"decoder_attention_heads": 4}, {}, r"xpos.scale has the shape \(4,\), and this decoder's has \(8,\)"),
    ],
)
def test_another_decoder_is_refused(task, tmp_path, there, here, words):
    stock = torchscale(task, **{"tied": "vocab_size" not in there, **there})
    path = saved({"model": stock.state_dict()}, tmp_path / "lm.pt")
    with pytest.raises(UserError, match=words) as error:
        tiny.model(task, decoder_weights=path, **here)
    assert str(error.value).startswith(f"--decoder-weights {path}")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"decoder_attention_heads": 4}, "decoder_attention_heads 4, and this decoder has 2"),
        ({"activation_fn": "relu"}, "activation_fn relu"),
        ({"no_scale_embedding": True}, "no_scale_embedding True"),
        ({"layernorm_eps": 1e-6}, "layernorm_eps 1e-06"),
        ({"positions": "xpos"}, "trained without sinusoidal positions"),
        ({"no_token_positional_embeddings": True}, "trained without sinusoidal positions"),
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_options_that_shapes_do_not_show_are_compared(task, tmp_path, options, words, suffix):
    """For example, without xPos nothing in the weights tells the number of heads."""
    stock = torchscale(task, "sinusoidal")
    same = {"decoder_attention_heads": 2, "activation_fn": "gelu", "positions": "sinusoidal", "layernorm_eps": 1e-5}

    def written(name, options):
        state = {"model": stock.state_dict(), "cfg": {"model": options}}
        path = tmp_path / f"{name}{suffix}"
        torch.save(state, path) if suffix == ".pt" else write_safetensors(state, path)
        return str(path)

    tiny.model(task, positions="sinusoidal", decoder_weights=written("same", same))
    with pytest.raises(UserError, match=words):
        tiny.model(task, positions="sinusoidal", decoder_weights=written("other", options))


@pytest.mark.parametrize("positions", ["xpos", "sinusoidal"])
@pytest.mark.parametrize("learned", [True, False])
def test_fairseqs_own_language_model_is_refused(task, tmp_path, positions, learned):
    config = TransformerLanguageModelConfig(
        decoder_layers=2, decoder_embed_dim=32, decoder_ffn_embed_dim=64, decoder_attention_heads=2,
        decoder_learned_pos=learned, max_target_positions=64, share_decoder_input_output_embed=True,
    )  # fmt: skip
    model = TransformerLanguageModel.build_model(config, task)
    path = saved({"model": model.state_dict()}, tmp_path / "fairseq.pt")
    reason = "learned positions" if learned else {"xpos": "without xPos", "sinusoidal": "sub-LayerNorm"}[positions]
    with pytest.raises(UserError, match=reason) as error:
        tiny.model(task, decoder_weights=path, positions=positions)
    assert str(error.value).startswith(f"--decoder-weights {path}")


@pytest.mark.parametrize("positions", ["sinusoidal", "both"])
def test_learned_positions_are_refused(task, tmp_path, positions):
    weights = dict(torchscale(task, positions).state_dict())
    weights["decoder.embed_positions.weight"] = torch.zeros(64, 32)
    with pytest.raises(UserError, match="learned positions"):
        tiny.model(task, decoder_weights=saved({"model": weights}, tmp_path / "lm.pt"), positions=positions)


def test_a_missing_file_is_named_by_fairseq_train(data, tmp_path):
    with pytest.raises(UserError, match=r"--decoder-weights .*gone\.pt does not exist"):
        tiny.train(data, tmp_path, "--decoder-weights", tmp_path / "gone.pt")
    with pytest.raises(UserError, match="is not a file"):
        tiny.train(data, tmp_path, "--decoder-weights", tmp_path)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    "content", ["", "no checkpoint", [1], torch.zeros(3), {}, {"model": 3}, {"model": {}}], ids=str
)
def test_a_file_that_is_not_a_checkpoint(task, tmp_path, content, suffix):
    path = tmp_path / f"none{suffix}"
    path.write_text(content) if isinstance(content, str) else torch.save(content, path)
    with pytest.raises(UserError) as error:
        tiny.model(task, decoder_weights=str(path))
    assert str(error.value).startswith(f"--decoder-weights {path}")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(part=st.floats(0, 1, exclude_max=True), suffix=st.sampled_from([".pt", ".safetensors"]))
def test_a_file_cut_short_anywhere_is_one_error(task, language_model, tmp_path, part, suffix):
    whole = tmp_path / f"whole{suffix}"
    if not whole.exists():
        state = torch.load(language_model, weights_only=True)
        torch.save(state, whole) if suffix == ".pt" else write_safetensors(state, whole)
    path = tmp_path / f"torn{suffix}"
    path.write_bytes(whole.read_bytes()[: int(part * whole.stat().st_size)])
    with pytest.raises(UserError) as error:
        tiny.model(task, decoder_weights=str(path))
    assert str(error.value).startswith(f"--decoder-weights {path}")
    assert "\n" not in str(error.value)
