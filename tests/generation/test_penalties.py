"""Penalties of repetition, against transformers' own processors on the same scores and in `generate`."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

from kosmos_plugin.generation import static_stepper
from kosmos_plugin.generation.generator import Generator
from kosmos_plugin.generation.options import SearchOptions
from kosmos_plugin.generation.penalties import penalize
from tests import tiny

WORDS = 12


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    history=st.lists(st.integers(0, WORDS - 1), min_size=1, max_size=30),
    penalty=st.sampled_from([1.0, 1.3, 0.7, 5.0]),
    size=st.integers(0, 5),
)
def test_scores_are_those_of_transformers(seed, history, penalty, size):
    scores = 3 * torch.randn(1, WORDS, generator=torch.Generator().manual_seed(seed))
    tokens = torch.tensor([history])
    expected = RepetitionPenaltyLogitsProcessor(penalty)(tokens, scores.clone())
    if size:
        expected = NoRepeatNGramLogitsProcessor(size)(tokens, expected)
    options = SearchOptions(repetition_penalty=penalty, no_repeat_ngram_size=size)
    before = scores.clone()
    found = penalize(scores, [np.array(history)], [options])
    assert torch.equal(found, expected)
    assert torch.equal(scores, before)


def test_rows_have_histories_and_options_of_their_own():
    scores = torch.ones(3, 5)
    histories = [np.array([1, 2]), np.array([1, -1, 2, -1, 1]), np.array([], np.int64)]
    options = [SearchOptions(), SearchOptions(repetition_penalty=2.0), SearchOptions(no_repeat_ngram_size=1)]
    found = penalize(scores, histories, options).tolist()
    assert found == [[1.0] * 5, [1.0, 0.5, 0.5, 1.0, 1.0], [1.0] * 5]


def test_image_slots_are_no_words():
    """Two images that are each followed by the same word do not forbid it."""
    history, options = np.array([5, -1, -1, 6, 5, -1, -1]), SearchOptions(no_repeat_ngram_size=2)
    assert torch.isfinite(penalize(torch.zeros(1, 9), [history], [options])).all()


@pytest.fixture(scope="module")
def kosmos(data):
    task = tiny.task(data)
    model = tiny.model(task, seed=2)
    model.decoder.embed_tokens.weight.data *= 2
    return Generator(model, task.vocabulary, task.sample_builder)


def by_transformers_rules(kosmos, text, length, penalty, size) -> list[int]:
    """Greedy search with transformers' processors on the logits of uncached passes."""
    tokens = kosmos.prompt(text).tokens.tolist()
    found: list[int] = []
    for _ in range(length):
        ids = torch.tensor([tokens + found])
        with torch.no_grad():
            logits = kosmos.model(ids, torch.ones_like(ids))[0][:, -1].float()
        logits[:, kosmos.vocabulary.pad] = -torch.inf
        logits = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits)
        logits = NoRepeatNGramLogitsProcessor(size)(ids, logits) if size else logits
        found.append(int(logits.argmax()))
        if found[-1] in (kosmos.vocabulary.eos, kosmos.vocabulary.image_begin):
            break
    return found


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize(("penalty", "size"), [(1.0, 1), (1.0, 2), (1.5, 0), (1.2, 3), (0.8, 0)])
def test_greedy_search_follows_them(kosmos, monkeypatch, static, penalty, size):
    monkeypatch.setattr(static_stepper, "uses_static_shapes", lambda device: static)
    texts = ["a red cat", "the"]
    options = {"repetition_penalty": penalty, "no_repeat_ngram_size": size, "max_new_tokens": 10}
    together = kosmos.generate(texts, details=True, **options)
    for text, generation in zip(texts, together, strict=True):
        assert list(generation.choices[0].tokens) == by_transformers_rules(kosmos, text, 10, penalty, size)


@pytest.mark.parametrize("static", [False, True])
def test_log_probabilities_are_the_model_s_own(kosmos, monkeypatch, static):
    """Whatever penalties did to the scores; for samples and for beams."""
    monkeypatch.setattr(static_stepper, "uses_static_shapes", lambda device: static)
    penalties = {"repetition_penalty": 2.0, "no_repeat_ngram_size": 2, "max_new_tokens": 6, "logprobs": True}
    for search in ({}, {"num_beams": 3, "n": 3}, {"do_sample": True, "temperature": 2.0, "n": 3, "seed": 1}):
        for choice in kosmos.generate("a red cat", **penalties, **search).choices:
            prompt = kosmos.prompt("a red cat").tokens.tolist()
            ids = torch.tensor([[*prompt, *choice.tokens]])
            with torch.no_grad():
                log_probs = kosmos.model(ids, torch.ones_like(ids))[0][0].float().log_softmax(-1)
            expected = [float(log_probs[len(prompt) - 1 + i, token]) for i, token in enumerate(choice.tokens)]
            assert [each.logprob for each in choice.logprobs] == pytest.approx(expected, abs=1e-3)
            assert choice.log_probability == pytest.approx(sum(expected), abs=1e-3)
            pairs = list(zip(choice.tokens, choice.tokens[1:], strict=False))
            assert len(set(pairs)) == len(pairs)
