"""Text as it is generated: the same as the whole, never half a character, never a part of a stop text."""

import pytest
import regex
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kosmos_plugin.generation.text_stream import TextStream, text_of
from kosmos_plugin.vocabulary import Vocabulary, write_dictionary, write_encoding

FAMILY, FLAG, THUMB, ACCENT = "👩‍👩‍👧‍👦", "🇩🇪", "👍🏽", "e\u0301"


@pytest.fixture(scope="module", params=["spaces", "identity"])
def vocabulary(request, tmp_path_factory):
    """A vocabulary that spells what it does not know in bytes, and keeps lines."""
    folder = tmp_path_factory.mktemp("stream") / "vocabulary"
    folder.mkdir()
    options = {}
    if request.param == "identity":
        options = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    with open(folder / "sentencepiece.model", "wb") as model:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["the dog runs", "the cat sleeps: Question Answer."] * 50),
            model_writer=model,
            vocab_size=330,
            hard_vocab_limit=False,
            byte_fallback=True,
            minloglevel=2,
            **options,
        )
    write_dictionary(folder)
    write_encoding(folder)
    return Vocabulary.load(folder)


def shown(vocabulary, tokens, stop=()) -> tuple[list[str], TextStream]:
    """The parts that a stream shows."""
    stream = TextStream(vocabulary, stop)
    parts = [stream.add(token) for token in tokens]
    return [part for part in (*parts, stream.end()) if part], stream


TEXTS = st.lists(
    st.sampled_from(
        ["the dog", " runs", "cat", " ", "\n", "é", ACCENT, "世界", "한", "क्षि", FAMILY, FLAG, THUMB, "\u200d"]
    ),
    max_size=12,
).map("".join)


@settings(max_examples=300, deadline=None)
@given(text=TEXTS, ids=st.lists(st.integers(4, 300), max_size=6))
@example(text=f"the {FAMILY}\ncat {FLAG}{FLAG} {ACCENT}", ids=[])
def test_the_parts_are_the_text_and_whole_characters(vocabulary, text, ids):
    tokens = [*vocabulary.encode(text), *[token % len(vocabulary) for token in ids]]
    parts, _ = shown(vocabulary, tokens)
    whole = text_of(vocabulary, tokens)
    assert "".join(parts) == whole == whole.strip()
    assert [mark for part in parts for mark in regex.findall(r"\X", part)] == regex.findall(r"\X", whole)


@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_it_is_what_sentencepiece_decodes(vocabulary, text):
    tokens = vocabulary.encode(text)
    assert text_of(vocabulary, tokens) == vocabulary.decode(tokens).strip()


@settings(max_examples=300, deadline=None)
@given(ids=st.lists(st.integers(0, 10_000), max_size=20))
def test_any_tokens_are_what_sentencepiece_decodes(vocabulary, ids):
    """But for bytes that are no character, of which each decoder makes a number of its own of replacements."""
    tokens = [token % len(vocabulary) for token in ids]
    expected, found = vocabulary.decode(tokens), text_of(vocabulary, tokens)
    if "\ufffd" not in expected:
        assert found == expected.strip()


def test_half_a_character_at_the_end_is_left_out(vocabulary):
    tokens = vocabulary.encode("the 世")
    assert text_of(vocabulary, tokens) == "the 世"
    for missing in (1, 2):
        assert text_of(vocabulary, tokens[:-missing]) == "the"
    assert text_of(vocabulary, [*tokens[:-1], *vocabulary.encode("cat")]) == "the \ufffd cat"


def test_words_are_shown_as_they_come(vocabulary):
    parts, _ = shown(vocabulary, vocabulary.encode("the dog runs and the cat sleeps"))
    assert len(parts) > 3


@settings(max_examples=300, deadline=None)
@given(
    text=TEXTS, stop=st.lists(st.sampled_from(["dog", "g r", "cat", "\n", "世", "runs the", " c", FLAG]), max_size=3)
)
def test_stop_texts_are_cut_whole(vocabulary, text, stop):
    """Wherever tokens begin: nothing of them is shown, and all that is before is."""
    tokens = vocabulary.encode(text)
    parts, stream = shown(vocabulary, tokens, stop)
    # The first token that completes a stop text ends the text before the first one in it.
    for count in range(len(tokens) + 1):
        raw = raw_text(vocabulary, tokens[:count])
        starts = [raw.find(mark) for mark in stop if mark in raw]
        if starts:
            assert "".join(parts) == raw[: min(starts)].strip()
            assert stream.stopped_by in stop
            return
    assert stream.stopped_by is None
    assert "".join(parts) == text_of(vocabulary, tokens)


def raw_text(vocabulary, tokens) -> str:
    """Before whitespace at its ends is left out, without half a character."""
    stream = TextStream(vocabulary)
    data = b"".join(stream._bytes_of(token) for token in tokens)
    return data.decode(errors="ignore")


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("the dog runs", ("dog",), "the"),
        ("the dog runs", ("dog", "he"), "t"),
        ("the dog runs", (" the", " "), "the"),
        ("the dog runs", ("runs the",), "the dog runs"),
        ("the dog\n\ncat", ("\n\n",), "the dog"),
        (f"the {FAMILY} cat", (FAMILY,), "the"),
    ],
)
def test_stop_texts(vocabulary, text, stop, expected):
    assert text_of(vocabulary, vocabulary.encode(text), stop) == expected


def test_nothing_follows_a_stop_text(vocabulary):
    stream = TextStream(vocabulary, ("dog",))
    for token in vocabulary.encode("the dog"):
        stream.add(token)
    assert stream.stopped_by == "dog"
    assert [stream.add(token) for token in vocabulary.encode("runs")] == [""] * len(vocabulary.encode("runs"))
    assert stream.end() == ""
