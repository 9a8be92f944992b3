"""A conversation answers like `generate` after the whole transcript, and processes and encodes nothing twice."""

import random

import pytest

from kosmos_plugin.data.documents import Document
from kosmos_plugin.errors import UserError
from kosmos_plugin.generation import static_stepper
from kosmos_plugin.generation.beam_search import SearchOptions, generated_text
from kosmos_plugin.generation.conversation import INTRODUCTION, ConversationFull
from kosmos_plugin.generation.generator import Generator
from kosmos_plugin.generation.template import template_of
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


@pytest.fixture
def roomy(kosmos):
    """The same weights, with room for ten turns."""
    model = kosmos.model
    before, model.config.tokens_per_sample = model.config.tokens_per_sample, 512
    yield Generator(model, kosmos.vocabulary, type(kosmos.sample_builder)(kosmos.vocabulary, tiny.IMAGE_TOKENS, 512))
    model.config.tokens_per_sample = before


def after_the_transcript(kosmos, segments, **options) -> str:
    """The answer to a transcript as one prompt."""
    transcript = kosmos.sample_builder.prompt(Document("transcript", tuple(segments)))
    [found] = kosmos.search([transcript], SearchOptions(**options))
    return generated_text(kosmos.vocabulary, found, options.get("stop", ()))


class Reading:
    """Counts the positions that the decoder processes, and the images that the vision tower does."""

    def __init__(self, model):
        self.positions, self.images = 0, 0
        self.hooks = [
            model.decoder.layers[0].register_forward_hook(self._read),
            model.vision.register_forward_hook(self._encoded),
        ]

    def _read(self, module, args, output):
        self.positions += args[0].size(0) * args[0].size(1)

    def _encoded(self, module, args, output):
        self.images += len(args[0])

    def take(self) -> int:
        """The positions since the last call."""
        taken, self.positions = self.positions, 0
        return taken

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for hook in self.hooks:
            hook.remove()


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 4},
        {"max_new_tokens": 4, "num_beams": 3},
        {"max_new_tokens": 5, "stop": ("cat", "a", "s")},
        {"max_new_tokens": 5, "repetition_penalty": 1.7, "no_repeat_ngram_size": 2},
        {"max_new_tokens": 5, "do_sample": True, "temperature": 3.0, "seed": 5},
    ],
)
@pytest.mark.parametrize("static", [False, True])
def test_answers_are_those_to_the_whole_transcript(kosmos, options, static, monkeypatch):
    monkeypatch.setattr(static_stepper, "uses_static_shapes", lambda device: static)
    conversation = kosmos.chat()
    answers = []
    for text, images in TURNS:
        answers.append(conversation.ask(text, images, **options))
        said = conversation.segments[:-1] if answers[-1] else conversation.segments
        assert answers[-1] == after_the_transcript(kosmos, said, **options)
    assert any(answers)


def test_ten_turns_are_one_prompt_of_their_segments(roomy):
    conversation = roomy.chat()
    for number in range(10):
        text, images = TURNS[number % len(TURNS)]
        answer = conversation.ask(text, images, max_new_tokens=6)
        said = conversation.segments[:-1] if answer else conversation.segments
        assert answer == after_the_transcript(roomy, said, max_new_tokens=6)
    transcript = roomy.sample_builder.prompt(Document("transcript", tuple(conversation.segments)))
    ids = conversation._history
    assert (ids[ids >= 0] == transcript.tokens[: len(ids)][~transcript.image_slots[: len(ids)]]).all()
    assert conversation.length == len(transcript)


def test_a_transcript_in_words_gives_the_same(kosmos):
    conversation = kosmos.chat()
    said, images = "", []
    for text, of_turn in TURNS:
        answer = conversation.ask(text, of_turn, max_new_tokens=4)
        said, images = f"{said} {text}", images + of_turn
        assert answer == kosmos.generate(said, images, max_new_tokens=4)
        said = f"{said} {answer}"


