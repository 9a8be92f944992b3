"""Sampling draws what the softmax says, keeps the tokens that transformers keeps, and is reproduced by its seed."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from kosmos_plugin.errors import UserError
from kosmos_plugin.generation import static_stepper
from kosmos_plugin.generation.beam_search import generate
from kosmos_plugin.generation.options import SearchOptions
from kosmos_plugin.generation.sampling import Filters, Sampler, draw, kept_tokens, likeliest_token, uniform_numbers
from kosmos_plugin.generation.token_trie import TokenTrie

DRAWS = 20_000
CPU = torch.device("cpu")
FIRST = torch.zeros(1, dtype=torch.int64)  # one row, of the first sequence


def sampling(**options) -> SearchOptions:
    return SearchOptions(**{"do_sample": True, "max_new_tokens": 8, **options})


def one_sampler(**options) -> Sampler:
    return Sampler([sampling(**options)], [0], CPU)


def assert_drawn_from(tokens: torch.Tensor, probs: torch.Tensor) -> None:
    """Pearson's chi-square test: its statistic is near the number of degrees of freedom."""
    expected = probs * len(tokens)
    found = tokens.bincount(minlength=len(probs)).double()
    assert not found[expected == 0].any()
    found, expected = found[expected > 0], expected[expected > 0]
    freedom = len(expected) - 1
    statistic = float(((found - expected) ** 2 / expected).sum())
    assert abs(statistic - freedom) < 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.5}, {"top_k": 7}, {"top_p": 0.6}, {"min_p": 0.2}])
def test_frequencies_are_the_softmax(options):
    torch.manual_seed(1)
    log_probs = torch.randn(20).log_softmax(-1)
    options = sampling(**options)
    tokens, probs = kept_tokens(log_probs[None], Filters.of([options], CPU))
    expected = torch.zeros(20, dtype=torch.float64).scatter(0, tokens[0], probs[0])
    sampler = Sampler([replace(options, max_new_tokens=1)] * DRAWS, [0] * DRAWS, CPU)
    drawn = sampler(log_probs.expand(DRAWS, -1), torch.arange(DRAWS), 0)
    assert_drawn_from(drawn, expected / expected.sum())


@pytest.mark.slow
def test_seeds_draw_from_the_softmax_too():
    log_probs = torch.tensor([[0.5, 0.2, 0.15, 0.1, 0.05]]).log()
    for step in (0, 5):
        drawn = torch.cat([one_sampler(seed=seed)(log_probs, FIRST, step) for seed in range(DRAWS)])
        assert_drawn_from(drawn, log_probs[0].double().exp())


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    temperature=st.floats(0.05, 5),
    top_k=st.integers(0, 40),
    top_p=st.floats(0, 1),
    min_p=st.floats(0, 1),
)
def test_kept_tokens_are_those_of_transformers(seed, temperature, top_k, top_p, min_p):
    log_probs = (3 * torch.randn(2, 30, generator=torch.Generator().manual_seed(seed))).log_softmax(-1)
    warpers = [TemperatureLogitsWarper(temperature)]
    warpers += [TopKLogitsWarper(top_k)] if top_k else []
    warpers += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    warpers += [MinPLogitsWarper(min_p)] if min_p > 0 else []
    scores = log_probs
    for warper in warpers:
        if isinstance(warper, TopPLogitsWarper):  # a sum at the border is rounded in another order
            sums = scores.softmax(-1).sort(descending=True).values.cumsum(-1)
            assume((sums - top_p).abs().min() > 1e-5 and top_p > 1e-5)
        scores = warper(None, scores)
    options = sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    tokens, probs = kept_tokens(log_probs, Filters.of([options] * 2, CPU))
    found = torch.zeros_like(log_probs).scatter(1, tokens, (probs / probs.sum(-1, keepdim=True)).float())
    torch.testing.assert_close(found, scores.softmax(-1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0}, {"temperature": 1e-42}])
def test_at_its_limit_the_likeliest_token_is_left(options):
    log_probs = torch.randn(50, 30).log_softmax(-1)
    log_probs[:, 3] = -torch.inf
    rows = torch.arange(50)
    drawn = Sampler([sampling(**options)] * 50, [0] * 50, CPU)(log_probs, rows, 0)
    assert torch.equal(drawn, likeliest_token(log_probs, rows, 0))


def test_a_token_without_probability_is_never_drawn():
    """Not even by the largest number below 1, which products round up."""
    log_probs = torch.randn(2000, 30).log_softmax(-1)
    log_probs[:, ::2] = -torch.inf
    uniform = torch.full((2000,), 1 - 2**-53, dtype=torch.float64)
    assert (draw(log_probs, Filters.of([sampling()] * 2000, CPU), uniform) % 2 == 1).all()


