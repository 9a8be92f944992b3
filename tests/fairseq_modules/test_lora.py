"""--lora-rank: small checkpoints, exact resume, and the same model trained, merged by us and merged by PEFT."""

import json
import os
import random
import shutil
import sys
from pathlib import Path

import pytest
import torch
from fairseq_cli import validate

import kosmos_plugin
from fairseq_cli_ext import convert, inspect
from kosmos_plugin.checkpoints.fairseq_checkpoint import read_checkpoint
from kosmos_plugin.errors import UserError
from kosmos_plugin.fairseq_modules.architectures import KosmosModel
from kosmos_plugin.models.kosmos import Kosmos
from kosmos_plugin.models.lora import is_of_adapter
from tests import tiny
from tests.compat.conftest import PLUGIN, run_python
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


@pytest.mark.parametrize(
    "options",
    [pytest.param(o, id=name, marks=[] if name == "bf16" else pytest.mark.slow) for name, o in PRECISIONS.items()],
)
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


# What cannot be honoured, or does not belong together, is one line.


@pytest.mark.parametrize(
    "options, message",
    [
        (["--lora-rank", 4], "give its checkpoint, --lora-base CHECKPOINT"),
        (["--lora-rank", -1, "--lora-base", "BASE"], "--lora-rank must be at least 0, not -1"),
        (["--lora-base", "BASE"], "--lora-base goes with --lora-rank N"),
        (["--lora-rank", 4, "--lora-base", "gone.pt"], "--lora-base .*gone.pt does not exist"),
        (["--lora-rank", 4, "--lora-base", __file__], "--lora-base .*test_lora.py is not a checkpoint of fairseq"),
        (["--lora-rank", 4, "--lora-base", "ADAPTER"], "is itself an adapter .--lora-rank 4.: merge it into its base"),
        (["--finetune-from-model", "ADAPTER"], "is itself an adapter .--lora-rank 4.: merge it into its base"),
        (["--lora-rank", 4, "--lora-base", "BASE", "--lora-targets", "q_porj"], "Did you mean 'q_proj'"),
        (["--lora-rank", 4, "--lora-base", "BASE", "--lora-dropout", 1], "--lora-dropout must be .* less than 1"),
        (["--lora-rank", 4, "--lora-base", "BASE", "--decoder-weights", "BASE"], "--decoder-weights has no effect"),
        (["--lora-rank", 4, "--lora-base", "BASE", "--decoder-layers", 3], "--decoder-layers is 2 there and 3 here"),
        (["--lora-rank", 4, "--lora-base", "BASE", "--positions", "both"], "--positions is xpos there and both here"),
        (["--lora-rank", 4, "--lora-base", "BASE", "--restore-file", "BASE"], "holds a whole model, no adapter"),
        (["--lora-rank", 8, "--lora-base", "BASE", "--restore-file", "ADAPTER"], "--lora-rank is 4 there and 8 here"),
        (
            ["--lora-rank", 4, "--lora-base", "BASE", "--restore-file", "ADAPTER", "--lora-alpha", 2],
            "--lora-alpha is 8.0 there and 2.0 here",
        ),
        (
            ["--lora-rank", 4, "--lora-base", "BASE", "--restore-file", "ADAPTER", "--lora-targets", "q_proj"],
            "--lora-targets is q_proj,k_proj,v_proj,out_proj,fc1,fc2,dense there and q_proj here",
        ),
        (["--lora-rank", 4, "--lora-base", "OTHER", "--restore-file", "ADAPTER"], "adapter for another model"),
        (["--lora-rank", 4, "--lora-base", "BASE", "--ddp-backend", "fully_sharded"], "use pytorch_ddp"),
    ],
)
def test_refusals_of_training(data, base, adapter, other, tmp_path, options, message):
    paths = {"BASE": base, "ADAPTER": adapter, "OTHER": other}
    options = [paths.get(option, option) for option in options]
    with pytest.raises(UserError, match=message) as error:
        tiny.train(data, tmp_path, *options, "--max-update", 1, *QUICK)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def other(data, tmp_path_factory) -> Path:
    """Another model of the same form."""
    return tiny.train(data, tmp_path_factory.mktemp("other"), "--max-update", 1, "--seed", 5, *QUICK)


