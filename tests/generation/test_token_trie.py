"""Constrained decoding never gives an impossible text, and gives the best possible one if the beam is wide enough."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kosmos_plugin.generation.beam_search import SearchOptions, generate
from kosmos_plugin.generation.generator import Generator
from kosmos_plugin.generation.likelihood import score_batch
from kosmos_plugin.generation.token_trie import TokenTrie
from tests import tiny

SEQUENCES = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=5), min_size=1, max_size=12)


@pytest.fixture(scope="module", params=[0, 1])
def kosmos(request, data):
    task = tiny.task(data)
    model = tiny.model(task, seed=request.param)
    model.decoder.embed_tokens.weight.data *= 3
    return Generator(model, task.vocabulary, task.sample_builder)


def names_of(kosmos, rng: random.Random, count: int) -> dict[tuple[int, ...], str]:
    """Tokens → name, for names of one to four words, some of which are prefixes of others."""
    names = {" ".join(rng.choice(tiny.WORDS[:12]) for _ in range(rng.randint(1, 4))) for _ in range(count)}
    return {(*kosmos.vocabulary.encode(name), kosmos.vocabulary.eos): name for name in sorted(names)}


def constrained(kosmos, prompts, names, beam, length_penalty=1.0):
    trie = TokenTrie(names)
    return generate(kosmos.model, kosmos.vocabulary, prompts, SearchOptions(beam, trie.longest, length_penalty), trie)


def prompts_of(kosmos, rng: random.Random):
    texts = ["<image> the", "a red cat", "<image>"]
    return [kosmos.prompt(text, [tiny.png(rng)] * text.count("<image>")) for text in texts]


@given(SEQUENCES, st.lists(st.integers(0, 4), max_size=5))
def test_what_may_follow_is_what_follows_in_some_sequence(sequences, path):
    trie = TokenTrie(sequences)
    begun = [sequence for sequence in sequences if sequence[: len(path)] == path]
    assert trie.longest == max(map(len, sequences))
    if begun:
        following = trie.next_tokens(path)
        assert len(set(following)) == len(following)
        assert set(following) == {sequence[len(path)] for sequence in begun if len(sequence) > len(path)}


@given(SEQUENCES, st.data())
def test_the_mask_leaves_the_values_of_what_may_follow(sequences, data):
    trie = TokenTrie(sequences)
    paths = [sequence[: data.draw(st.integers(0, len(sequence) - 1))] for sequence in sequences]
    log_probs = torch.randn(len(paths), 5)
    masked = trie.mask(log_probs, paths)
    for row, path in enumerate(paths):
        allowed = trie.next_tokens(path)
        assert torch.equal(masked[row, allowed], log_probs[row, allowed])
        assert masked[row].isinf().sum() == 5 - len(allowed)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), num_beams=st.integers(1, 5), count=st.integers(1, 40))
def test_never_an_impossible_name(kosmos, seed, beam, count):
    rng = random.Random(seed)
    names = names_of(kosmos, rng, count)
    for found in constrained(kosmos, prompts_of(kosmos, rng), names, beam):
        assert found.tokens in names


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(1, 30), length_penalty=st.sampled_from([0.0, 1.0]))
def test_a_beam_as_wide_as_there_are_names_finds_the_best_one(kosmos, seed, count, length_penalty):
    rng = random.Random(seed)
    names = names_of(kosmos, rng, count)
    prompts = prompts_of(kosmos, rng)
    tokens = list(names)
    scores = score_batch(kosmos.model, kosmos.vocabulary, prompts, [tokens] * len(prompts))
    found = constrained(kosmos, prompts, names, max(2, len(names)), length_penalty)
    for hypothesis, of_prompt in zip(found, scores, strict=True):
        best = max(score / len(name) ** length_penalty for score, name in zip(of_prompt, tokens, strict=True))
        assert hypothesis.score == pytest.approx(best, abs=1e-4)


def test_probabilities_are_the_models_own(kosmos):
    """They are not renormalized over the names."""
    rng = random.Random(4)
    prompt = prompts_of(kosmos, rng)[0]
    [name] = names_of(kosmos, rng, 1)
    [found] = constrained(kosmos, [prompt], [name], num_beams=1)
    [[score]] = score_batch(kosmos.model, kosmos.vocabulary, [prompt], [[name]])
    assert found.tokens == name and found.log_probability == pytest.approx(score, abs=1e-4) and score < -1
