"""Options that this task does not use, and checkpoints that are not there: one line, before any model is built."""

import dataclasses
import json
import re

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.dataclass.configs import FairseqConfig
from omegaconf import OmegaConf

from kosmos_plugin.errors import UserError
from kosmos_plugin.fairseq_modules.training_options import UNUSED, VALIDATION_METRICS, check_training_options
from tests import tiny

OPTIONS = ("--cpu", "--num-workers", "0", "--disable-validation", "--max-update", "1")

GIVEN = {
    "dataset.required_batch_size_multiple": ("--required-batch-size-multiple", 1),
    "dataset.required_seq_len_multiple": ("--required-seq-len-multiple", 8),
    "dataset.skip_invalid_size_inputs_valid_test": ("--skip-invalid-size-inputs-valid-test",),
    "dataset.dataset_impl": ("--dataset-impl", "lazy"),
    "dataset.data_buffer_size": ("--data-buffer-size", 2),
    "dataset.num_shards": ("--num-shards", 2),
    "dataset.shard_id": ("--shard-id", 1),
    "dataset.curriculum": ("--curriculum", 1),
    "dataset.grouped_shuffling": ("--grouped-shuffling",),
    "dataset.update_epoch_batch_itr": ("--update-epoch-batch-itr", "True"),
    "dataset.update_ordered_indices_seed": ("--update-ordered-indices-seed",),
    "distributed_training.fix_batches_to_gpus": ("--fix-batches-to-gpus",),
    "optimization.sentence_avg": ("--sentence-avg",),
    "optimization.skip_remainder_batch": ("--skip-remainder-batch",),
    "common.use_plasma_view": None,  # fairseq-train itself fails: its server is no longer in pyarrow
    "bpe": ("--bpe", "sentencepiece", "--sentencepiece-model", "spm.model"),
    "tokenizer": ("--tokenizer", "space"),
}


def refusal(data, folder, *options) -> str:
    with pytest.raises(UserError) as refused:
        tiny.train(data, folder, *OPTIONS, *options)
    message = str(refused.value)
    assert "\n" not in message
    assert not list(folder.rglob("*.pt"))
    return message


def test_every_unused_option_is_tried():
    assert GIVEN.keys() == UNUSED.keys()


@pytest.mark.parametrize("key", [key for key, given in GIVEN.items() if given])
def test_an_option_without_effect_is_refused(data, tmp_path, key):
    message = refusal(data, tmp_path, *GIVEN[key])
    assert message.startswith(f"{GIVEN[key][0]} ") and message.endswith(f"{UNUSED[key]}. Leave it out.")


@pytest.mark.parametrize(
    "options, reason",
    [
        (("--ddp-backend", "fully_sharded"), "fairscale joins the weights of a module"),
        (("--ddp-backend", "slowmo"), "the fairscale that TorchScale needs lacks it"),
        (("--use-bmuf",), "an update is one of all ranks"),
        (("--zero-sharding", "os"), "there is only one"),
    ],
)
def test_ranks_that_cannot_work_together(data, tmp_path, options, reason):
    message = refusal(data, tmp_path, *options)
    assert message.startswith(" ".join(options)) and reason in message
    assert "--ddp-backend" not in options or "use pytorch_ddp; --fully-shard divides weights" in message


@pytest.mark.parametrize(
    "option, value", [("--max-skipped-updates", -1), ("--spike-window", 1), ("--spike-deviations", 0.0)]
)
def test_checks_of_updates(data, tmp_path, option, value):
    assert refusal(data, tmp_path, f"{option}={value}").startswith(f"{option} must be ")


def test_metrics_of_validation_are_those_that_are_logged(data, tmp_path, caplog, monkeypatch):
    """And the best checkpoint can be chosen by a stream's loss."""
    monkeypatch.delattr(checkpoint_utils.save_checkpoint, "best", raising=False)  # of another training in this process
    options = ("--cpu", "--num-workers", "0", "--max-update", "2", "--best-checkpoint-metric", "ppl_captions")
    with caplog.at_level("INFO"):
        tiny.train(data, tmp_path, *options)
    records = [json.loads(record.message) for record in caplog.records if record.name == "valid"]
    logged = {name.removeprefix("valid_") for name in records[0]} - {"epoch", "best_ppl_captions"}
    streams = {f"{kind}_{name}" for kind in ("loss", "ppl") for name in ("text", "captions", "interleaved")}
    assert logged == {*VALIDATION_METRICS, *streams}
    assert (tmp_path / "checkpoint_best.pt").is_file()


