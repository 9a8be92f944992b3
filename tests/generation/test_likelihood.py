"""Candidates of several prompts, in chunks: each has the score that it has from scratch."""

import random

import pytest
import torch

from kosmos_plugin.errors import UserError
from kosmos_plugin.generation import likelihood as scoring
from kosmos_plugin.generation.beam_search import SearchOptions
from kosmos_plugin.generation.generator import Generator
from kosmos_plugin.generation.likelihood import likelihoods, score_batch
from kosmos_plugin.generation.prefill import prefill
from tests import tiny


@pytest.fixture(scope="module")
def kosmos(data):
    task = tiny.task(data)
    model = tiny.model(task)
    model.decoder.embed_tokens.weight.data *= 3
    return Generator(model, task.vocabulary, task.sample_builder)


@torch.no_grad()
def from_scratch(kosmos, prompt, candidate):
    tokens = torch.tensor([[*prompt.tokens, *candidate]])
    slots = torch.zeros_like(tokens, dtype=torch.bool)
    slots[0, : len(prompt)] = torch.from_numpy(prompt.image_slots)
    images = torch.stack([tiny.decode(image) for image in prompt.images]) if prompt.images else None
    log_probs = kosmos.model(tokens, torch.ones_like(tokens), slots, images)[0][0].log_softmax(-1)
    return float(log_probs[len(prompt) - 1 : -1].gather(1, torch.tensor(candidate).unsqueeze(1)).sum())


@pytest.mark.parametrize(("tokens_at_once", "logits_at_once"), [(1024, 256), (7, 2), (1, 1)])
def test_candidates_of_several_prompts_score_as_from_scratch(kosmos, monkeypatch, tokens_at_once, logits_at_once):
    monkeypatch.setattr(scoring, "TOKENS_AT_ONCE", tokens_at_once)
    monkeypatch.setattr(scoring, "LOGITS_AT_ONCE", logits_at_once)
    rng = random.Random(3)
    image = tiny.png(rng)
    texts = ["a", "<image>", "the <image> red house <image> of", "a small cat sleeps near the river and the car"]
    prompts = [kosmos.prompt(text, [image] * text.count("<image>")) for text in texts]
    candidates = [
        [[rng.randint(4, 60) for _ in range(rng.randint(1, 6))] for _ in range(count)] for count in (5, 0, 1, 9)
    ]
    read = []
    hook = kosmos.model.decoder.layers[0].register_forward_hook(
        lambda module, args, output: read.append(args[0].size(1))
    )
    scores = score_batch(kosmos.model, kosmos.vocabulary, prompts, candidates)
    hook.remove()
    assert max(read[1:]) <= max(tokens_at_once, 5), "after the prompts, chunks, or one candidate that is longer"
    assert sum(read[1:]) == sum(len(candidate) - 1 for of_prompt in candidates for candidate in of_prompt)
    assert [len(of_prompt) for of_prompt in scores] == [5, 0, 1, 9]
    for prompt, of_prompt, found in zip(prompts, candidates, scores, strict=True):
        expected = [from_scratch(kosmos, prompt, candidate) for candidate in of_prompt]
        assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("logits_at_once", [256, 2])
def test_greedy_candidates_are_those_that_greedy_search_finds(kosmos, monkeypatch, logits_at_once):
    monkeypatch.setattr(scoring, "LOGITS_AT_ONCE", logits_at_once)
    image = tiny.png(random.Random(4))
    prompts = [kosmos.prompt(*prompt) for prompt in (("a", ()), ("<image> the red", [image]), ("the cat sees a", ()))]
    candidates = []
    for hypothesis in kosmos.search(prompts, SearchOptions(max_new_tokens=5)):
        *prefix, last = found = list(hypothesis.tokens)
        assert prefix
        candidates.append([found, found[:1], [*prefix, last + 1], [found[0] + 1, *found[1:]], [last + 1]])
    judged = likelihoods(kosmos.model, kosmos.vocabulary, prompts, candidates)
    assert [[likelihood.greedy for likelihood in of_prompt] for of_prompt in judged] == [[1, 1, 0, 0, 0]] * 3
    scores = score_batch(kosmos.model, kosmos.vocabulary, prompts, candidates)
    assert [[likelihood.log_probability for likelihood in of_prompt] for of_prompt in judged] == scores


def test_padding_is_never_the_likeliest(kosmos, monkeypatch):
    vocabulary, weight = kosmos.vocabulary, kosmos.model.decoder.embed_tokens.weight.detach().clone()
    prompt = kosmos.prompt("the cat")
    _, [hidden] = prefill(kosmos.model, [prompt], vocabulary.pad)
    weight[vocabulary.pad] = 100 * hidden / hidden.norm()
    monkeypatch.setattr(kosmos.model.decoder.embed_tokens.weight, "data", weight)
    [found] = kosmos.search([prompt], SearchOptions(max_new_tokens=2))
    [[likelihood]] = likelihoods(kosmos.model, vocabulary, [prompt], [[found.tokens]])
    assert found.log_probability < -20 and likelihood.greedy
    assert likelihood.log_probability == pytest.approx(found.log_probability, abs=1e-3)


def test_a_batch_of_texts_scores_as_each_prompt_by_itself(kosmos):
    rng = random.Random(5)
    image = tiny.png(rng)
    texts = [("<image> a", [image]), ("the red cat sees", [])]
    candidates = [["cat", "old house"], ["dog", "river", "a car"]]
    together = kosmos.score_batch([kosmos.prompt(*text) for text in texts], candidates)
    for text, of_prompt, found in zip(texts, candidates, together, strict=True):
        assert found == pytest.approx(kosmos.score(*text, of_prompt), abs=1e-4)


def test_candidates_that_cannot_be_scored_are_refused(kosmos):
    with pytest.raises(UserError, match="candidate 2 is empty"):
        kosmos.score("a", candidates=["cat", " "])
    with pytest.raises(UserError, match="longest candidate"):
        kosmos.score("a", candidates=["cat " * 70])
    with pytest.raises(UserError, match="a list of texts, not one text"):
        kosmos.score("a", candidates="cat")
    with pytest.raises(UserError, match="prompt: candidate 2 has half a surrogate pair"):
        kosmos.score("a", candidates=["cat", "\ud83d"])
    with pytest.raises(UserError, match="prompt: candidate 1 is a text, not of type int"):
        kosmos.score("a", candidates=[3])


def test_no_prompts(kosmos):
    assert kosmos.search([], SearchOptions()) == []
    assert kosmos.score_batch([], []) == []
