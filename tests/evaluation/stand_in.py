"""Stand-ins for a model: one knows the answers, one guesses."""

import random
from collections.abc import Sequence

from kosmos_plugin.evaluation.benchmark import Item
from kosmos_plugin.evaluation.requests import Choose, Generate, Request, distinct_images, distinct_prompts, prompt_text
from kosmos_plugin.evaluation.run import Run

RATIONALE = "a picture of words"


def truth(reference) -> str:
    """A right answer, for any form of reference."""
    if isinstance(reference, dict):
        return truth(reference["answers"])
    return max(reference, key=reference.count) if isinstance(reference, list) else str(reference)


class Knowing:
    """Knows the answers: every wrong choice has a low probability, and the generated text is the reference."""

    def __init__(self, run: Run):
        self.items: dict[tuple, Item] = {}
        request_of = run.requests()
        for item in run.items():
            request = request_of(item)
            self.items[_key(request)] = item
            if isinstance(request, Generate) and request.then is not None:
                self.items[_key(request.then(RATIONALE))] = item

    def problem(self, request: Request) -> str:
        return ""

    def generate(self, requests: Sequence[Generate]) -> list[str]:
        return [RATIONALE if request.then else truth(self.items[_key(request)].reference) for request in requests]

    def score(self, requests: Sequence[Choose]) -> list[list[float]]:
        scores = []
        for request in requests:
            right = truth(self.items[_key(request)].reference)
            scores.append([-0.1 if choice.label == right else -999.0 for choice in request.choices])
        return scores


class Guessing:
    """Guesses: draws a choice, or one of the allowed texts, uniformly."""

    def __init__(self, seed: int):
        self.rng = random.Random(seed)

    def problem(self, request: Request) -> str:
        return ""

    def generate(self, requests: Sequence[Generate]) -> list[str]:
        return [self.rng.choice(request.among or ["xyzzy"]) for request in requests]

    def score(self, requests: Sequence[Choose]) -> list[list[float]]:
        scores = []
        for request in requests:
            chosen = self.rng.randrange(len(request.choices))
            scores.append([-0.1 if number == chosen else -999.0 for number in range(len(request.choices))])
        return scores


def _key(request: Request) -> tuple:
    """A key that identifies a request within its benchmark."""
    prompts = tuple(prompt_text(prompt) for prompt in distinct_prompts(request))
    continuations = (choice.continuation for choice in request.choices) if isinstance(request, Choose) else ()
    return prompts, tuple(image.name for image in distinct_images(request)), tuple(continuations)