@pytest.mark.parametrize(
    "name, suggestion",
    [("los", "loss"), ("loss_caption", "loss_captions"), ("Loss", "loss"), ("valid_loss", "loss"), ("accuracy", None)],
)
def test_an_unknown_metric_of_the_best_checkpoint(data, tmp_path, name, suggestion):
    options = [option for option in OPTIONS if option != "--disable-validation"]
    with pytest.raises(UserError, match=f"--best-checkpoint-metric {name} is not logged in validation.*loss_text") as e:
        tiny.train(data, tmp_path, *options, "--best-checkpoint-metric", name)
    assert suggestion is None or str(e.value).endswith(f"Did you mean '{suggestion}'?")
    tiny.train(data, tmp_path, *OPTIONS, "--best-checkpoint-metric", name)  # without validation it has no effect


def test_from_a_hydra_configuration(data):
    defaults = OmegaConf.structured(FairseqConfig)
    OmegaConf.set_struct(defaults, False)
    defaults.task = dataclasses.asdict(tiny.task(data).cfg)
    check_training_options(defaults.task)
    defaults.common.use_plasma_view = True
    with pytest.raises(UserError, match="--use-plasma-view has no effect"):
        check_training_options(defaults.task)


def test_the_task_of_a_script_has_no_options_to_check(data):
    check_training_options(tiny.task(data).cfg)
    check_training_options(OmegaConf.create(dataclasses.asdict(tiny.task(data).cfg)))


NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="--fp16 needs a GPU")


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp16", marks=NEEDS_GPU)])
def test_the_fused_optimizer_needs_float32_weights(data, tmp_path, precision):
    message = refusal(data, tmp_path, "--optimizer", "fused_adamw", f"--memory-efficient-{precision}")
    assert f"use --optimizer adam, or --{precision}." in message


# ---- the checkpoint to start from


@pytest.fixture(scope="module")
def checkpoint(data, tmp_path_factory):
    return tiny.train(data, tmp_path_factory.mktemp("trained"), *OPTIONS)


def updates(path) -> int:
    return torch.load(path, weights_only=True)["optimizer_history"][-1]["num_updates"]


@pytest.mark.parametrize("option", ["--restore-file", "--finetune-from-model", "--continue-once"])
@pytest.mark.parametrize("kind", ["missing", "a folder"])
def test_a_named_checkpoint_that_is_not_a_file(data, tmp_path, option, kind):
    named = tmp_path / "named.pt"
    if kind == "a folder":
        named.mkdir()
    message = refusal(data, tmp_path / "run", option, named)
    problem = "does not exist" if kind == "missing" else "is not a file"
    assert message == f"{option} {named} {problem}."


def test_a_name_in_the_folder_of_checkpoints(data, checkpoint):
    with pytest.raises(UserError, match=re.escape(f"Did you mean {checkpoint.parent / checkpoint.name}?")):
        tiny.train(data, checkpoint.parent, *OPTIONS, "--restore-file", f"./{checkpoint.name}")


@pytest.mark.parametrize("option", ["--restore-file", "--finetune-from-model", "--continue-once"])
def test_a_named_checkpoint_is_read(data, checkpoint, tmp_path, option):
    made = tiny.train(data, tmp_path, *OPTIONS, "--max-update", "2", option, checkpoint)
    assert updates(made) == 2


def test_a_first_start_needs_no_checkpoint_and_a_restart_no_pretrained_model(data, checkpoint, tmp_path):
    pretrained = tmp_path / "pretrained.pt"
    pretrained.write_bytes(checkpoint.read_bytes())
    tiny.train(data, tmp_path / "run", *OPTIONS, "--finetune-from-model", pretrained)
    pretrained.unlink()
    made = tiny.train(data, tmp_path / "run", *OPTIONS, "--max-update", "2", "--finetune-from-model", pretrained)
    assert updates(made) == 2


@pytest.mark.parametrize("kind", ["a folder", "a link to nothing"])
def test_a_last_checkpoint_that_cannot_be_read(data, tmp_path, kind):
    last = tmp_path / "checkpoint_last.pt"
    last.mkdir() if kind == "a folder" else last.symlink_to("gone.pt")
    with pytest.raises(UserError, match=f"The checkpoint to go on from {re.escape(str(last))} "):
        tiny.train(data, tmp_path, *OPTIONS)


@pytest.mark.parametrize(
    "options, words",
    [
        (("--restore-file", "a.pt", "--finetune-from-model", "b.pt"), "either --restore-file or --finetune-from-model"),
        (("--finetune-from-model", "b.pt", "--reset-lr-scheduler"), "leave out --reset-lr-scheduler"),
        (("--store-ema", "--ema-seed-model", "gone.pt"), "--ema-seed-model gone.pt does not exist"),
    ],
)
def test_options_that_do_not_go_together(data, tmp_path, options, words):
    assert words in refusal(data, tmp_path, *options)
