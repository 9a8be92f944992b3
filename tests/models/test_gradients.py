"""Gradients reach exactly what is trainable, through the criterion on real batches."""

import pytest

from kosmos_plugin.fairseq_modules.criterion import MultimodalCrossEntropyCriterion
from tests import tiny

BLOCKS = 2  # of the tiny CLIP

pytestmark = [
    pytest.mark.parametrize("trainable_vision_layers", [0, 1, 2]),
    pytest.mark.parametrize("checkpoint_activations", ["none", "selective", "full"]),
    pytest.mark.parametrize("resampler", ["attentive", "perceiver"]),
]


@pytest.fixture(scope="module")
def mixed(data):
    task = tiny.task(data)
    return task, tiny.batch(task)


@pytest.fixture(scope="module")
def only_text(data, tmp_path_factory):
    task = tiny.task(tiny.text_data(data, tmp_path_factory.mktemp("only_text")))
    return task, tiny.batch(task)


def gradients(task, batch, **options):
    """Name → (parameter, its gradient) after one backward pass in training."""
    model = tiny.model(task, dropout=0.1, attention_dropout=0.1, **options).train()
    loss, targets, _ = MultimodalCrossEntropyCriterion(task)(model, batch)
    (loss / targets).backward()
    return {name: (parameter, parameter.grad) for name, parameter in model.named_parameters()}


def expected_trainable(names, vision_layers):
    """Names of the last blocks and ln_post, the resampler and the decoder."""
    blocks = tuple(f"vision.encoder.visual.transformer.resblocks.{i}." for i in range(BLOCKS - vision_layers, BLOCKS))
    ln_post = ("vision.encoder.visual.ln_post.",) if vision_layers else ()
    return {name for name in names if name.startswith(("decoder.", "resampler.", *blocks, *ln_post))}


def test_a_mixed_batch(mixed, trainable_vision_layers, checkpoint_activations, resampler):
    task, batch = mixed
    assert len(batch["images"]) > 0
    found = gradients(
        task, batch, trainable_vision_layers=trainable_vision_layers, checkpoint_activations=checkpoint_activations,
        resampler=resampler,
    )  # fmt: skip
    trainable = expected_trainable(found, trainable_vision_layers)
    assert {name for name, (_, gradient) in found.items() if gradient is not None} == trainable
    assert {name for name, (parameter, _) in found.items() if parameter.requires_grad} == trainable
    for name in trainable:
        gradient = found[name][1]
        assert gradient.isfinite().all(), name
        # Without rotation, a bias common to all keys shifts every score equally: its gradient is zero up to rounding.
        assert gradient.any() or name == "resampler.attention.k_proj.bias", name


def test_a_batch_of_only_text(only_text, trainable_vision_layers, checkpoint_activations, resampler):
    task, batch = only_text
    assert len(batch["images"]) == 0
    found = gradients(
        task, batch, trainable_vision_layers=trainable_vision_layers, checkpoint_activations=checkpoint_activations,
        resampler=resampler,
    )  # fmt: skip
    trainable = expected_trainable(found, trainable_vision_layers)
    assert {name for name, (_, gradient) in found.items() if gradient is not None} == trainable
    for name in trainable:
        gradient = found[name][1]
        assert gradient.isfinite().all(), name
        assert bool(gradient.any()) == name.startswith("decoder."), name