@pytest.mark.parametrize("static", [False, True])
def test_a_seed_gives_the_same_text_in_any_batch(kosmos, monkeypatch, static):
    monkeypatch.setattr(static_stepper, "uses_static_shapes", lambda device: False)
    prompts = [kosmos.prompt(text) for text in ("a red cat", "the", "a small cat sleeps near the river")]
    options = [sampling(seed=seed, max_new_tokens=12, temperature=3.0) for seed in range(4)]
    alone = [[kosmos.search([prompt], one)[0] for prompt in prompts] for one in options]
    monkeypatch.setattr(static_stepper, "uses_static_shapes", lambda device: static)
    for one, expected in zip(options, alone, strict=True):
        found = kosmos.search(prompts, one)
        assert [each.tokens for each in found] == [each.tokens for each in expected]
        assert [each.score for each in found] == pytest.approx([each.score for each in expected], abs=1e-3)
    assert len({each.tokens for one in alone for each in one}) > 8


@pytest.mark.parametrize("static", [False, True])
def test_draws_without_a_seed_differ(kosmos, monkeypatch, static):
    monkeypatch.setattr(static_stepper, "uses_static_shapes", lambda device: static)
    found = kosmos.search([kosmos.prompt("a red cat")] * 3, sampling(temperature=3.0))
    assert len({each.tokens for each in found}) > 1


@pytest.mark.parametrize("static", [False, True])
def test_each_of_n_samples_is_drawn_anew_and_the_same_in_any_batch(kosmos, monkeypatch, static):
    """The second of two samples is the second of five."""
    monkeypatch.setattr(static_stepper, "uses_static_shapes", lambda device: static)
    options = {"do_sample": True, "temperature": 3.0, "max_new_tokens": 10, "seed": 4}
    prompts = ["a red cat", "the", "a small cat sleeps near the river"]
    five = kosmos.generate(prompts, n=5, **options)
    assert all(len({choice.tokens for choice in generation.choices}) > 2 for generation in five)
    for prompt, generation in zip(prompts, five, strict=True):
        two = kosmos.generate(prompt, n=2, **options)
        assert [choice.tokens for choice in two.choices] == [choice.tokens for choice in generation.choices[:2]]
        assert kosmos.generate(prompt, **options) == generation.text


def test_draws_do_not_depend_on_how_many_tokens_may_follow():
    short, long = (uniform_numbers(sampling(seed=3, max_new_tokens=length)).random(length) for length in (3, 40))
    assert (short == long[:3]).all()


def test_without_a_seed_torch_s_decides(kosmos):
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(kosmos.generate("a red cat", do_sample=True, temperature=3.0, max_new_tokens=12))
    assert found[0] == found[1] != found[2]


def test_rows_of_one_batch_may_have_options_of_their_own():
    """Also greedy ones: each draws what it draws alone."""
    every = [sampling(temperature=0.0), sampling(seed=1), sampling(seed=2, top_k=3), sampling(seed=3, top_p=0.5)]
    scores = torch.randn(4, 30, generator=torch.Generator().manual_seed(0))
    together = Sampler(every, [0] * 4, CPU)
    for step in range(8):
        alone = [Sampler([one], [0], CPU)(scores[[row]], FIRST, step) for row, one in enumerate(every)]
        assert together(scores, torch.arange(4), step).tolist() == torch.cat(alone).tolist()
        assert alone[0] == scores[0].argmax()


def test_temperature_zero_is_greedy_search(kosmos):
    prompts = [kosmos.prompt("a red cat")]
    assert kosmos.search(prompts, sampling(temperature=0.0)) == kosmos.search(prompts, SearchOptions(max_new_tokens=8))


@pytest.mark.parametrize("static", [False, True])
def test_only_allowed_texts_are_drawn(kosmos, monkeypatch, static):
    monkeypatch.setattr(static_stepper, "uses_static_shapes", lambda device: static)
    allowed = [(5, 6, kosmos.vocabulary.eos), (5, 7, 8, kosmos.vocabulary.eos), (9, kosmos.vocabulary.eos)]
    prompts = [kosmos.prompt("a")] * 40
    found = generate(kosmos.model, kosmos.vocabulary, prompts, sampling(temperature=50.0), TokenTrie(allowed))
    assert {each.tokens for each in found} == set(allowed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature must be at least 0, not -1.0"),
        ({"temperature": float("nan")}, "temperature must be at least 0, not nan"),
        ({"temperature": float("inf")}, "temperature must be at least 0, not inf"),
        ({"top_p": 1.5}, "top_p is a probability, from 0 to 1, not 1.5"),
        ({"min_p": float("nan")}, "min_p must be at least 0, not nan"),
        ({"top_k": -1}, "top_k must be at least 0, not -1"),
        ({"seed": -(2**63) - 1}, "seed must be a number of 64 bits"),
        ({"seed": 2**64}, "seed must be a number of 64 bits"),
        ({"do_sample": False, "top_p": 0.9}, "top_p=0.9 is for sampling: give do_sample too"),
        ({"do_sample": False, "n": 2}, "n=2 texts need do_sample, or num_beams of at least 2"),
        ({"num_beams": 2}, "Beam search does not sample"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(UserError, match=message):
        sampling(**options)