@pytest.fixture
def moved(adapter, data, tmp_path) -> Path:
    """The adapter beside its vocabulary, its base gone."""
    state = torch.load(adapter, weights_only=True)
    state["cfg"]["model"]["lora_base"] = "/gone/model.pt"
    torch.save(state, tmp_path / "adapter.pt")
    shutil.copytree(data.parent / "vocabulary", tmp_path / "vocabulary")
    return tmp_path / "adapter.pt"


def test_a_base_that_moved(moved, base, other, adapter, tmp_path):
    with pytest.raises(UserError, match=r"is an adapter for /gone/model.pt, which does not exist.*as base.pt"):
        kosmos_plugin.load(moved)
    shutil.copy(other, tmp_path / "base.pt")
    with pytest.raises(UserError, match=r"adapter for another model than .*base.pt, whose weights differ"):
        kosmos_plugin.load(moved)
    (tmp_path / "base.pt").unlink()
    convert.cli_main(["--to", "safetensors", str(base), str(tmp_path / "base.safetensors")])
    here, there = (kosmos_plugin.load(path).model.state_dict() for path in (moved, adapter))
    assert all(torch.equal(here[name], there[name]) for name in there)


def test_damaged_adapters(moved, base, tmp_path):
    (tmp_path / "base.pt").symlink_to(base)
    good = torch.load(moved, weights_only=True)
    name = next(iter(good["model"]))

    def refused(message: str, weights: dict, **options: object) -> None:
        model = {**good["cfg"]["model"], **options}
        torch.save({**good, "model": weights, "cfg": {**good["cfg"], "model": model}}, moved)
        with pytest.raises(UserError, match=message) as error:
            kosmos_plugin.load(moved)
        assert "\n" not in str(error.value)

    refused("does not fit its base", {**good["model"], name: good["model"][name][:, 1:]})
    refused("does not fit its base", {key: x for key, x in good["model"].items() if key != name.replace("_A", "_B")})
    refused("does not fit its base", {**good["model"], name: "text"})
    refused("is not an adapter: it has decoder.x", {**good["model"], "decoder.x": torch.zeros(1)})
    refused("is not an adapter", {key: x for key, x in good["model"].items() if key != name})
    refused("lora_alpha is 'much'", good["model"], lora_alpha="much")


def test_converted_it_needs_no_base(adapter, base, data, task, tmp_path):
    """Each format is the merged model; it is a start for all of fairseq."""
    expected = logits(kosmos_plugin.load(adapter).model, task)
    vocabulary = data.parent / "vocabulary"
    for name, to in (("merged.pt", "fairseq"), ("merged.safetensors", "safetensors")):
        convert.cli_main(["--to", to, str(adapter), str(tmp_path / name)])
        assert torch.equal(logits(kosmos_plugin.load(tmp_path / name, vocabulary=vocabulary).model, task), expected)
    state = torch.load(tmp_path / "merged.pt", weights_only=True)
    assert state["cfg"]["model"]["lora_rank"] == 0 and "lora_base" not in state["task_state"]
    assert state["model"].keys() == torch.load(base, weights_only=True)["model"].keys()
    further = (*QUICK, "--max-update", 1)
    tiny.train(data, tmp_path / "whole", "--finetune-from-model", tmp_path / "merged.pt", *further)
    tiny.train(data, tmp_path / "again", "--lora-rank", 2, "--lora-base", tmp_path / "merged.pt", *further)


