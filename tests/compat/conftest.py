"""A tiny text, binarized by fairseq itself, and fairseq-train on it in separate processes."""

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import kosmos_plugin

PLUGIN = Path(kosmos_plugin.__path__[0])

# Without dropout, so that one process and two ranks compute the same. Without a buffer, whose thread sometimes aborts
# fairseq at exit when training ends within an epoch.
TINY_LANGUAGE_MODEL = (
    "--task language_modeling --arch transformer_lm --decoder-layers 1 --decoder-embed-dim 8 --decoder-ffn-embed-dim 8 "
    "--decoder-attention-heads 1 --dropout 0 --optimizer adam --lr 0.01 --sample-break-mode eos --tokens-per-sample 16 "
    "--batch-size 4 --data-buffer-size 0 --log-format json --log-interval 1"
).split()


def run_python(*arguments: str, ranks: int = 1, python_path: str = str(PLUGIN.parent)) -> str:
    """Run `python ARGUMENTS`, with torchrun for several ranks, and return its output."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)] if ranks > 1 else []
    environment = os.environ | {"PYTHONPATH": python_path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *launcher, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


@pytest.fixture(scope="session", name="run_python")
def run_python_fixture() -> Callable[..., str]:
    return run_python


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny_text")
    letters = random.Random(0)
    for split, lines in (("train", 64), ("valid", 8)):
        text = (" ".join(letters.choices("abcdefgh", k=letters.randint(4, 12))) for _ in range(lines))
        (folder / f"{split}.txt").write_text("\n".join(text) + "\n")
    raw = ["--trainpref", str(folder / "train.txt"), "--validpref", str(folder / "valid.txt")]
    run_python("-m", "fairseq_cli.preprocess", "--only-source", *raw, "--destdir", str(folder / "binarized"))
    return folder / "binarized"


@pytest.fixture(scope="session")
def train(tiny_text: Path) -> Callable[..., str]:
    """A function that trains the tiny model with more options of fairseq-train and returns the output."""

    def run(
        save_dir: Path, *options: str, ranks: int = 1, program: tuple[str, ...] = ("-m", "fairseq_cli.train")
    ) -> str:
        plugin = ["--user-dir", str(PLUGIN), "--save-dir", str(save_dir)]
        return run_python(*program, str(tiny_text), *plugin, *TINY_LANGUAGE_MODEL, *options, ranks=ranks)

    return run


@pytest.fixture(scope="session")
def trained_on_one_rank(train: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder and the output of four updates on one rank, of two batches each."""
    folder = tmp_path_factory.mktemp("trained_on_one_rank")
    return folder, train(folder, "--max-update", "4", "--update-freq", "2", "--save-interval-updates", "2")
