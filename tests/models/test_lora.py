"""Adapted layers compute what the merged matrices do, in every architecture; the rest of the model is frozen."""

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kosmos_plugin.checkpoints.adapter import base_fingerprint, merge
from kosmos_plugin.errors import UserError
from kosmos_plugin.models.lora import TARGETS, add_adapter, is_of_adapter
from tests import tiny

pytest.importorskip("peft")


def adapted(model, **options):
    """A copy of a model with an adapter of random weights."""
    model = copy.deepcopy(model)
    model.config = dataclasses.replace(model.config, lora_base="base.pt", **options)
    add_adapter(model)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if is_of_adapter(name):
                parameter.normal_(std=0.3)
    return model


def logits(model, batch):
    images = (batch["image_slots"], batch["images"]) if model.vision is not None else ()
    with torch.no_grad():
        return model.eval()(batch["tokens"], batch["document_ids"], *images)[0]


@settings(max_examples=10, deadline=None)
@given(
    rank=st.integers(1, 40),
    alpha=st.none() | st.sampled_from([0.5, 8.0]),
    targets=st.lists(st.sampled_from([target for target in TARGETS if target != "dense"]), min_size=1, unique=True),
    kind=st.sampled_from([{}, {"resampler": "perceiver", "resampler_layers": 1}, {"vision_encoder": "none"}]),
)
@example(
    rank=1, alpha=8.0, targets=["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"], kind={"vision_encoder": "none"}
)
def test_merged_it_computes_the_same(data, rank, alpha, targets, kind):
    task = tiny.task(data)
    batch, plain = tiny.batch(task), tiny.model(task, **kind).double()  # only merging rounds
    model = adapted(plain, lora_rank=rank, lora_alpha=alpha, lora_targets=", ".join(targets))
    options = {"lora_rank": rank, "lora_alpha": alpha}
    state = {"model": model.state_dict(), "cfg": {"model": options}, "task_state": None}
    before = logits(plain, batch)
    merged = merge(state, Path("adapter.pt"), {"model": plain.state_dict()}, Path("base.pt"))
    plain.load_state_dict(merged["model"])
    expected = logits(model, batch)
    torch.testing.assert_close(logits(plain, batch), expected, atol=2e-4 * float(expected.abs().max()), rtol=0)
    assert not torch.allclose(before, logits(plain, batch), atol=1e-3)


def test_only_the_adapter_is_trained_and_saved(task):
    model = adapted(tiny.model(task, trainable_vision_layers=2), lora_rank=3)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == set(model.state_dict()) and all(map(is_of_adapter, trained))
    assert not any(name.startswith("vision") for name in trained)
    assert any(name.startswith("resampler") for name in trained)
    with pytest.raises(RuntimeError, match="Missing key"):  # of the adapter, none may be missing
        model.load_state_dict({name: x for name, x in list(model.state_dict().items())[1:]})


def test_layers_that_the_model_lacks(task):
    with pytest.raises(UserError, match="--lora-targets dense: the model has no such layers"):
        adapted(tiny.model(task, vision_encoder="none"), lora_rank=3, lora_targets="dense")


def test_fingerprints(task):
    """They differ for any other training, and not with the file's format or the place in memory."""
    weights = tiny.model(task).state_dict()
    again = {name: tensor.clone() for name, tensor in reversed(weights.items())}
    assert base_fingerprint(again) == base_fingerprint(weights)
    one = "decoder.layers.1.ffn.fc1.weight"
    assert base_fingerprint({**weights, one: weights[one] * 1.001}) != base_fingerprint(weights)
    assert base_fingerprint({**weights, one: weights[one].reshape(-1)}) != base_fingerprint(weights)
    assert base_fingerprint({**weights, "x": torch.zeros(0)}) != base_fingerprint(weights)
    assert base_fingerprint(tiny.model(task, seed=1).state_dict()) != base_fingerprint(weights)
