"""A conversation answers like `generate` after the whole transcript, and reads and encodes nothing twice."""

import random

import pytest

from kosmos_plugin.data.documents import Document
from kosmos_plugin.errors import UserError
from kosmos_plugin.generation import static_stepper
from kosmos_plugin.generation.beam_search import SearchOptions, generated_text
from kosmos_plugin.generation.generator import Generator
from tests import tiny

RNG = random.Random(4)
FIRST, SECOND = tiny.png(RNG), tiny.png(RNG)
TURNS = [("<image> the red cat", [FIRST]), ("a house", []), ("and <image> <image>", [SECOND, FIRST]), ("runs", [])]


@pytest.fixture(scope="module", params=[0, 1])
def kosmos(request, data):
    task = tiny.task(data)
    model = tiny.model(task, seed=request.param)
    model.decoder.embed_tokens.weight.data *= 3
    return Generator(model, task.vocabulary, task.sample_builder)


@pytest.mark.parametrize(
    "options",
    [{"max_new_tokens": 4}, {"max_new_tokens": 4, "num_beams": 3}, {"max_new_tokens": 5, "stop": ("cat", "a", "s")}],
)
@pytest.mark.parametrize("static", [False, True])
def test_answers_are_those_to_the_whole_transcript(kosmos, options, static, monkeypatch):
    monkeypatch.setattr(static_stepper, "uses_static_shapes", lambda device: static)
    conversation = kosmos.chat()
    answers = []
    for text, images in TURNS:
        answers.append(conversation.ask(text, images, **options))
        said = conversation.segments[:-1] if answers[-1] else conversation.segments
        transcript = kosmos.sample_builder.prompt(Document("transcript", tuple(said)))
        [found] = kosmos.search([transcript], SearchOptions(**options))
        assert answers[-1] == generated_text(kosmos.vocabulary, found, options.get("stop", ()))
    assert any(answers)


def test_a_transcript_in_words_gives_the_same(kosmos):
    conversation = kosmos.chat()
    said, images = "", []
    for text, of_turn in TURNS:
        answer = conversation.ask(text, of_turn, max_new_tokens=4)
        said, images = f"{said} {text}", images + of_turn
        assert answer == kosmos.generate(said, images, max_new_tokens=4)
        said = f"{said} {answer}"


def test_a_turn_reads_its_own_tokens_and_encodes_its_new_images(kosmos):
    read, encoded = [], []
    hooks = [
        kosmos.model.decoder.layers[0].register_forward_hook(lambda module, args, output: read.append(args[0].size(1))),
        kosmos.model.vision.register_forward_hook(lambda module, args, output: encoded.append(len(args[0]))),
    ]
    conversation = kosmos.chat()
    longest, unread = [], 1  # `<s>`
    for text, images in TURNS:
        read.clear()
        answer = conversation.ask(text, images, max_new_tokens=3)
        own = len(kosmos.prompt(text, images)) - 1
        longest.append((max(read), own + unread))
        unread = len(kosmos.vocabulary.encode(answer))
    for hook in hooks:
        hook.remove()
    assert all(found == expected for found, expected in longest), longest
    assert encoded == [1, 1], "each of the two images once"


def test_what_does_not_fit_is_refused_and_leaves_the_conversation_as_it_was(kosmos):
    conversation, other = kosmos.chat(), kosmos.chat()
    for talk in (conversation, other):
        talk.ask("<image> the cat", [FIRST], max_new_tokens=4)
    with pytest.raises(UserError, match="start a new conversation"):
        conversation.ask("a cat", max_new_tokens=tiny.TOKENS_PER_SAMPLE)
    with pytest.raises(UserError, match="takes 64"):
        conversation.ask("a cat " * 50, max_new_tokens=1)
    with pytest.raises(UserError, match="cannot be read"):
        conversation.ask("a cat <image> <image>", [SECOND, b"no image"], max_new_tokens=1)
    with pytest.raises(UserError, match="needs text or an image"):
        conversation.ask("  ", max_new_tokens=1)
    assert len(conversation.segments) == len(other.segments)
    assert conversation.ask("a house", max_new_tokens=4) == other.ask("a house", max_new_tokens=4)


def test_a_long_conversation_ends_with_an_error(kosmos):
    conversation = kosmos.chat()
    with pytest.raises(UserError, match="start a new conversation"):
        for _ in range(tiny.TOKENS_PER_SAMPLE):
            conversation.ask("a cat", max_new_tokens=2)
    said = kosmos.sample_builder.prompt(Document("transcript", tuple(conversation.segments)))
    assert tiny.TOKENS_PER_SAMPLE - 10 < len(said) <= tiny.TOKENS_PER_SAMPLE
