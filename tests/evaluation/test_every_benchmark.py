"""Every benchmark from its release to its metrics, with a stand-in that knows the answers and one that guesses."""

import math
import statistics

import pytest

from kosmos_plugin.evaluation.answering import answer
from kosmos_plugin.evaluation.benchmarks import BENCHMARKS, benchmark_class
from kosmos_plugin.evaluation.ranks import Ranks
from kosmos_plugin.evaluation.requests import Choose, Generate
from kosmos_plugin.evaluation.run import Run, evaluate
from tests.evaluation.stand_in import Guessing, Knowing

GUESSES = 20
WITH_ANSWERS = {"vqav2": "val", "vizwiz": "val"}  # their default splits have no references


def make(name: str, releases):
    kind = benchmark_class(name)
    benchmark = kind(releases / kind.release, WITH_ANSWERS.get(name))
    benchmark.check_files(few_shot=kind.few_shot)
    return benchmark


def measured(benchmark, responder, out, shots: int = 0):
    return evaluate(Run(benchmark, shots, "a stand-in", "", limit=24), responder, out, batch_size=7, ranks=Ranks())


@pytest.mark.parametrize("name", BENCHMARKS)
def test_right_answers_get_the_full_score(name, releases, tmp_path):
    benchmark = make(name, releases)
    for shots in {0, max(benchmark.shots)}:
        knowing = Knowing(Run(benchmark, shots, "a stand-in", "", limit=24))
        result = measured(benchmark, knowing, tmp_path, shots)
        if result.headline == "CIDEr":
            assert result.metrics["CIDEr"] > 300, "it answers with one of the references"
        else:
            assert all(value == 100 for value in result.metrics.values()), result.metrics


@pytest.mark.parametrize("name", BENCHMARKS)
def test_guesses_get_the_chance_level(name, releases):
    benchmark = make(name, releases)
    run = Run(benchmark, 0, "a stand-in", "", limit=24)
    request_of, items = run.requests(), run.items()
    requests = [request_of(item) for item in items]
    share = chance(requests)
    guesses = GUESSES if share else 1  # a text cannot be guessed
    scores = [benchmark.score(items, answer(Guessing(seed), requests)) for seed in range(guesses)]
    headlines = [next(iter(of_seed.metrics.values())) for of_seed in scores]
    error = math.sqrt(share * (1 - share) / (len(items) * guesses))
    assert 100 * (share - 4 * error) <= statistics.fmean(headlines) <= 100 * (share + 4 * error)


def chance(requests) -> float:
    """The expected share of right answers when guessing."""
    if isinstance(requests[0], Generate) and requests[0].then is not None:
        requests = [request.then("") for request in requests]
    if isinstance(requests[0], Choose):
        return statistics.fmean(1 / len(request.choices) for request in requests)
    return statistics.fmean(1 / len(request.among) if request.among else 0 for request in requests)
