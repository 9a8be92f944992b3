"""Architectures: the paper's sizes, the options, and training with every combination of options."""

import argparse
import dataclasses
import itertools
from types import SimpleNamespace

import pytest
import torch
from fairseq import models as fairseq_models
from fairseq import options
from fairseq.data import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq_cli import train
from transformers import Kosmos2Config, Kosmos2ForConditionalGeneration

from kosmos_plugin.errors import UserError
from kosmos_plugin.fairseq_modules.architectures import KosmosModel
from kosmos_plugin.fairseq_modules.criterion import MultimodalCrossEntropyCriterion
from kosmos_plugin.models.config import ARCHITECTURES, KosmosConfig
from tests import tiny

PATCHES_AND_CLASS = 5  # tokens of the tiny CLIP


def parse(architecture, *arguments):
    """fairseq-train's configuration for a command line."""
    parser = options.get_training_parser()
    command = ["data.yaml", "--task", "kosmos_multimodal", "--arch", architecture, *map(str, arguments)]
    command += ["--criterion", "multimodal_cross_entropy"]
    return convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, command))


def at_full_size(architecture, words, *arguments):
    """The model that fairseq-train would build, on the meta device: shapes without memory."""
    cfg = parse(architecture, *arguments)
    dictionary = Dictionary()
    for word in range(words - len(dictionary)):
        dictionary.add_symbol(f"word{word}")
    task = SimpleNamespace(source_dictionary=dictionary, needs_pretrained_weights=False)
    with torch.device("meta"):
        return KosmosModel.build_model(cfg.model, task)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def shapes(module):
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


@pytest.fixture(scope="module")
def kosmos_1():
    return at_full_size("kosmos_1", 64_007)


def test_kosmos_1_has_the_papers_size(kosmos_1):
    assert {count(layer) for layer in kosmos_1.decoder.layers} == {50_378_752}
    assert len(kosmos_1.decoder.layers) == 24
    assert count(kosmos_1.decoder) == 1_340_180_480
    assert 1_600_000_000 <= count(kosmos_1) <= 1_700_000_000
    trained = [name for name, p in kosmos_1.vision.named_parameters() if p.requires_grad]
    assert {name.split(".resblocks.")[-1].split(".")[0] for name in trained} == {"23", "encoder"}
    assert {name for name in trained if ".resblocks." not in name} == {
        "encoder.visual.ln_post.weight",
        "encoder.visual.ln_post.bias",
    }


def test_kosmos_1_lm_is_only_the_decoder(kosmos_1):
    model = at_full_size("kosmos_1_lm", 64_007)
    assert count(model) == 1_340_180_480
    assert {name.partition(".")[0] for name in shapes(model)} == {"decoder"}
    assert shapes(model.decoder) == shapes(kosmos_1.decoder)


def test_untied_embeddings_add_a_matrix():
    model = at_full_size("kosmos_1_lm", 64_007, "--untied-embeddings")
    assert count(model) == 1_340_180_480 + 64_007 * 2048
    assert model.decoder.output_projection.weight is not model.decoder.embed_tokens.weight


def test_kosmos_2_has_the_size_of_the_published_model():
    ours = at_full_size("kosmos_2", 65_037)
    with torch.device("meta"):
        published = Kosmos2ForConditionalGeneration(Kosmos2Config())
    assert count(ours) == count(published)
    assert count(ours.decoder) == count(published.text_model)
    assert count(ours.vision) == count(published.vision_model)
    assert count(ours.resampler) == count(published.image_to_text_projection)
    buffers = {name for name in shapes(ours) if name.endswith("xpos.scale")}
    assert not buffers, "KOSMOS-2 has no xPos"


def option_table(architecture):
    parser = argparse.ArgumentParser(add_help=False)
    ARCH_MODEL_REGISTRY[architecture].add_args(parser)
    return {action.dest: action for action in parser._actions}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_option_has_a_help_text_and_its_type(architecture):
    table, reference = option_table(architecture), option_table("kosmos_1")
    assert table.keys() == reference.keys()
    for name, option in table.items():
        assert option.help and len(option.help) > 5, name
        assert type(option) is type(reference[name]), name
        for trait in ("type", "choices", "nargs", "option_strings", "help"):
            assert getattr(option, trait) == getattr(reference[name], trait), (name, trait)


