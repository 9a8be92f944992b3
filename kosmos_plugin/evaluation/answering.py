"""Requests → answers: a batch is asked, and what was generated as a rationale goes into the next request."""

from collections.abc import Sequence
from dataclasses import replace

from kosmos_plugin.evaluation.benchmark import Answer
from kosmos_plugin.evaluation.requests import Choose, Generate, Request, images_of, prompts_of, shown
from kosmos_plugin.evaluation.responder import Responder


def ask(responder: Responder, requests: Sequence[Request]) -> list[Answer]:
    """The answer to each request, with the prompts of all steps that led to it."""
    answers = _ask_once(responder, requests)
    following = {
        number: request.then(answer.prediction)
        for number, (request, answer) in enumerate(zip(requests, answers, strict=True))
        if isinstance(request, Generate) and request.then is not None and not answer.problem
    }
    if following:
        for number, last in zip(following, ask(responder, [*following.values()]), strict=True):
            first = answers[number]
            answers[number] = replace(last, prompts=(*first.prompts, *last.prompts), rationale=first.prediction)
    return answers


def _ask_once(responder: Responder, requests: Sequence[Request]) -> list[Answer]:
    answers = [
        Answer(
            prediction="",
            prompts=tuple(shown(prompt) for prompt in prompts_of(request)),
            images=tuple(image.name for image in images_of(request)),
            problem=responder.problem(request),
        )
        for request in requests
    ]
    possible = [number for number, answer in enumerate(answers) if not answer.problem]
    to_generate = [number for number in possible if isinstance(requests[number], Generate)]
    if to_generate:
        texts = responder.generate([requests[number] for number in to_generate])
        for number, text in zip(to_generate, texts, strict=True):
            answers[number] = replace(answers[number], prediction=text)
    to_choose = [number for number in possible if isinstance(requests[number], Choose)]
    if to_choose:
        scores = responder.score([requests[number] for number in to_choose])
        for number, of_choices in zip(to_choose, scores, strict=True):
            request = requests[number]
            likeliest, likeliest_by_length = (request.best(of_choices, by_length) for by_length in (False, True))
            answers[number] = replace(
                answers[number],
                prediction=likeliest_by_length if request.by_length else likeliest,
                labels=tuple(choice.label for choice in request.choices),
                log_probabilities=tuple(of_choices),
                likeliest=likeliest,
                likeliest_by_length=likeliest_by_length,
            )
    return answers