@pytest.mark.parametrize("static", [False, True])
def test_a_turn_costs_its_own_tokens(kosmos, static, monkeypatch):
    """And of the answer before it what was not processed: its last token, or how a text is encoded otherwise.

    Each image is encoded once.
    """
    monkeypatch.setattr(static_stepper, "uses_static_shapes", lambda device: static)
    conversation = kosmos.chat()
    with Reading(kosmos.model) as reading:
        unread = 1  # `<s>`
        for text, images in TURNS:
            parts = conversation.stream(text, images, max_new_tokens=3)
            assert reading.take() == len(kosmos.prompt(text, images)) - 1 + unread
            assert "".join(parts) == conversation.turns[-1].answer
            turn = conversation.turns[-1]
            unread = len(kosmos.vocabulary.encode(turn.answer)) - turn.in_cache
            reading.take()
        assert reading.images == 2
        assert sum(turn.in_cache for turn in conversation.turns) > 0


def test_a_turn_is_answered_again_without_reading(kosmos):
    conversation = kosmos.chat()
    conversation.ask(*TURNS[0], max_new_tokens=4)
    first = conversation.ask(*TURNS[1], max_new_tokens=4)
    with Reading(kosmos.model) as reading:
        assert conversation.retry(max_new_tokens=4) == first
        assert reading.take() <= 3, "the tokens that are generated, but the first"
        assert "".join(conversation.stream_retry(max_new_tokens=4)) == first
    options = {"do_sample": True, "temperature": 5.0, "max_new_tokens": 4}
    assert len({conversation.retry(seed=seed, **options) for seed in range(8)}) > 1
    assert len(conversation.turns) == 2


def test_a_turn_is_edited(kosmos):
    conversation, straight = kosmos.chat(), kosmos.chat()
    for turn in TURNS[:3]:
        conversation.ask(*turn, max_new_tokens=3)
    straight.ask(*TURNS[0], max_new_tokens=3)
    with Reading(kosmos.model) as reading:
        edited = conversation.edit("a small dog", turn=1, max_new_tokens=3)
        assert reading.take() < 3 + len(kosmos.prompt("a small dog")) + 3 and reading.images == 0
    assert edited == straight.ask("a small dog", max_new_tokens=3)
    assert [turn.text for turn in conversation.turns] == ["<image> the red cat", "a small dog"]
    assert "".join(conversation.stream_edit("a small dog", max_new_tokens=3)) == edited
    kept = conversation.edit("a <image> house", turn=-2, max_new_tokens=3)  # with the images that it had
    assert kept == kosmos.chat().ask("a <image> house", FIRST, max_new_tokens=3)
    assert [turn.text for turn in conversation.undo()] == ["a <image> house"]
    assert conversation.segments == [] and conversation.length == 0
    assert conversation.ask(*TURNS[1], max_new_tokens=3) == kosmos.chat().ask(*TURNS[1], max_new_tokens=3)


@pytest.mark.parametrize("static", [False, True])
def test_a_stream_that_is_cancelled_leaves_what_it_gave(kosmos, static, monkeypatch):
    monkeypatch.setattr(static_stepper, "uses_static_shapes", lambda device: static)
    conversation = kosmos.chat()
    options = {"max_new_tokens": 12, "stop": "zzz"}  # a stop text: token by token
    parts = conversation.stream("the red cat", **options)
    given = next(parts)
    if static:
        parts.close()  # otherwise by the next turn
    answer = conversation.ask("a house", max_new_tokens=4)
    assert conversation.turns[0].answer == given and conversation.turns[0].finish_reason is None
    assert list(parts) == []
    said = conversation.segments[:-1] if answer else conversation.segments
    assert answer == after_the_transcript(kosmos, said, max_new_tokens=4)


def test_what_does_not_fit_is_refused_and_leaves_the_conversation_as_it_was(kosmos):
    for drop_oldest in (False, True):
        conversation, other = kosmos.chat(drop_oldest=drop_oldest), kosmos.chat()
        for talk in (conversation, other):
            talk.ask("<image> the cat", [FIRST], max_new_tokens=4)
        with pytest.raises(ConversationFull, match="start a new conversation"):
            conversation.ask("a cat", max_new_tokens=tiny.TOKENS_PER_SAMPLE)
        with pytest.raises(UserError, match="takes 64"):
            conversation.ask("a cat " * 50, max_new_tokens=1)
        with pytest.raises(UserError, match="cannot be read"):
            conversation.ask("a cat <image> <image>", [SECOND, b"no image"], max_new_tokens=1)
        with pytest.raises(UserError, match="needs text or an image"):
            conversation.ask("  ", max_new_tokens=1)
        with pytest.raises(UserError, match="takes 64"):
            conversation.edit("a cat " * 50, max_new_tokens=1)
        with pytest.raises(UserError, match="no turn 1"):
            conversation.edit("a cat", turn=1)
        with pytest.raises(UserError, match="2 cannot be taken back"):
            conversation.undo(2)
        with pytest.raises(UserError, match="one answer"):
            conversation.ask("a cat", n=2, do_sample=True)
        assert len(conversation.segments) == len(other.segments)
        assert conversation.ask("a house", max_new_tokens=4) == other.ask("a house", max_new_tokens=4)
    with pytest.raises(UserError, match="no turn to answer again"):
        kosmos.chat().retry()


