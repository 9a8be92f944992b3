"""Requests → answers, in one batch. In a chain of thought, the generated rationale becomes part of the next request."""

from collections.abc import Sequence
from dataclasses import replace

from kosmos_plugin.evaluation.benchmark import Answer
from kosmos_plugin.evaluation.requests import (
    Choose,
    Generate,
    Request,
    distinct_images,
    distinct_prompts,
    prompt_text,
)
from kosmos_plugin.evaluation.responder import Responder


def answer(responder: Responder, requests: Sequence[Request]) -> list[Answer]:
    """Answer each request. An answer records the prompts of all steps that led to it."""
    answers = _answer_one_step(responder, requests)
    next_requests = {
        index: request.then(first.prediction)
        for index, (request, first) in enumerate(zip(requests, answers, strict=True))
        if isinstance(request, Generate) and request.then is not None and not first.problem
    }
    if next_requests:
        for index, last in zip(next_requests, answer(responder, [*next_requests.values()]), strict=True):
            first = answers[index]
            answers[index] = replace(last, prompts=(*first.prompts, *last.prompts), rationale=first.prediction)
    return answers


def _answer_one_step(responder: Responder, requests: Sequence[Request]) -> list[Answer]:
    answers = [
        Answer(
            prediction="",
            prompts=tuple(prompt_text(prompt) for prompt in distinct_prompts(request)),
            images=tuple(image.name for image in distinct_images(request)),
            problem=responder.problem(request),
        )
        for request in requests
    ]
    possible = [(index, request) for index, request in enumerate(requests) if not answers[index].problem]
    generations = {index: request for index, request in possible if isinstance(request, Generate)}
    if generations:
        texts = responder.generate([*generations.values()])
        for index, text in zip(generations, texts, strict=True):
            answers[index] = replace(answers[index], prediction=text)
    rankings = {index: request for index, request in possible if isinstance(request, Choose)}
    if rankings:
        scores = responder.score([*rankings.values()])
        for (index, request), log_probabilities in zip(rankings.items(), scores, strict=True):
            answers[index] = _ranked(answers[index], request, log_probabilities)
    return answers


def _ranked(unanswered: Answer, request: Choose, log_probabilities: Sequence[float]) -> Answer:
    likeliest, likeliest_by_length = (request.best(log_probabilities, by_length) for by_length in (False, True))
    return replace(
        unanswered,
        prediction=likeliest_by_length if request.by_length else likeliest,
        labels=tuple(choice.label for choice in request.choices),
        log_probabilities=tuple(log_probabilities),
        likeliest=likeliest,
        likeliest_by_length=likeliest_by_length,
    )
