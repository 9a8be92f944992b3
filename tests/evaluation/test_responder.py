"""The responder: each request of a batch gets the answer that it would get by itself and without a cache."""

import copy
import random

import pytest
import torch

from kosmos_plugin.data.documents import Document, Text
from kosmos_plugin.evaluation.requests import Choice, Choose, Generate, question
from kosmos_plugin.evaluation.responder import KosmosResponder, continuation_tokens
from kosmos_plugin.generation.prompt import parse_prompt
from tests import tiny


@pytest.fixture(scope="module")
def responder(kosmos):
    return KosmosResponder(kosmos)


def prompt(text: str, *images: bytes):
    return parse_prompt(text, images).segments


def log_probability(kosmos, choice: Choice) -> float:
    """The log-probability of a choice, from one pass over the tokens of its whole text."""
    vocabulary, sample = kosmos.vocabulary, kosmos.sample_builder
    *before, last = choice.prompt
    whole = sample.prompt(Document("whole", (*before, Text(last.text + choice.continuation))))
    count = len(vocabulary.encode(last.text + choice.continuation)) - len(vocabulary.encode(last.text))
    tokens = torch.from_numpy(whole.tokens)[None]
    slots = torch.from_numpy(whole.image_slots)[None]
    images = torch.stack([tiny.decode(image) for image in whole.images]) if whole.images else None
    with torch.no_grad():
        log_probs = kosmos.model(tokens, torch.ones_like(tokens), slots, images)[0][0].log_softmax(-1)
    return float(log_probs[-1 - count : -1].gather(1, tokens[0, -count:, None]).sum())


def test_choices_score_as_their_whole_texts_from_scratch(kosmos, responder):
    rng = random.Random(1)
    image, other = tiny.png(rng), tiny.png(rng)
    shared = prompt("<image> the red house", image)
    requests = [
        Choose((Choice(shared, " cat", "a"), Choice(shared, " dog sees a bird", "b"))),
        Choose(tuple(Choice(prompt(f"the cat {end}"), " slowly today", end) for end in ("runs", "sleeps", "stands"))),
        Choose((Choice(prompt("a <image> of", other), " cat", "a"), Choice(shared, " cat", "b"))),
    ]
    for request, found in zip(requests, responder.score(requests), strict=True):
        assert found == pytest.approx([log_probability(kosmos, choice) for choice in request.choices], abs=1e-4)
        [alone] = responder.score([request])
        assert found == pytest.approx(alone, abs=1e-4)


def test_a_request_generates_the_same_in_a_mixed_batch(responder):
    rng = random.Random(2)
    images = [tiny.png(rng) for _ in range(3)]
    names = ("cat", "old dog", "small green bird")
    requests = [
        Generate(prompt("<image> the red", images[0]), max_new_tokens=5),
        Generate(prompt("a cat"), num_beams=3, max_new_tokens=7),
        Generate(prompt("<image> of the", images[1]), num_beams=2, among=names),
        Generate(prompt("the river", *()), max_new_tokens=5),
        Generate(prompt("<image>", images[2]), num_beams=2, among=names),
    ]
    together = responder.generate(requests)
    assert together == [text for request in requests for text in responder.generate([request])]
    assert together[2] in names and together[4] in names


def test_only_requests_that_do_not_fit_have_a_problem(responder):
    fits = Generate(prompt("a cat"), max_new_tokens=5)
    assert responder.problem(fits) == ""
    assert "do not fit in 512" in responder.problem(Generate(prompt("a cat"), max_new_tokens=512))
    assert "takes 512" in responder.problem(Generate(prompt("a cat " * 600), max_new_tokens=1))
    shared = prompt("a cat")
    choices = (Choice(shared, " dog", "a"), Choice(shared, " dog" * 520, "b"))
    assert "do not fit in 512" in responder.problem(Choose(choices))
    assert responder.problem(Choose(choices[:1])) == ""


def test_the_longest_prompt_that_fits_is_answered(kosmos, responder):
    """A prompt at the limit is answered, one token more is not."""
    words = " ".join(["cat"] * 400)
    length = len(kosmos.prompt(words))
    request = Generate(question(words), max_new_tokens=512 - length)
    assert responder.problem(request) == ""
    assert isinstance(responder.generate([request])[0], str)
    assert responder.problem(Generate(question(words), max_new_tokens=513 - length))


def test_a_constrained_text_is_returned_as_requested(responder):
    """Tokens lose letters that the vocabulary lacks, and repeated spaces."""
    names = ("the  Ünïcorn", "old   dog")
    found = responder.generate([Generate(prompt(text), num_beams=2, among=names) for text in ("a cat", "the")])
    assert set(found) <= set(names)


@pytest.mark.parametrize("before", ["a dog\n\nthe cat\nruns", "a dog\r\n\r\nthe cat\nruns\n", "the cat runs"])
def test_few_shot_prompts_have_line_ends(kosmos, before):
    """Demonstrations are joined by empty lines; prompt and continuation are the tokens of the whole text."""
    vocabulary = copy.copy(kosmos.vocabulary)
    for vocabulary.newlines in (True, False):
        after = continuation_tokens(vocabulary, (Text(before),), " today")
        assert [*vocabulary.encode(before), *after] == vocabulary.encode(f"{before} today")
        lines = len([line for line in before.splitlines() if line])
        assert vocabulary.encode(before).count(vocabulary.line_end) == (lines - 1 if vocabulary.newlines else 0)
