"""kosmos-inspect --plan: its estimates against torch's FLOP counter and fairseq's trainer; errors are one line."""

import itertools
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fairscale.optim import OSS
from fairseq import tasks
from fairseq.trainer import Trainer
from omegaconf import OmegaConf
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fairseq_cli_ext.inspect import cli_main
from kosmos_plugin.checkpoints.fairseq_checkpoint import new_checkpoint, write_fairseq
from kosmos_plugin.fairseq_modules.criterion import MultimodalCrossEntropyCriterion
from kosmos_plugin.planning.command import read_training_command
from kosmos_plugin.planning.costs import flops_items, memory_items
from kosmos_plugin.planning.options import Assumptions
from kosmos_plugin.planning.plan import make_plan
from kosmos_plugin.planning.report import as_text
from tests import tiny

ASSUMPTIONS = Assumptions(
    caption_tokens=15,
    page_tokens=40,
    page_images=2,
    instruction_tokens=20,
    vocabulary_size=300,
    utilization=0.5,
    gpu_tflops=100.0,
)
AVERAGES = "--caption-tokens 15 --page-tokens 40".split()


def script_of(folder, data, options: str = "", begin: str = "fairseq-train"):
    """A script that trains the tiny model on `data`."""
    path = folder / "train.sh"
    path.write_text(
        f"set -e\n{begin} '{data}' {tiny.TRAIN_OPTIONS} --vision-model '{data.parent / 'clip.json'}' --max-update 7 "
        f"{options}\n"
    )
    return path


def saved_model(task, folder):
    """A checkpoint of the tiny model."""
    config = tiny.model_config(Path(task.cfg.data))
    weights = tiny.model(task).state_dict()
    vocabulary = str(Path(task.cfg.data).parent / "vocabulary")
    write_fairseq(new_checkpoint("kosmos_tiny", config, weights, vocabulary), folder / "base.pt")
    return folder / "base.pt"


def plan_of(path):
    return make_plan(read_training_command(str(path)), ASSUMPTIONS)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"untied_embeddings": True},
        {"resampler": "perceiver", "resampler_layers": 2},
        {"trainable_vision_layers": 0},
        {"lora_rank": 8, "lora_base": "base.pt"},
        {"lora_rank": 8, "lora_base": "base.pt", "lora_targets": "fc1,q_proj"},
    ],
    ids=lambda options: " ".join(options) or "default",
)
def test_flops_are_those_that_torch_counts(task, options, tmp_path):
    """Equal, except that torch counts all pairs of positions in attention, twice those under the causal mask."""
    if "lora_rank" in options:
        pytest.importorskip("peft")
        options["lora_base"] = str(saved_model(task, tmp_path))
    model = tiny.model(task, **options).train()
    rows, length, images = 2, tiny.TOKENS_PER_SAMPLE, 6
    tokens, slots = torch.full((rows, length), 10), torch.zeros(rows, length, dtype=torch.bool)
    for begin in (1, 9, 17):
        slots[:, begin : begin + tiny.IMAGE_TOKENS] = True
    pixels = torch.zeros(images, 3, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, dtype=torch.uint8)
    # torch's counter knows neither the CPU's fused attention nor nn.MultiheadAttention's fast path
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            targets = torch.where(slots, task.vocabulary.pad, 5)
            loss, _ = model(tokens, torch.ones_like(tokens), slots, pixels, targets)
            loss.backward()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    flops = {item.part: item.flops for item in flops_items(model.to("meta"), rows * length, images, length)}
    assert flops["attention"] > 0
    assert counter.get_total_flops() == sum(flops.values()) + flops["attention"]


@pytest.mark.parametrize(
    "options, bits, copies",
    [
        ("", 32, False),
        ("--optimizer fused_adamw --bf16-autocast", 32, False),
        ("--bf16", 16, True),
        ("--memory-efficient-bf16", 16, False),
    ],
    ids=["float32", "autocast", "bf16", "memory-efficient-bf16"],
)
def test_memory_is_what_fairseq_holds_after_an_update(data, tmp_path, options, bits, copies):
    config = read_training_command(str(script_of(tmp_path, data, options))).config
    for section in (config.common, config.optimizer, config.distributed_training):
        if "tpu" in section:
            section.tpu = False  # as fairseq-train sets it with --bf16
    task = tasks.setup_task(config.task)
    task.load_dataset("train")
    model = task.build_model(config.model)
    trainer = Trainer(config, task, model, MultimodalCrossEntropyCriterion(task))
    trainer.begin_epoch(1)
    batch = task.get_batch_iterator(task.dataset("train"), max_sentences=64).micro_batches[0]
    trainer.train_step([batch])

    parameters = list(trainer.model.parameters())
    optimizer = trainer.optimizer
    copied = getattr(optimizer, "fp32_params", [])
    held = {
        f"weights, {bits} bits": parameters,
        f"gradients, {bits} bits": [parameter.grad for parameter in parameters if parameter.grad is not None],
        "copy of the weights, 32 bits": copied if copies else [],
        "copy of the gradients, 32 bits": [parameter.grad for parameter in copied] if copies else [],
        "Adam's moments, 2 of 32 bits": [
            value for state in optimizer.optimizer.state.values() for name, value in state.items() if name != "step"
        ],
    }
    held = {what: sum(tensor.nbytes for tensor in tensors) for what, tensors in held.items() if tensors}
    trained = [parameter.requires_grad for parameter in parameters]
    assert {True, False} == set(trained)
    trainable = sum(parameter.numel() for parameter in itertools.compress(parameters, trained))
    frozen = sum(parameter.numel() for parameter in parameters) - trainable
    assert {item.what: item.bytes for item in memory_items(config, trainable, frozen, 1, shard=trainable)} == held