def test_bfloat16_is_merged_in_float32(data, base, tmp_path):
    path = tiny.train(data, tmp_path, *lora(base, "--max-update", 2, "--bf16"))
    state, merged = torch.load(path, weights_only=True), read_checkpoint(path)["model"]
    assert all(torch.equal(x, x.bfloat16().float()) for x in state["model"].values())  # fairseq saves float32
    name = "decoder.layers.0.ffn.fc1"
    a, b = (state["model"][f"{name}.lora_{kind}.default.weight"].double() for kind in "AB")
    expected = torch.load(base, weights_only=True)["model"][f"{name}.weight"].double() + 2 * b @ a
    torch.testing.assert_close(merged[f"{name}.weight"].double(), expected, atol=1e-6, rtol=1e-6)


def test_fairseqs_own_validation(data, adapter, capsys, monkeypatch):
    """fairseq-validate computes the loss of the merged model."""
    arguments = ["--task", "kosmos_multimodal", "--path", adapter, "--batch-size", 64, "--valid-subset", "valid"]
    monkeypatch.setattr(sys, "argv", ["fairseq-validate", *map(str, [data, *arguments, "--log-format", "json"])])
    validate.cli_main()  # its handler is a new one, and some of pytest's are removed
    lines = [line for line in capsys.readouterr().out.splitlines() if '"valid_loss"' in line]
    assert float(json.loads(lines[-1].partition(" | valid | ")[2])["valid_loss"]) < 8


def test_generation_and_likelihood(adapter, data, tmp_path):
    kosmos = kosmos_plugin.load(adapter)
    picture = tmp_path / "1.png"
    picture.write_bytes(tiny.png(random.Random(0)))
    assert isinstance(kosmos.generate("<image> the", [str(picture)], max_new_tokens=4), str)
    assert len(kosmos.score("<image> the", [str(picture)], candidates=["cat", "dog"])) == 2


def test_a_checkpoint_is_not_merged_to_look_at_its_options(moved, capsys):
    inspect.cli_main(["--like", str(moved)])  # whose base is gone
    assert "tokens" in capsys.readouterr().out


def test_without_peft(data, base, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r'--lora-rank needs the package peft: pip install "kosmos-plugin\[lora\]"'):
        tiny.train(data, tmp_path, *lora(base, "--max-update", 1))


@pytest.mark.slow
def test_compiled_it_trains_the_same(data, base, tmp_path):
    given = lora(base, "--max-update", 3, "--dropout", 0)
    plain, compiled = (
        torch.load(tiny.train(data, tmp_path / name, *given, *options), weights_only=True)["model"]
        for name, options in (("plain", ()), ("compiled", ("--compile",)))
    )
    for name in plain:
        torch.testing.assert_close(plain[name], compiled[name], atol=1e-3, rtol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["pytorch_ddp", "legacy_ddp"])
def test_two_ranks(data, base, tmp_path, backend):
    """They train as one rank with two accumulation steps does, save the adapter alone, and resume exactly."""
    paths = os.pathsep.join([str(PLUGIN.parent), os.environ.get("PYTHONPATH", "")])
    plugin = ["--user-dir", PLUGIN, "--vision-model", data.parent / "clip.json", "--ddp-backend", backend]
    given = [*tiny.TRAIN_OPTIONS.split(), *plugin, *lora(base, "--dropout", 0, "--attention-dropout", 0)]

    def train(name: str, updates: int, *options: object, ranks: int = 2) -> dict:
        arguments = [data, *given, *options, "--max-update", updates, "--save-dir", tmp_path / name]
        run_python("-m", "fairseq_cli.train", *map(str, arguments), ranks=ranks, python_path=paths)
        return training_state(tmp_path / name / "checkpoint_last.pt")

    once = train("once", 4)
    assert all(map(is_of_adapter, once["model"]))
    train("twice", 2)
    assert differences(once, train("twice", 4)) == []
    one_rank = train("one", 4, "--update-freq", 2, ranks=1)
    for name, weight in one_rank["model"].items():
        torch.testing.assert_close(once["model"][name], weight, atol=1e-4, rtol=1e-2)
