"""From the answers of `kosmos-evaluate` to the results of each claim, with 95% intervals.

Of two prompts to the same models, or of models and chance, an interval is over the items, for the mean of the seeds. Of
two trainings it is over seeds and items; they are paired by seed, since both start from the same weights.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import claims
import numpy as np
import trainings
from claims import Chance, Claim, Comparison, Measure

from kosmos_plugin.evaluation.files import read_json_lines
from kosmos_plugin.evaluation.metrics.difference import PairedScores, difference_interval
from kosmos_plugin.evaluation.results import read_results

HERE = Path(__file__).parent
# Benchmarks that are no JSON lines → how `--benchmark` names them.
CLASSES = {
    "chain_of_thought": f"{HERE / 'chain_of_thought.py'}:Sentiment",
    "chain_of_thought_shuffled": f"{HERE / 'chain_of_thought.py'}:ShuffledSentiment",
    "raven_iq": "raven_iq",
    "raven_iq_shuffled": f"{HERE / 'matrices.py'}:ShuffledMatrices",
}


def evaluate(out: Path, training: str, seed: int, benchmarks: Sequence[str]) -> None:
    """Run `kosmos-evaluate` on a training's checkpoint; answers that exist are kept."""
    files = out / "data" / "benchmarks"
    asked = ",".join(CLASSES.get(name, str(files / f"{name}.jsonl")) for name in benchmarks)
    command = [sys.executable, "-m", "fairseq_cli_ext.evaluate", "--benchmark", asked, "--data", str(files)]
    command += ["--path", str(trainings.checkpoint(out, training, seed)), "--out", str(_answers(out, training, seed))]
    command += ["--shots", "0", "--batch-size", "10"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _answers(out: Path, training: str, seed: int) -> Path:
    return trainings.folder(out, training, seed) / "evaluation"


def results(out: Path, claim: Claim, seeds: Sequence[int]) -> dict:
    """What the page shows of a claim."""
    compared = [_compare(out, comparison, seeds) for comparison in claim.comparisons]
    return {
        "name": claim.name,
        "seeds": len(seeds),
        "measured": {side.label: _summary(_scores(out, side, seeds)) for side in claims.sides(claim)},
        "comparisons": compared,
        "holds": all(each["holds"] for each in compared),
    }


def _compare(out: Path, comparison: Comparison, seeds: Sequence[int]) -> dict:
    first, second = comparison.first, comparison.second
    scores = _scores(out, second, seeds)
    if isinstance(first, Chance):
        differences = [each - first.percent / 100 for each in scores]
    else:
        differences = [b - a for a, b in zip(_scores(out, first, seeds), scores, strict=True)]
    if isinstance(first, Chance) or first.training == second.training:
        differences = [each.mean(0, keepdims=True) for each in differences]
    low, high = _interval(differences)
    holds = {"above": low > 0, "no worse": low > -claims.MARGIN, "not above": low <= 0}[comparison.kind]
    chance = first.percent if isinstance(first, Chance) else None
    sides = {"first": first.label, "second": second.label, "kind": comparison.kind, "chance": chance}
    difference = 100 * float(np.mean([each.mean() for each in differences]))
    return {**sides, "difference": difference, "interval": [low, high], "holds": holds}


def _summary(tasks: list[np.ndarray]) -> dict:
    """The mean over tasks, seeds and items in percent, its interval over the items, and each seed's mean."""
    by_seed = 100 * np.mean([scores.mean(1) for scores in tasks], axis=0)
    interval = _interval([scores.mean(0, keepdims=True) for scores in tasks])
    items = sum(scores.shape[1] for scores in tasks)
    return {"percent": float(by_seed.mean()), "interval": [*interval], "by_seed": by_seed.tolist(), "items": items}


def _interval(tasks: list[np.ndarray]) -> tuple[float, float]:
    """The 95% interval, in percent, of the mean over tasks, each [seeds, items]."""
    return difference_interval([PairedScores(np.zeros((1, scores.shape[1])), scores) for scores in tasks])


def _scores(out: Path, side: Measure, seeds: Sequence[int]) -> list[np.ndarray]:
    """For each benchmark the scores [seeds, items], from 0 to 1."""
    tasks = []
    for name in side.benchmarks:
        rows = []
        for seed in seeds:
            folder = _answers(out, side.training, seed)
            result = next(result for result in read_results(folder) if result.benchmark == name)
            lines = read_json_lines(folder / result.folder / "predictions.jsonl")
            rows.append([line["score"] for line in sorted(lines, key=lambda line: line["id"])])
        tasks.append(np.array(rows))
    return tasks
