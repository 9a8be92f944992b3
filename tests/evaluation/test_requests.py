"""Requests: the likeliest choice, and the full prompt that the model reads."""

import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from kosmos_plugin.data.documents import Image, Text
from kosmos_plugin.evaluation.requests import (
    Choice,
    Choose,
    Generate,
    distinct_images,
    distinct_prompts,
    join,
    prompt_text,
    question,
)
from kosmos_plugin.generation.prompt import parse_prompt
from tests import tiny

RNG = random.Random(1)


def choose(*continuations: str) -> Choose:
    return Choose(tuple(Choice((), text, str(number)) for number, text in enumerate(continuations)))


def test_the_likeliest_by_sum_and_by_length():
    request = choose(" cat", " a small dog")
    assert request.best([-3.0, -4.0], by_length=False) == "0"
    assert request.best([-3.0, -4.0], by_length=True) == "1", "−3 / 3 and −4 / 11"


def test_of_equally_likely_choices_the_first_counts():
    assert choose(" a", " b", " c").best([-2.0, -1.0, -1.0], by_length=False) == "1"


def test_length_counts_all_but_the_one_space_before_a_continuation():
    """This is as in lm_eval; an ending of HellaSwag may start with a space of its own."""
    assert choose(" ab", "  a").best([-2.0, -1.99], by_length=True) == "1"
    assert choose(" äöü", " abcd").best([-3.0, -3.5], by_length=True) == "1", "characters, not bytes"


@given(st.lists(st.floats(-100, -0.01), min_size=2, max_size=6))
def test_choices_of_equal_length_rank_alike_both_ways(log_probabilities):
    request = choose(*(f" {letter}" for letter in "abcdef"[: len(log_probabilities)]))
    assert request.best(log_probabilities, by_length=True) == request.best(log_probabilities, by_length=False)


SEGMENTS = st.lists(
    st.one_of(st.sampled_from([Image(bytes, "a"), Image(bytes, "b")]), st.text("ab \n", max_size=6).map(Text)),
    max_size=4,
).map(tuple)


def flat(prompt) -> list:
    """The prompt as a list of characters and images."""
    return [one for segment in prompt for one in (segment.text if isinstance(segment, Text) else [segment])]


@given(st.lists(SEGMENTS, max_size=4))
def test_joined_prompts_keep_all_and_never_split_a_text_between_two(prompts):
    joined = join(*prompts)
    assert flat(joined) == [one for prompt in prompts for one in flat(prompt)]
    seams = [(a[-1], b[0]) for a, b in itertools.pairwise(prompt for prompt in prompts if prompt)]
    joints = sum(isinstance(one, Text) and isinstance(other, Text) for one, other in seams)
    assert len(joined) == sum(map(len, prompts)) - joints


def test_demonstrations_come_before_the_prompt_and_text_meets_text():
    """Separate segments would be tokenized separately, unlike lm_eval's prompts."""
    images = [Image(bytes, name) for name in "ab"]
    shown = (question("It is a cat", images[0]),)
    request = Generate(question("It is", images[1]), demonstrations=shown)
    assert request.full_prompt == (images[0], Text("It is a cat"), images[1], Text("It is"))
    assert prompt_text(request.full_prompt) == "<image> It is a cat <image> It is"
    texts = ((Text("1 is odd\n\n"),), (Text("2 is even\n\n"),))
    choices = (Choice((Text("3 is"),), " odd", "a"), Choice((Text("So 3 is"),), " even", "b"))
    ranked = Choose(choices, demonstrations=texts)
    assert ranked.full_prompt(choices[0]) == (Text("1 is odd\n\n2 is even\n\n3 is"),)
    assert distinct_prompts(ranked) == [ranked.full_prompt(choice) for choice in choices]
    assert distinct_images(ranked) == [] and distinct_images(request) == images


def test_prompts_and_images_are_each_named_once():
    matrix = parse_prompt("Here is <image> and <image>", [tiny.png(RNG), tiny.png(RNG)]).segments
    other = (*matrix[:-1], parse_prompt("<image>", [tiny.png(RNG)]).segments[0])
    request = Choose((Choice(matrix, " Yes", "a"), Choice(matrix, " No", "b"), Choice(other, " Yes", "c")))
    assert distinct_prompts(request) == [matrix, other]
    assert distinct_images(request) == [matrix[1], matrix[3], other[3]]
    assert prompt_text(matrix) == "Here is <image> and <image>"