def test_memory_on_several_ranks(data, tmp_path):
    """DDP's buckets are a copy of the gradients; --zero-sharding os divides Adam's moments among the ranks."""
    path = script_of(tmp_path, data, "--zero-sharding os", "torchrun --nnodes 2 --nproc-per-node 4 fairseq-train")
    items = {item.what: item.bytes for item in plan_of(path).memory}
    assert items["gradients in DDP's buckets"] == items["gradients, 32 bits"]
    plan, ours = plan_of(path), tiny.model(tiny.task(data))
    weights = [parameter for parameter in ours.parameters() if parameter.requires_grad]
    # fairscale's own method, which needs no more of the optimizer than this
    sharded = SimpleNamespace(_partition_parameters=[], world_size=8, param_groups=[{"params": weights}])
    shares = [sum(p.numel() for p in group[0]["params"]) for group in OSS.partition_parameters(sharded)]
    assert plan.largest_shard == max(shares) < plan.trainable == sum(shares)
    assert items["Adam's moments, 2 of 32 bits, largest share"] == 2 * 4 * max(shares)
    saved = 2 * 4 * (plan.trainable - max(shares)) / 2**30
    assert f"--zero-sharding os saves {saved:.2f} GiB on the GPU with the largest share" in as_text(plan, [], width=500)


