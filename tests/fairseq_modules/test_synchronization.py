"""Ranks exchange gradients once per update, whatever the number of micro-batches."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny

REPOSITORY = Path(__file__).parents[2]

# fairseq-train that prints how many numbers the ranks all-reduce in each update, measured by torch's profiler.
PROFILED = """
from fairseq.trainer import Trainer
from fairseq_cli import train
from torch.profiler import ProfilerActivity, profile


class ProfiledTrainer(Trainer):
    def train_step(self, samples, raise_oom=False):
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
            output = super().train_step(samples, raise_oom)
        sums = [event.input_shapes[0] for event in profiler.events() if "gloo:all_reduce" in event.name]
        if self.data_parallel_rank == 0:
            print("summed", sum(shape[0] for shape in sums if shape), flush=True)
        return output


train.Trainer = ProfiledTrainer
train.cli_main()
"""


@pytest.mark.slow
def test_gradients_are_summed_once_an_update(data, tmp_path):
    program = tmp_path / "profiled.py"
    program.write_text(PROFILED)
    summed = {}
    for update_freq in (1, 3):
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(program),
            str(data), "--user-dir", str(REPOSITORY / "kosmos_plugin"), *tiny.TRAIN_OPTIONS.split(), "--no-save",
            "--vision-model", str(data.parent / "clip.json"), "--max-update", "3", "--disable-validation",
            "--update-freq", str(update_freq), "--num-workers", "0",
        ]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        summed[update_freq] = [int(number) for number in re.findall(r"^summed (\d+)$", done.stdout, re.MULTILINE)]
    # In the first update DDP lays out its buckets.
    assert len(summed[1]) == len(summed[3]) == 3
    assert summed[1][-1] > 10_000, "the gradients are among what is summed"
    assert summed[3][-1] == summed[1][-1]
