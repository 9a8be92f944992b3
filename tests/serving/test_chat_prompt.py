"""Messages as texts and images in their order."""

import pytest

from kosmos_plugin.generation.template import Template, template_of
from kosmos_plugin.serving.chat_prompt import ImageReference, segments_of
from kosmos_plugin.serving.protocol import ChatRequest

IMAGE = {"type": "image_url", "image_url": {"url": "data:,a"}}


def segments(template, *messages):
    """(role, content) → texts, and "#" for each image."""
    request = ChatRequest(messages=[{"role": role, "content": content} for role, content in messages])
    found = segments_of(request.messages, template if isinstance(template, Template) else template_of(template))
    return ["#" if isinstance(part, ImageReference) else part for part in found]


def text(content):
    return {"type": "text", "text": content}


CONVERSATION = (
    ("system", " Be brief. "),
    ("user", [IMAGE, text("what is this?")]),
    ("assistant", "a cat"),
    ("user", "which color?"),
)


def test_plain():
    assert segments("plain", *CONVERSATION) == ["Be brief.", "#", "what is this?", "a cat", "which color?"]


def test_question_answer():
    assert segments("question-answer", *CONVERSATION) == [
        "Be brief.",
        "#",
        "Question: what is this? Answer:",
        "a cat",
        "Question: which color? Answer:",
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([IMAGE], ["#"]),
        ("", []),
        (None, []),
        ([text("a"), IMAGE, text("b")], ["Question: a", "#", "b Answer:"]),
        ([text("a"), IMAGE], ["Question: a", "#", "Answer:"]),
        ([text("a"), text("b")], ["Question: a", "b Answer:"]),
        ("Question: a Answer:", ["Question: a Answer:"]),
        ("Question: a", ["Question: a Answer:"]),
        ([{"type": "refusal", "refusal": "no"}], ["Question: no Answer:"]),
        ("an <image> in words", ["Question: an <image> in words Answer:"]),
        ([{"type": "image_url", "image_url": "data:,a"}], ["#"]),
    ],
)
def test_turns_in_the_form_of_a_question(content, expected):
    assert segments("question-answer", ("user", content)) == expected


def test_an_answer_that_is_begun():
    assert segments("question-answer", ("user", [IMAGE]), ("assistant", "An image of")) == ["#", "An image of"]


@pytest.mark.parametrize(("form", "expected"), [("{text}", "a"), ("say: {text}", "say: a"), ("{text} =>", "a =>")])
def test_other_forms(form, expected):
    assert segments(Template(form), ("user", "a")) == [expected]


def test_the_beginning_of_a_conversation_stays_the_same():
    for number in range(1, len(CONVERSATION)):
        part, whole = (segments("question-answer", *messages) for messages in (CONVERSATION[:number], CONVERSATION))
        assert whole[: len(part)] == part
