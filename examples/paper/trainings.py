"""The trainings, each by the literal `fairseq-train`: what they read, how long, and where they start.

`language` learns from text alone, as a language model whose abilities the others start from (`--decoder-weights`; the
paper trains everything at once, for 500 times as many tokens). `base` is the miniature of KOSMOS-1. The others differ
from it in the one thing that a claim is about, and have as many updates.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

QUICKSTART = Path(__file__).parents[1] / "quickstart"
# How often documents of a world are drawn, relative to the others.
WEIGHTS = {
    "few_shot": 4, "descriptions": 3, "questions": 3, "shapes": 1, "styles": 3, "reading": 5, "pages": 8, "matrices": 4,
    "commonsense": 1,
}  # fmt: skip

ARCHITECTURE = [
    "--arch", "kosmos_tiny", "--decoder-layers", "4", "--decoder-embed-dim", "96", "--decoder-ffn-embed-dim", "384",
    "--decoder-attention-heads", "4", "--tokens-per-sample", "256", "--image-tokens", "8", "--image-size", "128",
]  # fmt: skip
TEXT_ONLY = ("--vision-encoder", "none")
FROZEN = ("--trainable-vision-layers", "0", "--cache-vision-features")
# The paper's optimizer and schedule (AdamW, β = 0.9 and 0.98, weight decay 0.01, linear decay to 0).
OPTIMIZATION = [
    "--optimizer", "adam", "--adam-betas", "(0.9, 0.98)", "--adam-eps", "1e-6", "--weight-decay", "0.01",
    "--clip-norm", "1.0", "--lr-scheduler", "polynomial_decay", "--warmup-updates", "60",
]  # fmt: skip


@dataclass(frozen=True)
class Training:
    """A training of one seed."""

    sequences: dict[str, int]  # stream → sequences of an update
    updates: int
    options: tuple[str, ...]
    learning_rate: float = 2e-3
    start: str | None = None  # the training whose weights it starts from
    start_option: str = "--decoder-weights"


MULTIMODAL = {"text": 4, "captions": 24, "interleaved": 40}
FEWER_PICTURES = {"text": 4, "captions": 48, "interleaved": 8}
UPDATES = 1500

TRAININGS = {
    "language": Training({"text": 52}, 1100, TEXT_ONLY),
    "base": Training(MULTIMODAL, UPDATES, FROZEN, start="language"),
    # Without documents in which several pictures and texts alternate: the same texts, and captions in their place, so
    # many that an update has 2,237 tokens in the loss on average; base has 2,190.
    "captions_only": Training({"text": 4, "captions": 204}, UPDATES, FROZEN, start="language"),
    # The language model of the paper's Tables 13 and 16: the same texts in as many updates.
    "text_only": Training({"text": 4}, UPDATES, TEXT_ONLY, start="language"),
    # Table 19's ratio of instructions to the three other streams is 256 : 32 : 768 : 16.
    "instructions": Training(
        {"text": 4, "captions": 96, "interleaved": 2, "instructions": 32}, 400, FROZEN, 3e-4, "base",
        "--finetune-from-model",
    ),
    # Fewer pictures, since all of the encoder runs in every update where its last layer is trained.
    "all_frozen": Training(FEWER_PICTURES, 500, FROZEN, start="language"),
    "last_layer": Training(FEWER_PICTURES, 500, ("--trainable-vision-layers", "1"), start="language"),
}  # fmt: skip


def with_starts(names: Sequence[str]) -> list[str]:
    """The trainings and those that they start from, in an order in which they can be made."""
    needed: list[str] = []
    for name in names:
        start = TRAININGS[name].start
        needed += [*(with_starts([start]) if start else []), name]
    return [name for name in TRAININGS if name in needed]


def folder(out: Path, name: str, seed: int) -> Path:
    return out / f"{name}_{seed}"


def checkpoint(out: Path, name: str, seed: int) -> Path:
    return folder(out, name, seed) / "checkpoints" / "checkpoint_last.pt"


def is_done(out: Path, name: str, seed: int) -> bool:
    return seconds(out, name, seed) > 0


def seconds(out: Path, name: str, seed: int) -> float:
    """How long a training took since its last start; 0: it has not ended."""
    log = folder(out, name, seed) / "train.log"
    ended = re.findall(r"done training in ([\d.]+) seconds", log.read_text("utf-8")) if log.is_file() else []
    return float(ended[-1]) if ended else 0.0


def train(out: Path, name: str, seed: int) -> None:
    """Run `fairseq-train` with a progress bar, unless it has ended before. Started again, it resumes.

    Raises:
        SystemExit: It failed; its last lines were shown.
    """
    if is_done(out, name, seed):
        return
    training, where = TRAININGS[name], folder(out, name, seed)
    where.mkdir(parents=True, exist_ok=True)
    data = where / "data.yaml"
    data.write_text(yaml.safe_dump(data_yaml(out / "data", training), sort_keys=False), encoding="utf-8")
    command = ["fairseq-train", str(data), "--task", "kosmos_multimodal", "--criterion", "multimodal_cross_entropy"]
    command += [*ARCHITECTURE, *training.options, *OPTIMIZATION]
    command += ["--lr", str(training.learning_rate), "--seed", str(seed), "--batch-size", "300"]
    command += ["--max-tokens", "16000"]
    command += ["--max-update", str(training.updates), "--total-num-update", str(training.updates)]
    command += ["--save-dir", str(where / "checkpoints"), "--save-interval-updates", "250", "--no-epoch-checkpoints"]
    command += ["--keep-interval-updates", "1", "--validate-interval-updates", "500", "--log-interval", "10"]
    command += ["--num-workers", "1", "--log-format", "json"]
    if training.start:
        command += [training.start_option, str(checkpoint(out, training.start, seed))]
    (where / "command.sh").write_text(shlex.join(command) + "\n", encoding="utf-8")
    print(f"{name}, seed {seed}", flush=True)
    progress = [sys.executable, str(QUICKSTART / "progress.py"), str(training.updates), str(where / "train.log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as trainer:
        if subprocess.run(progress, stdin=trainer.stdout).returncode:
            raise SystemExit(f"{name} failed; its log: {where / 'train.log'}")


def data_yaml(data: Path, training: Training) -> dict:
    streams = {
        "text": ("text", [{"name": "text", "train": f"{data}/text/train", "valid": f"{data}/text/valid"}]),
        "captions": ("captions", [_corpus(data, "captions")]),
        "interleaved": ("interleaved", [_corpus(data, name) | {"weight": weight} for name, weight in WEIGHTS.items()]),
        "instructions": ("interleaved", [_corpus(data, "instructions")]),
    }
    return {
        "vocabulary": str(data / "vocabulary"),
        "streams": {
            name: {"kind": streams[name][0], "sequences_per_update": count, "corpora": streams[name][1]}
            for name, count in training.sequences.items()
        },
    }


def _corpus(data: Path, name: str) -> dict:
    return {"name": name, "train": f"{data}/{name}/*train*.tar", "valid": f"{data}/{name}/*valid*.tar"}
