"""--lora-rank: small checkpoints, exact resume, and the same model trained, merged by us and merged by PEFT."""

import json
import random
from pathlib import Path

import pytest
import torch

import kosmos_plugin
from fairseq_cli_ext import convert
from kosmos_plugin.checkpoints.fairseq_checkpoint import read_checkpoint
from kosmos_plugin.errors import UserError
from kosmos_plugin.fairseq_modules.architectures import KosmosModel
from kosmos_plugin.models.kosmos import Kosmos
from kosmos_plugin.models.lora import is_of_adapter
from tests import tiny
from tests.compat.test_exact_resume import differences, training_state

pytest.importorskip("peft")

QUICK = ("--disable-validation", "--no-epoch-checkpoints", "--num-workers", 0, "--lr", 0.01)


@pytest.fixture(scope="module")
def base(data, tmp_path_factory) -> Path:
    """A model trained for two updates."""
    return tiny.train(data, tmp_path_factory.mktemp("base"), "--max-update", 2, *QUICK)


def lora(base: Path, *more: object) -> tuple[object, ...]:
    return ("--lora-rank", 4, "--lora-base", base, *QUICK, *more)


@pytest.fixture(scope="module")
def adapter(data, base, tmp_path_factory) -> Path:
    """The adapter of three updates on `base`."""
    return tiny.train(data, tmp_path_factory.mktemp("adapter"), *lora(base, "--max-update", 3))


def test_a_checkpoint_holds_the_adapter_alone(adapter, base):
    state, whole = (torch.load(path, weights_only=True) for path in (adapter, base))
    assert all(map(is_of_adapter, state["model"]))
    adapted = {name.partition(".lora_")[0] for name in state["model"]}
    linear = {name.removesuffix(".weight") for name, x in whole["model"].items() if x.dim() == 2 and "proj." in name}
    assert {name for name in linear if not name.startswith("vision") and "output" not in name} <= adapted
    assert not any(name.startswith("vision") for name in adapted)
    moments = state["last_optimizer_state"]["state"]
    assert len(moments) == len(state["model"]) and len(whole["last_optimizer_state"]["state"]) < len(whole["model"])
    assert state["cfg"]["model"]["lora_base"] == str(base)
    assert all(x.abs().sum() > 0 for x in state["model"].values()), "all of it was trained"


PRECISIONS = {
    "float32": (),
    "dropout": ("--lora-dropout", 0.1),
    "bf16": ("--bf16",),
    "memory-efficient-bf16": ("--memory-efficient-bf16",),
    "bf16-autocast": ("--bf16-autocast",),
    "fused_adamw": ("--optimizer", "fused_adamw"),
    "bf16 with fused_adamw": ("--bf16", "--optimizer", "fused_adamw", "--clip-norm", 1),
    "recomputed": ("--checkpoint-activations", "full"),
    "selective": ("--checkpoint-activations", "selective"),
    "EMA": ("--store-ema", "--ema-decay", 0.9),
    "bf16 with EMA in float32": ("--bf16", "--store-ema", "--ema-decay", 0.9, "--ema-fp32"),
    "frozen vision": ("--frozen-vision-dtype", "bfloat16"),
    "cache": ("--cache-vision-features",),
}


@pytest.mark.parametrize("options", PRECISIONS.values(), ids=PRECISIONS)
def test_six_updates_equal_three_and_three(data, base, tmp_path, options):
    given = lora(base, "--dropout", 0.1, *options)
    once = training_state(tiny.train(data, tmp_path / "once", *given, "--max-update", 6))
    tiny.train(data, tmp_path / "twice", *given, "--max-update", 3)
    twice = training_state(tiny.train(data, tmp_path / "twice", *given, "--max-update", 6))
    assert differences(once, twice) == []
    assert all(map(is_of_adapter, once["model"]))


def trained_model(task, adapter: Path) -> KosmosModel:
    """The adapted model as training has it, computed by PEFT's layers."""
    state = torch.load(adapter, weights_only=True)
    options = {name: value for name, value in state["cfg"]["model"].items() if name != "_name"}
    model = KosmosModel.build_model(tiny.model_config(Path(task.cfg.data), **_options(options)), task).eval()
    model.load_state_dict(state["model"])
    return model


def _options(options: dict) -> dict:
    return {name: value for name, value in options.items() if name.startswith("lora_")}


def logits(model: Kosmos, task) -> torch.Tensor:
    batch = tiny.batch(task)
    with torch.no_grad():
        return model(batch["tokens"], batch["document_ids"], batch["image_slots"], batch["images"])[0]


def test_merged_it_is_the_trained_model(task, adapter, base):
    trained = trained_model(task, adapter)
    loaded = kosmos_plugin.load(adapter)
    assert not any("lora" in name for name, _ in loaded.model.named_modules())
    expected = logits(trained, task)
    torch.testing.assert_close(logits(loaded.model, task), expected, atol=1e-5, rtol=1e-5)
    unadapted = logits(kosmos_plugin.load(base).model, task)
    assert (expected - unadapted).abs().max() > 0.1


def test_merged_by_peft_itself(task, adapter):
    from peft.tuners.lora import LoraLayer

    trained = trained_model(task, adapter)
    ours = read_checkpoint(adapter)["model"]
    for name, layer in trained.named_modules():
        if isinstance(layer, LoraLayer):
            layer.merge()
            assert torch.equal(ours[f"{name}.weight"], layer.get_base_layer().weight), name