def test_the_models_configuration_has_plain_values():
    """fairseq hands its models a configuration in which choices are enums."""
    cfg = parse("kosmos_1_lm", "--positions", "both", "--decoder-layers", 2)
    task = SimpleNamespace(source_dictionary=Dictionary(), needs_pretrained_weights=False)
    with torch.device("meta"):
        model = fairseq_models.build_model(cfg.model, task)
    values = dataclasses.asdict(model.config)
    assert {type(value) for value in values.values()} == {int, float, str, bool, type(None)}
    assert values == dataclasses.asdict(KosmosConfig(positions="both", decoder_layers=2, vision_encoder="none"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    ("option", "value"),
    [("--positions", "nonsense"), ("--resampler", "nonsense"), ("--initialization", "kaiming"),
     ("--decoder-layers", "two")],
)  # fmt: skip
def test_invalid_values_are_refused(architecture, option, value, capsys):
    with pytest.raises(SystemExit):
        parse(architecture, option, value)
    assert option in capsys.readouterr().err


def test_presets():
    """Table 17, the other presets' differences from it, and options that override presets."""
    paper = {
        "decoder_layers": 24, "decoder_embed_dim": 2048, "decoder_ffn_embed_dim": 8192, "decoder_attention_heads": 32,
        "dropout": 0.1, "attention_dropout": 0.1, "activation_fn": "gelu", "positions": "xpos",
        "untied_embeddings": False, "initialization": "xavier", "resampler": "attentive", "vision_encoder": "clip",
        "vision_model": "ViT-L-14", "vision_weights": "openai", "trainable_vision_layers": 1,
    }  # fmt: skip
    differences = {
        "kosmos_1": {},
        "kosmos_1_lm": {"vision_encoder": "none"},
        "kosmos_2": {"positions": "sinusoidal", "vision_model": "ViT-L-14-quickgelu"},
    }
    for architecture, different in differences.items():
        model = parse(architecture).model
        assert {name: model[name] for name in paper} == paper | different
        assert (model.image_tokens, model.image_size, model.tokens_per_sample) == (64, 224, 2048)
    base = parse("kosmos_base", "--positions", "both", "--dropout", 0.3, "--image-tokens", 32).model
    assert (base.decoder_layers, base.decoder_embed_dim) == (12, 768)
    assert (base.positions, base.dropout, base.image_tokens) == ("both", 0.3, 32)


def test_the_error_names_an_unknown_architecture(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["fairseq-train", "data.yaml", "--task", "kosmos_multimodal", "--arch", "kosmos_9"])
    with pytest.raises(SystemExit) as exit_:
        train.cli_main()
    assert exit_.value.code not in (0, None)
    last = capsys.readouterr().err.splitlines()[-1]
    assert "kosmos_9" in last and "kosmos_1" in last


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"vision_encoder": "dinosaur"}, "--vision-encoder dinosaur is unknown: choose one of clip.* none"),
        ({"decoder_attention_heads": 3}, "--decoder-embed-dim 32 is not a multiple"),
        ({"decoder_attention_heads": 32, "positions": "both"}, "--decoder-embed-dim 32 is not a multiple"),
        ({"resampler": "linear"}, "--image-tokens 5, not 4"),
        ({"resampler": "perceiver", "resampler_layers": 0}, "--resampler-layers must be at least 1"),
    ],
)
def test_incompatible_options_are_user_errors(task, wrong, words):
    with pytest.raises(UserError, match=words):
        tiny.model(task, **wrong)


def train_a_little(model, batch, criterion, updates=10):
    """Losses of a few updates on one batch."""
    model.train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for _ in range(updates):
        optimizer.zero_grad()
        loss, targets, _ = criterion(model, batch)
        (loss / targets).backward()
        optimizer.step()
        losses.append(float(loss.detach() / targets))
    return losses


def test_a_text_only_model_trains_on_text_and_refuses_images(data, tmp_path):
    text = tiny.task(tiny.text_data(data, tmp_path))
    model = tiny.model(text, vision_encoder="none")
    losses = train_a_little(model, tiny.batch(text), MultimodalCrossEntropyCriterion(text))
    assert losses[-1] < 0.8 * losses[0]
    everything = tiny.task(data)
    with pytest.raises(UserError, match="reads only text"):
        MultimodalCrossEntropyCriterion(everything)(model, tiny.batch(everything))


@pytest.fixture(scope="module")
def mixed(data):
    """A task with one image slot per CLIP feature, so that `--resampler linear` is possible too."""
    task = tiny.task(data, image_tokens=PATCHES_AND_CLASS)
    return task, tiny.batch(task)


CHOICES = {
    "positions": ["xpos", "sinusoidal", "both"],
    "resampler": ["attentive", "perceiver", "linear"],
    "untied_embeddings": [False, True],
    "initialization": ["xavier", "torchscale"],
    "checkpoint_activations": ["none", "full"],
}


@pytest.mark.parametrize(
    "chosen", list(itertools.product(*CHOICES.values())), ids=lambda chosen: "-".join(map(str, chosen))
)
def test_every_combination_of_options_trains(mixed, chosen):
    task, batch = mixed
    model = tiny.model(task, **dict(zip(CHOICES, chosen, strict=True)), resampler_layers=2).train()
    loss, targets, _ = MultimodalCrossEntropyCriterion(task)(model, batch)
    (loss / targets).backward()
    assert 4 < loss / targets < 8, "an untrained model is near chance"
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert model.decoder.output_projection.weight.grad.any()
    assert model.resampler.dense.weight.grad.any()