def test_a_long_conversation_ends_with_an_error(kosmos):
    conversation = kosmos.chat()
    with pytest.raises(ConversationFull, match="start a new conversation"):
        for _ in range(tiny.TOKENS_PER_SAMPLE):
            conversation.ask("a cat", max_new_tokens=2)
    assert tiny.TOKENS_PER_SAMPLE - 10 < conversation.length <= tiny.TOKENS_PER_SAMPLE


def test_the_oldest_turns_are_dropped_where_that_was_asked_for(kosmos):
    conversation = kosmos.chat(drop_oldest=True)
    for number in range(20):
        answer = conversation.ask(f"<image> {number} the cat", FIRST, max_new_tokens=4)
        assert conversation.length <= tiny.TOKENS_PER_SAMPLE
        assert len(conversation.turns) + conversation.dropped == number + 1
        said = conversation.segments[:-1] if answer else conversation.segments
        assert answer == after_the_transcript(kosmos, said, max_new_tokens=4)
    assert 0 < conversation.dropped < 20


def test_with_a_chain_of_thought_images_are_described_first(kosmos):
    conversation = kosmos.chat(chain_of_thought=True)
    answer = conversation.ask("the <image> cat", FIRST, max_new_tokens=4)
    introduction, turn = conversation.turns
    rationale = kosmos.generate(f"<image> {INTRODUCTION}", FIRST, max_new_tokens=4)
    assert (introduction.answer, introduction.is_introduction) == (rationale, True)
    prompt = f"<image> {INTRODUCTION}{' ' * bool(rationale)}{rationale}"
    by_hand = kosmos.chat()
    assert by_hand.ask(f"<image> {INTRODUCTION}", FIRST, max_new_tokens=4) == rationale, prompt
    assert by_hand.ask("the cat", max_new_tokens=4) == answer == turn.answer
    conversation.ask("a house", max_new_tokens=4)
    assert len(conversation.turns) == 3, "nothing to describe"
    conversation.edit("a dog", turn=0, max_new_tokens=4)
    assert [turn.is_introduction for turn in conversation.turns] == [True, False]
    with pytest.raises(UserError):
        conversation.ask("a cat " * 30, SECOND, max_new_tokens=1)
    assert len(conversation.turns) == 2
    assert len(conversation.undo()) == 2 and conversation.turns == []


def test_templates(kosmos, tmp_path):
    assert template_of("plain").turn(" a cat ", 2) == "<image> <image> a cat"
    assert template_of("plain").turn("", 1) == "<image>"
    asked = template_of("question-answer")
    assert asked.turn("what is this?", 1) == "<image> Question: what is this? Answer:"
    assert asked.turn("is <image> like <image>?", 2) == "Question: is <image> like <image>? Answer:"
    (tmp_path / "mine.txt").write_text("Frage: {text}\nAntwort:\n")
    assert template_of(tmp_path / "mine.txt").turn("was?", 0) == "Frage: was?\nAntwort:"
    (tmp_path / "wrong.txt").write_text("Question: Answer:")
    for name, message in (
        ("question", "Did you mean 'question-answer'"),
        (tmp_path / "wrong.txt", "must have {text} once"),
        (tmp_path / "gone.txt", "does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            kosmos.chat(template=name)
    conversation = kosmos.chat(template="question-answer")
    answer = conversation.ask("the cat", FIRST, max_new_tokens=5)
    plain = kosmos.chat().ask("<image> Question: the cat Answer:", FIRST, max_new_tokens=5, stop="Question:")
    assert answer == plain
