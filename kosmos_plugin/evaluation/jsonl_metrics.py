"""The metrics of a JSONL benchmark, by their names in the file, and the form of reference that each takes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmark import Answer, Item, Scores
from kosmos_plugin.evaluation.metrics.accuracy import choice_accuracy
from kosmos_plugin.evaluation.metrics.captions import caption_metrics, check_caption_tools
from kosmos_plugin.evaluation.metrics.roc_auc import check_scikit_learn, two_choice_roc_auc
from kosmos_plugin.evaluation.metrics.spans import strict_match, word_f1
from kosmos_plugin.evaluation.metrics.vqa_accuracy import vqa_accuracies

FEWEST_PEOPLE = 4  # whose answers give a score of 1 if they agree


@dataclass(frozen=True)
class Metric:
    """A metric."""

    score: Callable[[Sequence[Item], Sequence[Answer]], Scores]
    ranks: bool = False  # whether it is of candidates; otherwise of generated answers
    check_tools: Callable[[], None] = lambda: None


def _first_ones_roc_auc(items: Sequence[Any], answers: Sequence[Answer]) -> Scores:
    """Compute ROC AUC of the first candidate's probability."""
    return two_choice_roc_auc(items, answers, *items[0].candidates)


# The first one of each kind is the default.
METRICS = {
    "accuracy": Metric(choice_accuracy, ranks=True),
    "roc_auc": Metric(_first_ones_roc_auc, ranks=True, check_tools=check_scikit_learn),
    "exact_match": Metric(strict_match),
    "f1": Metric(word_f1),
    "cider": Metric(caption_metrics, check_tools=check_caption_tools),
    "vqa": Metric(vqa_accuracies),
}


def reference_of(metric: str, answers: Sequence[str], where: str) -> Any:
    """Return the reference that a metric takes; None if there are no answers.

    Raises:
        UserError: The metric needs more answers.
    """
    if not answers:
        return None
    if METRICS[metric].ranks:
        return answers[0]
    if metric == "vqa":
        if len(answers) < FEWEST_PEOPLE:
            raise UserError(
                f'{where}: "vqa" needs a list of the answers of at least {FEWEST_PEOPLE} people, not {len(answers)}. '
                'For a single right answer use "exact_match".'
            )
        return {"answers": list(answers), "answer_type": None}
    return list(answers)
