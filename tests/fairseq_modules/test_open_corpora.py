"""What data needs on disk is made once on a machine, before the ranks join; the task reports wrong options."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from kosmos_plugin.errors import UserError
from kosmos_plugin.fairseq_modules.open_corpora import open_corpora
from tests import tiny

REPOSITORY = Path(__file__).parents[2]
# fairseq-train that says when they are made and when the group is formed; one write, as ranks share the output
PROGRAM = """
import os
import time

import torch.distributed as dist
from fairseq_cli import train

import kosmos_plugin
kosmos_plugin.register()
from kosmos_plugin.data.record_lengths import LengthsFile
from kosmos_plugin.data.row_starts import RowStarts

init_process_group = dist.init_process_group


def slowly(write):
    def slow_write(self, path=None):
        time.sleep(0.5)
        write(self, path)
        os.write(1, b"made\\n")

    return slow_write


def join(*arguments, **options):
    os.write(1, b"joined\\n")
    init_process_group(*arguments, **options)


RowStarts.write, LengthsFile.write = slowly(RowStarts.write), slowly(LengthsFile.write)
dist.init_process_group = join
train.cli_main()
"""


@pytest.mark.slow
def test_two_ranks(tmp_path):
    data = tiny.write_data(tmp_path / "data")
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
            str(tmp_path / "program.py"), str(data), *tiny.TRAIN_OPTIONS.split(), "--max-update", "1",
            "--vision-model", str(data.parent / "clip.json"), "--save-dir", str(tmp_path / "checkpoints"),
            "--disable-validation", "--user-dir", str(REPOSITORY / "kosmos_plugin"),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, timeout=300, cwd=REPOSITORY,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    said = [line for line in done.stdout.splitlines() if line in ("made", "joined")]
    assert said == [*["made"] * 6, "joined", "joined"]  # train and valid of three streams, each by one of the two ranks
    assert len(list((data.parent / "text").glob("*.rows"))) == 2
    for kind in ("captions", "interleaved"):
        assert len(list((data.parent / kind).glob(f"*.{kind}.*.kosmos_lengths"))) == 2


@pytest.mark.parametrize("name", [None, "gone.yaml", "clip.json"])
def test_a_wrong_data_yaml_is_left_to_the_task(data, name):
    path = None if name is None else str(data.parent / name)
    open_corpora(SimpleNamespace(data=path, vocabulary=None, tokens_per_sample=64, image_tokens=4))
    with pytest.raises(UserError):
        tiny.task(path)


def test_a_broken_text_is_reported(data, tmp_path):
    path = tiny.text_data(data, tmp_path)
    (tmp_path / "text.idx").touch()
    path.write_text(path.read_text().replace(str(data.parent / "text" / "valid"), "text"))
    with pytest.raises(UserError, match=r"text\.bin does not exist"):
        open_corpora(SimpleNamespace(data=str(path), vocabulary=None, tokens_per_sample=64, image_tokens=4))


@pytest.mark.parametrize("text_only", [True, False])
def test_scoring_text_counts_no_captions(tmp_path, text_only):
    data = tiny.write_data(tmp_path / "data")
    open_corpora(SimpleNamespace(data=str(data), vocabulary=None, tokens_per_sample=64, image_tokens=4), text_only)
    assert len(list((data.parent / "text").glob("*.rows"))) == 2
    assert len(list(data.parent.glob("*/*.kosmos_lengths"))) == (0 if text_only else 4)
