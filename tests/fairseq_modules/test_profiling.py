"""--profile-updates writes a trace of these updates, and nothing else changes."""

import gzip
import json

import pytest
import torch

from kosmos_plugin.errors import UserError
from kosmos_plugin.fairseq_modules.profiling import UpdateProfiler
from tests import tiny

OPTIONS = ("--cpu", "--num-workers", "0", "--disable-validation", "--update-freq", "2", "--optimizer", "fused_adamw")


def steps_of_the_optimizer(path) -> int:
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    return sum(event.get("name") == "Optimizer.step#AdamW.step" for event in events)


@pytest.mark.parametrize(("updates", "count"), [("2-3", 2), ("4", 1), ("1-4", 4)])
def test_a_trace_of_these_updates(data, tmp_path, updates, count):
    tiny.train(data, tmp_path, *OPTIONS, "--max-update", "4", "--profile-updates", updates)
    (trace,) = tmp_path.glob("profile_*")
    first, _, last = updates.partition("-")
    assert trace.name == f"profile_{first}-{last or first}_rank0.json.gz"
    assert steps_of_the_optimizer(trace) == count


def test_a_resumed_training_profiles_what_is_left(data, tmp_path):
    tiny.train(data, tmp_path, *OPTIONS, "--max-update", "2")
    tiny.train(data, tmp_path, *OPTIONS, "--max-update", "5", "--profile-updates", "2-4")
    (trace,) = tmp_path.glob("profile_*")
    assert steps_of_the_optimizer(trace) == 2
    trace.unlink()
    tiny.train(data, tmp_path, *OPTIONS, "--max-update", "6", "--profile-updates", "2-4")
    assert not list(tmp_path.glob("profile_*"))


def test_the_weights_are_those_without_it(data, tmp_path):
    plain = tiny.train(data, tmp_path / "plain", *OPTIONS, "--max-update", "3")
    profiled = tiny.train(data, tmp_path / "profiled", *OPTIONS, "--max-update", "3", "--profile-updates", "1-2")
    one, other = (torch.load(path, weights_only=True)["model"] for path in (plain, profiled))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("updates", ["", "0", "0-3", "5-3", "a", "1-", "-3", "1-2-3", "1.5", " 1", "1,2", "+1", "²"])
def test_other_ranges_are_one_error(updates):
    with pytest.raises(UserError, match="--profile-updates must be two numbers"):
        UpdateProfiler(updates)


def test_a_range_beyond_the_end_is_one_error(data, tmp_path):
    message = r"--profile-updates 3-4 goes beyond the end of the training \(--max-update 3\)\."
    with pytest.raises(UserError, match=message):
        tiny.train(data, tmp_path, *OPTIONS, "--max-update", "3", "--profile-updates", "3-4")
