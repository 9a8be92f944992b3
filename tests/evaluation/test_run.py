"""Resuming, ranks and batch sizes do not change the answers of a run."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmarks.rendered_sst2 import RenderedSst2, RenderedSst2ChainOfThought
from kosmos_plugin.evaluation.predictions import Predictions
from kosmos_plugin.evaluation.ranks import Ranks
from kosmos_plugin.evaluation.responder import KosmosResponder
from kosmos_plugin.evaluation.results import read_results
from kosmos_plugin.evaluation.run import Run, evaluate
from tests.evaluation.releases import write_release


@pytest.fixture(scope="module")
def responder(kosmos):
    return KosmosResponder(kosmos)


def run_of(releases, kind=RenderedSst2ChainOfThought, **options) -> Run:
    return Run(kind(releases / kind.release), **{"shots": 0, "checkpoint": "model.pt", "digest": "1", **options})


def predictions(out: Path, run: Run) -> list[dict]:
    path = out / run.folder / "predictions.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def assert_same_answers(found: list[dict], expected: list[dict]) -> None:
    """Assert that answers are equal, and log-probabilities up to the order of summation."""
    for one, other in zip(found, expected, strict=True):
        assert one["log_probabilities"] == pytest.approx(other["log_probabilities"], abs=1e-4)
        assert {**one, "log_probabilities": 0} == {**other, "log_probabilities": 0}


class Counting:
    """A responder that counts its requests, and raises KeyboardInterrupt after `most` batches."""

    def __init__(self, responder, most: float = float("inf")):
        self.responder, self.most, self.batches, self.scored = responder, most, 0, 0

    def problem(self, request):
        return self.responder.problem(request)

    def generate(self, requests):
        self.batches += 1
        if self.batches > self.most:
            raise KeyboardInterrupt
        return self.responder.generate(requests)

    def score(self, requests):
        self.scored += len(requests)
        return self.responder.score(requests)


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_the_size_of_batches_changes_nothing(responder, releases, tmp_path, batch_size):
    run = run_of(releases)
    one = evaluate(run, responder, tmp_path / "3", 3, Ranks())
    other = evaluate(run, responder, tmp_path / "other", batch_size, Ranks())
    assert one == other and one.items == len(run.items())
    assert_same_answers(predictions(tmp_path / "other", run), predictions(tmp_path / "3", run))
    assert (tmp_path / "3" / run.folder / "page.html").is_file()


def test_an_interrupted_run_resumes(responder, releases, tmp_path):
    run = run_of(releases)
    expected = evaluate(run, responder, tmp_path / "whole", 4, Ranks())
    with pytest.raises(KeyboardInterrupt):
        evaluate(run, Counting(responder, most=3), tmp_path / "stopped", 4, Ranks())
    [part] = (tmp_path / "stopped" / run.folder).glob("part-*.jsonl")
    part.write_bytes(part.read_bytes()[:-20])  # killed within a line
    again = Counting(responder)
    assert evaluate(run, again, tmp_path / "stopped", 4, Ranks()) == expected
    assert again.scored == expected.items - 11
    assert_same_answers(predictions(tmp_path / "stopped", run), predictions(tmp_path / "whole", run))
    third = Counting(responder)
    assert evaluate(run, third, tmp_path / "stopped", 4, Ranks()) == expected
    assert third.scored == 0, "a finished run is only measured again"


def test_answers_of_another_checkpoint_are_refused(responder, releases, tmp_path):
    evaluate(run_of(releases, limit=2), responder, tmp_path, 4, Ranks())
    with pytest.raises(UserError, match=r"checkpoint.* '1', not checkpoint.* '2': give another --out"):
        evaluate(run_of(releases, limit=2, digest="2"), responder, tmp_path, 4, Ranks())
    with pytest.raises(UserError, match="seed 1, not seed 7"):
        evaluate(run_of(releases, limit=2, seed=7), responder, tmp_path, 4, Ranks())


def test_answers_in_another_precision_are_refused(responder, releases, tmp_path):
    run = run_of(releases, limit=2)
    expected = evaluate(run, responder, tmp_path, 4, Ranks())
    with pytest.raises(UserError, match="dtype 'float32', not dtype 'bfloat16': give another --out"):
        evaluate(run_of(releases, limit=2, dtype="bfloat16"), responder, tmp_path, 4, Ranks())
    settings = tmp_path / run.folder / "settings.json"
    old = {name: value for name, value in json.loads(settings.read_text()).items() if name != "dtype"}
    settings.write_text(json.dumps(old))  # as version 0.1 wrote it
    assert evaluate(run, responder, tmp_path, 4, Ranks()) == expected
    with pytest.raises(UserError, match="dtype 'float32', not dtype 'bfloat16'"):
        evaluate(run_of(releases, limit=2, dtype="bfloat16"), responder, tmp_path, 4, Ranks())


def test_items_that_do_not_fit_are_wrong_and_reported(responder, releases, tmp_path):
    class TooLongAtTimes(RenderedSst2):
        def request(self, item, demonstrations):
            request = super().request(item, demonstrations)
            if item.id != self.items()[0].id:
                return request
            long = (*request.choices[0].prompt, *request.choices[0].prompt[1:] * 100)
            return type(request)(tuple(type(c)(long, c.continuation, c.label) for c in request.choices))

    run = run_of(releases, TooLongAtTimes)
    result = evaluate(run, responder, tmp_path, 4, Ranks())
    first = predictions(tmp_path, run)[0]
    assert result.problems == 1 and "512" in first["problem"]
    assert first["prediction"] == "" and first["score"] == 0


def test_demonstrations_are_an_items_own(releases):
    """They do not depend on the other items, and never include the item itself."""
    benchmark = RenderedSst2(releases / "rendered_sst2")
    pool = benchmark.items()
    drawn = {item.id: benchmark.demonstrations(item, pool, 4, seed=1) for item in pool}
    for item in reversed(pool):
        again = benchmark.demonstrations(item, pool, 4, seed=1)
        assert again == drawn[item.id] and item not in again and len({one.id for one in again}) == 4
    assert any(benchmark.demonstrations(item, pool, 4, seed=2) != drawn[item.id] for item in pool)
    assert len({tuple(one.id for one in of_item) for of_item in drawn.values()}) > len(pool) // 2
    with pytest.raises(UserError, match="4 demonstrations are more than the training set's 3"):
        benchmark.demonstrations(pool[0], pool[:4], 4, seed=1)


def command(checkpoint, releases, out, *options, ranks: int = 1) -> list[str]:
    launcher = [sys.executable, "-m"]
    if ranks > 1:
        launcher += ["torch.distributed.run", f"--nproc-per-node={ranks}", f"--master-port={_free_port()}", "-m"]
    arguments = f"--benchmark rendered_sst2_cot --path {checkpoint} --data {releases} --out {out}".split()
    return [*launcher, "fairseq_cli_ext.evaluate", *arguments, *options]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_two_ranks_give_what_one_gives(checkpoint, releases, tmp_path):
    for ranks in (1, 2):
        done = subprocess.run(
            command(checkpoint, releases, tmp_path / str(ranks), "--batch-size", "2", ranks=ranks),
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Rendered SST-2") == 1, "one rank speaks"
    run = run_of(releases)
    assert_same_answers(predictions(tmp_path / "2", run), predictions(tmp_path / "1", run))
    assert json.loads((tmp_path / "1/results.json").read_text()) == json.loads(
        (tmp_path / "2/results.json").read_text()
    )


@pytest.mark.slow
def test_ranks_go_on_together_after_a_benchmark_failed_on_one(checkpoint, releases, tmp_path):
    """An image of the second batch, which is the second rank's, is broken; the next benchmark is run by both."""
    data = tmp_path / "data"
    write_release(data, "rendered_sst2")
    write_release(data, "superglue")
    first, *_, last = RenderedSst2(data / "rendered_sst2").items()
    Path(last.image.name).write_bytes(b"no image")
    options = ("--benchmark", "rendered_sst2,copa", "--shots", "0", "--batch-size", "3")
    done = subprocess.run(
        command(checkpoint, data, tmp_path / "out", *options, ranks=2), env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode != 0 and "error: rendered_sst2: " in done.stderr and last.image.name in done.stderr
    assert "COPA" in done.stdout
    assert [result.benchmark for result in read_results(tmp_path / "out")] == ["copa"]
    assert first.id in (tmp_path / "out/rendered_sst2/test-0-shot/part-0.jsonl").read_text(), "answers are kept"


@pytest.mark.slow
def test_a_killed_command_resumes(checkpoint, releases, tmp_path):
    """It is killed by SIGKILL at some moment after its first answers, and resumed on two ranks."""
    run = run_of(releases)
    part = tmp_path / run.folder / "part-0.jsonl"
    process = subprocess.Popen(
        command(checkpoint, releases, tmp_path, "--batch-size", "1"), env=ENVIRONMENT, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not (part.is_file() and part.stat().st_size):
        time.sleep(0.01)
    time.sleep(random.Random(time.time()).random() * 0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run(command(checkpoint, releases, tmp_path, ranks=2), env=ENVIRONMENT, check=True, capture_output=True)
    assert [line["id"] for line in predictions(tmp_path, run)] == [item.id for item in run.items()]
    assert not list(part.parent.glob("part-*"))


@pytest.mark.parametrize("line", ["7", "[]", '{"id": []}', '{"id": "1"}', "null", '{"id": "1", "prediction": ""'])
@pytest.mark.parametrize("name", ["predictions.jsonl", "part-0.jsonl"])
def test_files_of_answers_that_hold_something_else(releases, responder, tmp_path, name, line):
    run = run_of(releases)
    (tmp_path / run.folder).mkdir(parents=True)
    (tmp_path / run.folder / name).write_text(line + "\n")
    with pytest.raises(UserError, match=rf"{name}(, line 1, is not valid JSON| holds something that is not an answer)"):
        evaluate(run, responder, tmp_path, 4, Ranks())


def test_settings_that_hold_something_else(releases, responder, tmp_path):
    run = run_of(releases)
    (tmp_path / run.folder).mkdir(parents=True)
    (tmp_path / run.folder / "settings.json").write_text("[]")
    with pytest.raises(UserError, match=r"settings\.json was not written by kosmos-evaluate"):
        evaluate(run, responder, tmp_path, 4, Ranks())


def test_predictions_are_read_as_they_were_written(releases, responder, tmp_path):
    run = run_of(releases)
    evaluate(run, responder, tmp_path, 4, Ranks())
    kept = Predictions(tmp_path / run.folder, run.settings())
    before = kept.read()
    first = run.items()[0].id
    before[first] = replace(before[first], prediction='two "lines"\n of \u2028 text \x85 é')
    kept.begin()
    kept.finish(run.items(), [before[item.id] for item in run.items()], [0.5] * len(run.items()))
    assert kept.read() == before