def test_memory_of_divided_weights(data, tmp_path):
    """--fully-shard divides everything but the frozen vision encoder; two layers and what is no layer are gathered."""
    options = "--fully-shard --bf16 --optimizer fused_adamw --decoder-layers 5"
    plan = plan_of(script_of(tmp_path, data, options, "torchrun --nproc-per-node 4 fairseq-train"))
    items, model = {item.what: item.bytes for item in plan.memory}, plan.model
    frozen = sum(weight.numel() for weight in model.vision.parameters() if not weight.requires_grad)
    everything = sum(weight.numel() for weight in model.parameters())
    trained = -(-plan.trainable // 4)
    layer = sum(weight.numel() for weight in model.decoder.layers[0].parameters())
    assert items == {
        "weights, 16 bits, 1/4 of them": 2 * -(-(everything - frozen) // 4),
        "frozen weights of vision, 16 bits": 2 * frozen,
        "gathered weights and gradients, 16 bits": 4 * (everything - frozen - 3 * layer),
        "gradients, 16 bits, 1/4": 2 * trained,
        "copy of the weights, 32 bits, 1/4": 4 * trained,
        "copy of the gradients, 32 bits": 4 * trained,
        "Adam's moments, 2 of 32 bits, 1/4": 8 * trained,
    }


def test_numbers_of_a_plan(data, tmp_path):
    """The model and the vocabulary are the real ones; the rest is arithmetic."""
    plan = plan_of(script_of(tmp_path, data, "--update-freq 3"))
    task = tiny.task(data)
    model = tiny.model(task)
    assert plan.vocabulary_size == len(task.vocabulary)
    assert plan.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert plan.trainable + plan.frozen == sum(p.numel() for p in model.parameters())
    assert all(parameter.is_meta for parameter in plan.model.parameters())
    streams = {s.config.name: (s.sequences, s.tokens, s.images, s.rows) for s in plan.streams}
    assert streams == {"text": (2, 128, 0, 2), "captions": (6, 90, 6, 2), "interleaved": (4, 160, 8, 4)}
    assert (plan.updates, plan.update_freq, plan.tokens, plan.images, plan.rows) == (7, 3, 378, 14, 8)
    flops = sum(item.flops for item in plan.flops)
    assert plan.gpu_hours == pytest.approx(flops * 7 / (0.5 * 100e12) / 3600)
    assert plan.command.claim is None


@pytest.mark.parametrize("program", ["torchrun --nproc-per-node 4 fairseq-train", "exec fairseq-train"])
def test_a_script_is_read_as_the_shell_reads_it(data, tmp_path, program, monkeypatch):
    """Variables, arrays, quotes, `exec` and `cd` work as in bash; nothing after the training is executed."""
    monkeypatch.setenv("RATE", "0.25")
    path = tmp_path / "train.sh"
    path.write_text(
        f"cd '{data.parent}'\n"
        f"options=({tiny.TRAIN_OPTIONS} --vision-model '{data.parent}/clip.json' --adam-betas '(0.5, 0.75)')\n"
        f'{program} "data.yaml" "${{options[@]}}" --lr "$RATE" --max-update $((3 * 7))\n'
        f"touch '{tmp_path}/after'\n"
    )
    command = read_training_command(str(path))
    assert command.config.optimization.max_update == 21
    assert list(command.config.optimization.lr) == [0.25]
    assert command.ranks == (4 if "torchrun" in program else 1)
    assert command.data == str(data)
    assert plan_of(path).figures()["optimizer.adam_betas"] == (0.5, 0.75)
    assert not (tmp_path / "after").exists()


def test_a_script_may_call_fairseq_hydra_train(data, tmp_path):
    (tmp_path / "config").mkdir()
    config = {
        "task": {"_name": "kosmos_multimodal", "data": str(data), "image_tokens": 4, "tokens_per_sample": 64},
        "model": {"_name": "kosmos_1_lm", "decoder_layers": 2, "vision_encoder": "none"},
        "optimization": {"max_update": 5, "lr": [0.5]},
        "optimizer": {"_name": "adam"},
        "lr_scheduler": {"_name": "fixed"},
    }
    OmegaConf.save(OmegaConf.create(config), tmp_path / "config" / "mine.yaml")
    path = tmp_path / "train.sh"
    path.write_text(
        f"cd '{tmp_path}'\nfairseq-hydra-train --config-dir config --config-name mine optimization.lr=[2]\n"
    )
    command = read_training_command(str(path))
    assert list(command.config.optimization.lr) == [2.0]
    assert command.config.model.decoder_layers == 2


def test_a_text_only_model(data, tmp_path):
    """A model without a vision encoder has no such parts; a stream with images is an error."""
    path = script_of(tmp_path, data, "--vision-encoder none")
    with pytest.raises(ValueError, match="reads only text, and the stream captions has images"):
        plan_of(path)
    shutil.copytree(data.parent / "vocabulary", tmp_path / "vocabulary")
    text = data.read_text()
    (tmp_path / "text.yaml").write_text(text[: text.index("  captions:")])
    path = script_of(tmp_path, tmp_path / "text.yaml", "--vision-encoder none")
    plan = plan_of(path)
    assert [part.name for part in plan.parts] == ["embeddings", "2 decoder layers", "last LayerNorm"]
    assert plan.trainable == plan.decoder_parameters and plan.frozen == 0
    assert {item.part for item in plan.flops} == {"decoder layers", "attention", "output matrix"}


def test_output_fits_a_terminal(data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(data.parent)
    monkeypatch.setenv("COLUMNS", "80")
    cli_main(["--plan", str(script_of(tmp_path, data, "--bf16")), *AVERAGES])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines()[3:])) <= 80
    for title in ("Parameters", "An update", "Optimization", "Memory of each GPU", "Floating-point operations"):
        assert f"\n{title}" in out


@pytest.mark.parametrize(
    "options, message",
    [
        ("--batch-size 1", "--batch-size allows 1 rows: the training would be refused"),
        ("--max-tokens 64 --update-freq 2", "--max-tokens allows 1 rows: the training would be refused"),
        ("--update-freq 9", "8 rows of 64 tokens are too few for 9 micro-batches: the training would be refused"),
        ("--update-freq 8 --batch-size 1", "8 micro-batches has at most 1 rows, on average 47 tokens and 2 images"),
    ],
)
def test_plans_that_training_would_refuse(data, tmp_path, capsys, options, message):
    cli_main(["--plan", str(script_of(tmp_path, data, options)), *AVERAGES])
    assert message in " ".join(capsys.readouterr().out.split())


SCRIPTS = {
    "echo nothing": "ended without calling any of torchrun, fairseq-train, fairseq-hydra-train: nothing",
    "if true; then": "syntax error: unexpected end of file",
    "ls /nowhere": "ended with status 2 before it called any of",
    "fairseq-train DATA --task kosmos_multimodal": "fairseq-train: --arch is missing",
    "fairseq-train OPTIONS": "error: train.sh: fairseq-train: the following arguments are required: data",
    "fairseq-train DATA OPTIONS --learning-rate 1": "fairseq-train: unrecognized arguments: --learning-rate 1",
    "fairseq-train DATA OPTIONS --lr fast --max-update 1": "fairseq-train: argument --lr: invalid",
    "fairseq-train DATA OPTIONS --user-dir /nowhere": "fairseq-train: --user-dir: /nowhere",
    "fairseq-train DATA OPTIONS --fp16 --bf16": "fairseq-train: Cannot combine --fp16 and --tpu",
    "fairseq-train --help": "fairseq-train is called for its help, not to train.",
    "fairseq-train DATA OPTIONS": "a plan needs --max-update",
    "fairseq-train DATA OPTIONS --max-update 1 --update-freq 1,2": "--update-freq must be one number, not [1, 2].",
    "fairseq-train none.yaml OPTIONS --max-update 1": "none.yaml does not exist.",
    "fairseq-train DATA --arch transformer_lm --task language_modeling": "the task must be kosmos_multimodal, not",
    "fairseq-train DATA --arch transformer_lm --task kosmos_multimodal": "the model must be kosmos_1",
    "torchrun --nproc-per-node gpu fairseq-train DATA": "--nproc-per-node as numbers, not 1:1 and gpu.",
    "torchrun --nproc-per-node 2 train.py DATA": "torchrun starts train.py, which is not fairseq-train",
    "torchrun --ranks 2 fairseq-train DATA": "train.sh: torchrun: ",
    "# kosmos-inspect: paper finetuning": "the paper's runs are pretraining, instruction_tuning.",
    "fairseq-hydra-train --config-name x": "give fairseq-hydra-train --config-dir and --config-name",
    "fairseq-hydra-train --config-dir / --config-name x": "/x.yaml does not exist.",
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_wrong_script_is_one_line(data, tmp_path, capsys, monkeypatch, script):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.sh").write_text(script.replace("DATA", str(data)).replace("OPTIONS", tiny.TRAIN_OPTIONS) + "\n")
    expect_error(capsys, ["--plan", "train.sh"], SCRIPTS[script])


@pytest.mark.parametrize(
    "options, message",
    [
        (["--utilization", "0"], "--utilization must be above 0 and at most 1, not 0.0."),
        (["--utilization", "1.5"], "--utilization must be above 0 and at most 1, not 1.5."),
        (["--utilization", "nan"], "--utilization must be above 0 and at most 1, not nan."),
        (["--gpu-tflops", "0"], "--gpu-tflops must be above 0, not 0.0."),
        (["--vocabulary-size", "0"], "--vocabulary-size must be at least 1, not 0."),
        (["--page-images", "-1"], "--page-images must be at least 0, not -1."),
        (["--caption-tokens", "7"], "--caption-tokens 7 does not fit: a sequence of captions with 1 images has 8"),
        (["--page-tokens", "65"], "--page-tokens 65 does not fit"),
        (["--rank", "1"], "--rank goes with DATA.yaml, not with --plan."),
        (["data.yaml"], "Give either DATA.yaml (or --like) for a micro-batch, or --plan COMMAND for a plan."),
    ],
)
def test_a_wrong_option_is_one_line(data, tmp_path, capsys, options, message):
    expect_error(capsys, ["--plan", str(script_of(tmp_path, data)), *AVERAGES, *options], message)


def test_neither_data_nor_plan(capsys, data, tmp_path):
    expect_error(capsys, [], "Give either DATA.yaml")
    expect_error(capsys, [str(data), "--utilization", "0.3"], "--utilization goes with --plan, not with DATA.yaml.")
    expect_error(capsys, ["--plan", str(tmp_path / "gone.sh")], "gone.sh does not exist.")
    (tmp_path / "broken.yaml").write_text("task: [")
    expect_error(capsys, ["--plan", str(tmp_path / "broken.yaml")], "broken.yaml: ")
    (tmp_path / "mistaken.yaml").write_text("optimization: {learning_rate: 1}")
    expect_error(capsys, ["--plan", str(tmp_path / "mistaken.yaml")], "learning_rate")
    (tmp_path / "binary.sh").write_bytes(b"\x89PNG\xff\xfe")
    expect_error(capsys, ["--plan", str(tmp_path / "binary.sh")], "it is not UTF-8.")


def expect_error(capsys, arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as exit:
        cli_main(arguments)
    printed = capsys.readouterr()
    assert exit.value.code == 2
    assert printed.out == ""
    assert printed.err.startswith("error: ") and message in printed.err and printed.err.count("\n") == 1


def test_a_reader_that_stops_early(data, tmp_path):
    """`kosmos-inspect … | head` ends without a traceback. Here the reader closes at the start."""
    command = [sys.executable, "-W", "ignore", "-m", "fairseq_cli_ext.inspect", "--plan", script_of(tmp_path, data)]
    command = shlex.join(map(str, [*command, *AVERAGES]))
    root = Path(__file__).parents[2]
    done = subprocess.run(
        ["bash", "-c", f"{command} | :; echo ${{PIPESTATUS[0]}}"], capture_output=True, text=True, cwd=root
    )
    assert done.stdout == "1\n"
    assert "Error" not in done.stderr
