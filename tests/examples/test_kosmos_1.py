"""examples/kosmos_1 has the paper's values: scripts and YAML agree, and the plan fails if any value is changed."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from fairseq_cli_ext.inspect import cli_main
from kosmos_plugin.paper.settings import TEXT_WEIGHTS
from kosmos_plugin.planning.command import read_training_command

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "kosmos_1"
RUNS = ("pretrain", "instruction_tuning")
PATHS = {"data", "save_dir", "tensorboard_logdir", "finetune_from_model"}
# with torchrun, only torchrun knows the number of ranks
DIFFER = {"distributed_world_size"}


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the example, in the folder that the YAML expects."""
    shutil.copytree(EXAMPLE, tmp_path / "examples" / "kosmos_1", ignore=shutil.ignore_patterns("out", "work"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "examples" / "kosmos_1"


def plan(path, capsys, *options) -> tuple[int, str]:
    """The exit status, and the printed text with single spaces."""
    try:
        cli_main(["--plan", str(path), *options])
        status = 0
    except SystemExit as exit:
        status = exit.code
    return status, re.sub(r"[ \n]+", " ", capsys.readouterr().out)


@pytest.mark.parametrize("run", RUNS)
def test_script_and_yaml_are_the_same_training(run, monkeypatch):
    monkeypatch.chdir(ROOT)
    script = read_training_command(f"examples/kosmos_1/{run}.sh")
    hydra = read_training_command(f"examples/kosmos_1/{run}.yaml")
    assert script.ranks == hydra.ranks == 8
    assert script.data == hydra.data
    sections = "common task model criterion optimizer lr_scheduler optimization dataset checkpoint distributed_training"
    for section in sections.split():
        one, other = (OmegaConf.to_container(command.config[section]) for command in (script, hydra))
        assert one.keys() == other.keys()
        for name in one.keys() - DIFFER:
            found = (one[name], other[name])
            if name in PATHS and None not in found:
                found = tuple(Path(path).resolve() for path in found)
            if name == "adam_betas":
                found = (found[0], f"({', '.join(map(str, found[1]))})")
            assert found[0] == found[1], f"{section}.{name}"


def test_fairseqs_own_command_composes_the_yaml(tmp_path):
    """`fairseq-hydra-train --cfg job` prints the configuration that the plan is made from."""
    # as if installed
    program = "import kosmos_plugin; kosmos_plugin.register(); from fairseq_cli.hydra_train import cli_main; cli_main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *f"--config-dir {EXAMPLE} --config-name pretrain --cfg job --resolve".split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    composed = yaml.safe_load(done.stdout)
    planned = OmegaConf.to_container(read_training_command(str(EXAMPLE / "pretrain.yaml")).config)
    for section in ("common", "task", "model", "optimizer", "lr_scheduler", "optimization", "dataset", "checkpoint"):
        assert composed[section].items() <= planned[section].items()
    assert composed["criterion"] == {"_name": "multimodal_cross_entropy"}


@pytest.mark.parametrize(
    "run, gpus, nodes, update_freq",
    [("pretrain", 1, 1, 64), ("pretrain", 64, 8, 1), ("pretrain", 128, 16, 1), ("instruction_tuning", 64, 8, 1)],
)
def test_number_of_gpus(run, gpus, nodes, update_freq, monkeypatch):
    monkeypatch.setenv("GPUS", str(gpus))
    command = read_training_command(str(EXAMPLE / f"{run}.sh"))
    assert (command.ranks, list(command.config.optimization.update_freq)) == (gpus, [update_freq])


@pytest.mark.parametrize("gpus", ["3", "0", "65", "eight"])
def test_numbers_of_gpus_that_do_not_fit(gpus, monkeypatch, capsys):
    monkeypatch.setenv("GPUS", gpus)
    with pytest.raises(SystemExit) as exit:
        cli_main(["--plan", str(EXAMPLE / "pretrain.sh")])
    assert exit.value.code == 2
    assert f"GPUS={gpus} does not divide the 64 micro-batches of an update" in capsys.readouterr().err


def test_the_plan_of_pretraining(capsys):
    status, out = plan(EXAMPLE / "pretrain.sh", capsys)
    assert status == 0
    for figure in (
        "kosmos_1 · 8 GPUs (torchrun) × --update-freq 8 · 300,000 updates · --bf16",
        "all 1,371,794,432 290,581,504 1,662,375,936",
        "A decoder layer has 50,378,752, the decoder with its tied embeddings 1,340,180,480.",
        "The vocabulary has 64,007 tokens (by --vocabulary-size",
        "text 256 2,048 0 524,288 0 256",
        "captions 6,144 85 1 522,240 6,144 256",
        "interleaved 128 1,250 2 160,000 256 128",
        "all 6,528 1,206,528 6,400 640",
        "each of 64 micro-batches has at most 10 rows",
        "300,000 updates: 362.0 billion tokens and 1,920,000,000 images.",  # the paper: about 360 billion
        "fused_adamw, β (0.9, 0.98), ε 1e-06, weight decay 0.01, no gradient clipping",
        "learning rate 0.0002, polynomial_decay after 375 updates of warm-up, power 1, to 0 at 300,000",
        "copy of the weights, 32 bits 1,371,794,432 4 5.11",
        "All 44 values of the paper's pretraining match.",
    ):
        assert figure in out
    # as in closed form: ViT-L/14's 24 blocks of 12 · 1024² weights, its patches, and attention over 257 positions
    forward = 2 * 257 * 24 * 12 * 1024**2 + 2 * 256 * 1024 * 3 * 14**2 + 24 * 4 * 257**2 * 1024
    assert f"vision 1.037 {forward / 1e9:.2f} GFLOP × 6,400 images" in out
    petaflops = (6 * 24 * 50_331_648 + 6 * 24 * 2048**2) * 1_206_528 / 1e15 + 6 * 64_007 * 2048 * 796_928 / 1e15
    petaflops += 198.6e9 * 6400 / 1e15
    assert f"{petaflops:.2f} PFLOP × 300,000 updates at 40% of 312 TFLOP/s" in out
    assert f"{petaflops * 1e15 * 3e5 / (0.4 * 312e12) / 3600:,.0f} GPU-hours, 39.5 days on 8 GPUs" in out


def test_the_papers_tokens_come_out_of_the_assumptions(capsys):
    """§3.2: 0.5M tokens of text, 0.5M of captions, 0.2M of interleaved data: 1.2M per update, 360B in all."""
    _, out = plan(EXAMPLE / "pretrain.yaml", capsys)
    rows = [re.search(rf"{stream} [\d,]+ [\d,]+ \d ([\d,]+) ", out) for stream in ("text", "captions", "interleaved")]
    tokens = [int(row[1].replace(",", "")) for row in rows]
    assert [round(number / 1e6, 1) for number in tokens] == [0.5, 0.5, 0.2]
    assert round(sum(tokens) / 1e6, 1) == 1.2
    assert sum(tokens) * 300_000 == pytest.approx(360e9, rel=0.01)


@pytest.mark.parametrize(
    "run, values", [("pretrain.yaml", 44), ("instruction_tuning.sh", 45), ("instruction_tuning.yaml", 45)]
)
def test_the_other_files_are_the_papers_too(run, values, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    status, out = plan(EXAMPLE / run, capsys)
    assert status == 0
    assert re.search(rf"All {values} values of the paper's (pretraining|instruction tuning) match\.", out)


CHANGES = [
    ("pretrain.sh", "--lr 2e-4", "--lr 3e-4", "Table 18 (text) peak learning rate 0.0002 0.0003"),
    ("pretrain.sh", "--warmup-updates 375", "--warmup-updates 750", "Table 18 (text) warm-up updates 375 750"),
    ("pretrain.sh", "(0.9, 0.98)", "(0.9, 0.95)", "Table 18 (text) Adam β 0.9, 0.98 0.9, 0.95"),
    ("pretrain.sh", "--decoder-layers 24 ", "--decoder-layers 23 ", "Table 17 (text) decoder layers 24 23"),
    ("pretrain.sh", "--arch kosmos_1\n", "--arch kosmos_1 --untied-embeddings\n", "1,340,180,480 1,471,266,816"),
    ("pretrain.yaml", "dropout: 0.1 # Table 17: dropout", "dropout: 0.0", "Table 17 (text) dropout 0.1 0.0"),
    ("pretrain.yaml", "positions: xpos", "positions: sinusoidal", "Table 17 (text) positions xpos sinusoidal"),
    ("pretrain.yaml", "ViT-L-14", "ViT-B-16", "features of the vision model 1,024 768"),
    ("pretrain.yaml", "power: 1.0", "power: 2.0", "power of the decay (1 is linear) 1.0 2.0"),
    ("pretrain_data.yaml", "6144", "6145", "Table 18 (reported) sequences of captions per update 6,144 6,145"),
    ("pretrain_data.yaml", "weight: 16.2", "weight: 16.3", "Table 20 (text) weight of Books3 in percent 16.2 16.3"),
    ("pretrain_data.yaml", "CC-Stories", "Stories", "Table 20 (text) weight of Stories none 1.0"),
    ("instruction_tuning.sh", "--lr 2e-5", "--lr 2e-4", "Table 19 (reported) peak learning rate 2e-05 0.0002"),
    ("instruction_tuning_data.yaml", " 16 #", " 17 #", "Table 19 (reported) sequences of interleaved per update 16 17"),
]


@pytest.mark.parametrize("name, old, new, difference", CHANGES, ids=[change[2].strip() for change in CHANGES])
def test_a_changed_value_is_found(copy, capsys, name, old, new, difference):
    text = (copy / name).read_text()
    assert old in text
    (copy / name).write_text(text.replace(old, new))
    command = name.replace("_data.yaml", ".sh")
    status, out = plan(copy / command, capsys)
    assert status == 1
    run = "pretraining" if command.startswith("pretrain") else "instruction tuning"
    assert difference in out.partition(f"Differences from the paper's {run} where value expected found")[2]


def test_a_file_that_claims_nothing_is_not_compared(copy, capsys):
    text = (copy / "pretrain.sh").read_text().replace("# kosmos-inspect: paper pretraining\n", "")
    (copy / "pretrain.sh").write_text(text.replace("--lr 2e-4", "--lr 3e-4"))
    status, out = plan(copy / "pretrain.sh", capsys)
    assert status == 0
    assert "learning rate 0.0003" in out and "paper's" not in out


def test_data_and_output_can_be_named(tmp_path):
    """They are the scripts' arguments, relative to any working directory."""
    (tmp_path / "mine.sh").write_text(
        f"cd '{tmp_path}'\nbash '{EXAMPLE}/instruction_tuning.sh' mine.yaml out before.pt\n"
    )
    command = read_training_command(str(tmp_path / "mine.sh"))
    assert command.data == str(tmp_path / "mine.yaml")
    checkpoint = command.config.checkpoint
    assert (checkpoint.save_dir, checkpoint.finetune_from_model) == ("out", "before.pt")


def test_weights_of_table_20_sum_to_the_tables():
    """The percentages are rounded and sum to 99.9."""
    assert sum(TEXT_WEIGHTS.values()) == pytest.approx(99.9)
