"""Prefill of a batch: common prefixes and images are computed once, with the results of each prompt by itself."""

import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kosmos_plugin.generation import prefill as prefill_module
from kosmos_plugin.generation.generator import Generator
from kosmos_plugin.generation.prefill import MIN_SHARED_PREFIX, prefill
from kosmos_plugin.models.batch_plan import BatchPlanner
from tests import tiny

RNG = random.Random(1)
IMAGES = [tiny.png(RNG) for _ in range(3)]
DEMONSTRATIONS, OTHER_DEMONSTRATIONS = (" ".join(tiny.sentence(RNG, (12, 12)) for _ in range(2)) for _ in range(2))


@pytest.fixture(scope="module")
def kosmos(data):
    task = tiny.task(data)
    model = tiny.model(task)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter, dtype=torch.float32)
    return Generator(model, task.vocabulary, task.sample_builder)


@pytest.fixture
def encoded(kosmos):
    """The number of images in each call of the vision encoder."""
    calls = []
    hook = kosmos.model.vision.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    yield calls
    hook.remove()


def assert_same_as_uncached(kosmos, prompts):
    """Assert that hidden states and a further step equal those of the whole prompts in uncached passes."""
    model, pad = kosmos.model, kosmos.vocabulary.pad
    state, last = prefill(model, prompts, pad)
    following = state.branch(range(len(prompts))).extend(torch.full((len(prompts), 1), 20))[:, 0]
    for prompt, hidden, next_hidden in zip(prompts, last, following, strict=True):
        tokens = torch.tensor([[*prompt.tokens, 20]])
        slots = torch.tensor([[*prompt.image_slots, False]])
        images = torch.stack([tiny.decode(image) for image in prompt.images]) if prompt.images else None
        plan = BatchPlanner("masked", pad, image_tokens=0)(torch.ones_like(tokens), len(prompt.images), slots)
        whole = model.decoder(model.embed(tokens[0], images, plan).unsqueeze(0), torch.ones_like(tokens))[0]
        torch.testing.assert_close(torch.stack((hidden, next_hidden)), whole[-2:], atol=1e-5, rtol=1e-5)
    return state


def few_shot(kosmos, image: bytes, queries: list[str]):
    text = f"<image> {DEMONSTRATIONS} <image>"
    return [kosmos.prompt(f"{text} {query}", [image, IMAGES[i % 2]], query) for i, query in enumerate(queries)]


@torch.no_grad()
def test_demonstrations_are_computed_once_and_images_encoded_once(kosmos, encoded):
    prompts = few_shot(kosmos, IMAGES[2], ["a cat", "the red house stands", "a", "a cat"])
    state = assert_same_as_uncached(kosmos, prompts)
    shared, own = state.cache.levels[:2]
    assert shared.rows == 1 and shared.length >= MIN_SHARED_PREFIX
    assert own.rows == 4 and shared.length + own.length == max(map(len, prompts))
    assert encoded[0] == 3, "of the eight images three are distinct"


@torch.no_grad()
def test_equal_words_about_other_images_are_not_shared(kosmos):
    """All image slots have the same token, so the images must be compared."""
    prompts = few_shot(kosmos, IMAGES[2], ["a cat"]) + few_shot(kosmos, IMAGES[0], ["a cat"])
    state = assert_same_as_uncached(kosmos, prompts)
    assert len(state.cache.levels) == 1


@torch.no_grad()
@pytest.mark.parametrize("ends", [["", "", ""], ["", " a cat", ""]])
def test_a_prompt_that_is_a_prefix_of_the_others(kosmos, ends):
    """Each has its last token to itself, from which the next is predicted."""
    text = f"{DEMONSTRATIONS} {DEMONSTRATIONS}"
    state = assert_same_as_uncached(kosmos, [kosmos.prompt(text + end) for end in ends])
    assert state.cache.levels[0].length == len(kosmos.prompt(text)) - 1


@torch.no_grad()
def test_each_group_of_adjacent_prompts_shares_its_prefix(kosmos, monkeypatch):
    """The contexts of two items' candidates, with an item of one context between them."""
    monkeypatch.setattr(prefill_module, "MIN_SHARED_PREFIX", 8)
    texts = [f"{DEMONSTRATIONS} cat", f"{DEMONSTRATIONS} dog", "river"]
    texts += [f"{OTHER_DEMONSTRATIONS} {end} car" for end in ("a", "the", "")]
    state = assert_same_as_uncached(kosmos, [kosmos.prompt(text) for text in texts])
    shared, own = state.cache.levels[:2]
    assert shared.rows == 3 and own.parents == [0, 0, 1, 2, 2, 2]
    assert own.length < 8, "the demonstrations of neither group are read again"


@torch.no_grad()
def test_a_short_prefix_does_not_break_up_a_group_with_a_long_one(kosmos, monkeypatch):
    """All six share a short prefix; the three of an item share a far longer one."""
    monkeypatch.setattr(prefill_module, "MIN_SHARED_PREFIX", 3)
    middles = [DEMONSTRATIONS, OTHER_DEMONSTRATIONS]
    texts = [f"the red house {middle} {end}" for middle in middles for end in ("a", "of", "by")]
    state = assert_same_as_uncached(kosmos, [kosmos.prompt(text) for text in texts])
    assert state.cache.levels[1].parents == [0, 0, 0, 1, 1, 1]


WORDS = st.lists(st.sampled_from(["<image>", "a cat", "the river", "slowly"]), max_size=5)


@torch.no_grad()
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 3), WORDS), min_size=1, max_size=6),
    st.sampled_from([3, 8, MIN_SHARED_PREFIX]),
    st.randoms(use_true_random=False),
)
def test_any_batch_equals_uncached_passes(kosmos, monkeypatch, drawn, shortest, rng):
    monkeypatch.setattr(prefill_module, "MIN_SHARED_PREFIX", shortest)
    prefixes = ["", DEMONSTRATIONS, f"{DEMONSTRATIONS[:60]} house", OTHER_DEMONSTRATIONS]
    prompts = []
    for number, words in drawn:
        text = " ".join([prefixes[number], *words])
        prompts.append(kosmos.prompt(text, [rng.choice(IMAGES) for _ in range(text.count("<image>"))]))
    assert_same_as_uncached(kosmos, prompts)
