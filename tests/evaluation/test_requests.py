"""Which choice is the likeliest, and what a prompt looks like."""

import random

from hypothesis import given
from hypothesis import strategies as st

from kosmos_plugin.evaluation.requests import Choice, Choose, images_of, prompts_of, shown
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
    """As in lm_eval, where an ending of HellaSwag may begin with a space of its own."""
    assert choose(" ab", "  a").best([-2.0, -1.99], by_length=True) == "1"
    assert choose(" äöü", " abcd").best([-3.0, -3.5], by_length=True) == "1", "characters, not bytes"


@given(st.lists(st.floats(-100, -0.01), min_size=2, max_size=6))
def test_choices_of_equal_length_rank_alike_both_ways(log_probabilities):
    request = choose(*(f" {letter}" for letter in "abcdef"[: len(log_probabilities)]))
    assert request.best(log_probabilities, by_length=True) == request.best(log_probabilities, by_length=False)


def test_prompts_and_images_are_each_named_once():
    matrix = parse_prompt("Here is <image> and <image>", [tiny.png(RNG), tiny.png(RNG)]).segments
    other = (*matrix[:-1], parse_prompt("<image>", [tiny.png(RNG)]).segments[0])
    request = Choose((Choice(matrix, " Yes", "a"), Choice(matrix, " No", "b"), Choice(other, " Yes", "c")))
    assert prompts_of(request) == [matrix, other]
    assert images_of(request) == [matrix[1], matrix[3], other[3]]
    assert shown(matrix) == "Here is <image> and <image>"
