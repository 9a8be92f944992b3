"""Table 21's formats, token by token, and targets by the rules in the module's docstring."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kosmos_plugin.data.documents import BrokenRecord, Document, Image, Text
from kosmos_plugin.data.samples import SampleBuilder
from kosmos_plugin.errors import UserError
from tests import tiny


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    return tiny.write_vocabulary(tmp_path_factory.mktemp("samples") / "vocabulary")


def an_image(name: str = "") -> Image:
    def read():
        raise AssertionError(f"formatting a sample must not read the image {name}")

    return Image(read)


def words(vocabulary, sample):
    return [vocabulary.symbol(token) for token in sample.tokens]


def pieces(vocabulary, text):
    return [vocabulary.symbol(token) for token in vocabulary.encode(text)]


E = ["<mask>"] * 3


@pytest.mark.parametrize("end", [True, False], ids=["sample", "prompt"])
def test_table_21(vocabulary, end):
    def formatted(*segments):
        make = SampleBuilder(vocabulary, 3, 100)
        document = Document("name", segments)
        sample = (make.sample if end else make.prompt)(document)
        assert sample.id == "name"
        assert sample.images == tuple(segment for segment in segments if isinstance(segment, Image))
        assert (sample.tokens.dtype, sample.targets.dtype, sample.image_slots.dtype) == (np.int64, np.int64, bool)
        assert len(sample) == len(sample.tokens) == len(sample.targets) == len(sample.image_slots)
        return words(vocabulary, sample)

    eos = ["</s>"] if end else []
    this, that = "This is WALL-E.", "This is EVE."
    assert formatted(Text("the red dog")) == ["<s>", *pieces(vocabulary, "the red dog"), *eos]
    assert formatted(an_image(), Text(this)) == ["<s>", "<image>", *E, "</image>", *pieces(vocabulary, this), *eos]
    assert formatted(an_image(), Text(this), an_image(), Text(that)) == [
        *["<s>", "<image>", *E, "</image>", *pieces(vocabulary, this)],
        *["<image>", *E, "</image>", *pieces(vocabulary, that), *eos],
    ]


def test_targets_of_a_caption(vocabulary):
    sample = SampleBuilder(vocabulary, 3, 100).sample(Document("", (an_image(), Text("red dog"))))
    caption = pieces(vocabulary, "red dog")
    pad = "<pad>"
    assert [vocabulary.symbol(target) for target in sample.targets] == [
        *[pad, pad, pad, pad, pad],  # at <s>, whose <image> is the form of all captions, <image> and the three slots
        *caption,  # at </image> and all but the last of the caption
        "</s>",
        pad,
    ]
    assert sample.image_slots.tolist() == [False, False, True, True, True, False, *[False] * (len(caption) + 1)]


SEGMENTS = st.lists(
    st.one_of(
        st.just(None),  # an image
        st.tuples(st.lists(st.sampled_from(tiny.WORDS), min_size=1, max_size=4).map(" ".join), st.booleans()),
    ),
    min_size=1,
    max_size=8,
)


@settings(deadline=None, max_examples=150)
@given(segments=SEGMENTS, image_tokens=st.integers(1, 5))
def test_targets_by_the_rules(vocabulary, segments, image_tokens):
    sample_builder = SampleBuilder(vocabulary, image_tokens, 10_000)
    document = Document("", tuple(an_image() if segment is None else Text(*segment) for segment in segments))
    if not any(segment is not None and segment[1] for segment in segments):  # no text in the loss
        with pytest.raises(BrokenRecord):
            sample_builder.sample(document)
        return

    # each token as (id, whether it is a slot, whether its text is in the loss)
    laid = [(vocabulary.bos, False, True)]
    text_in_loss = True
    for segment in segments:
        if segment is None:
            laid.append((vocabulary.image_begin, False, True))
            laid += [(vocabulary.image_slot, True, True)] * image_tokens
            laid.append((vocabulary.image_end, False, True))
        else:
            text, text_in_loss = segment
            laid += [(token, False, text_in_loss) for token in vocabulary.encode(text)]
    laid.append((vocabulary.eos, False, text_in_loss))  # the end belongs to the text before it
    targets = []
    for position, (_, is_slot, _) in enumerate(laid):
        if position + 1 == len(laid):
            targets.append(vocabulary.pad)
            continue
        following, next_is_slot, next_in_loss = laid[position + 1]
        first_image = position == 0 and following == vocabulary.image_begin
        counts = next_in_loss and not is_slot and not next_is_slot and not first_image
        targets.append(following if counts else vocabulary.pad)

    sample = sample_builder.sample(document)
    assert sample.tokens.tolist() == [token for token, _, _ in laid]
    assert sample.image_slots.tolist() == [is_slot for _, is_slot, _ in laid]
    assert sample.targets.tolist() == targets
    prompt = sample_builder.prompt(document)
    assert prompt.tokens.tolist() == sample.tokens[:-1].tolist()


def test_text_outside_the_loss_is_read_but_not_a_target(vocabulary):
    question, answer = "the dog sleeps", "under a tree"
    segments = (an_image(), Text(question, in_loss=False), Text(answer))
    sample = SampleBuilder(vocabulary, 3, 100).sample(Document("", segments))
    assert pieces(vocabulary, question) == words(vocabulary, sample)[6 : 6 + len(pieces(vocabulary, question))]
    in_loss = [vocabulary.symbol(target) for target in sample.targets if target != vocabulary.pad]
    assert in_loss == [*pieces(vocabulary, answer), "</s>"]


def test_only_an_image_directly_after_bos_is_no_target(vocabulary):
    """KOSMOS-2's public code masks it in captions; that an image follows other content is to be learned."""

    def images_in_loss(*segments):
        sample = SampleBuilder(vocabulary, 3, 100).sample(Document("", (*segments, Text("a dog"))))
        return int((sample.targets == vocabulary.image_begin).sum())

    assert images_in_loss(an_image()) == 0
    assert images_in_loss(Text(""), an_image()) == 0  # a text without tokens
    assert images_in_loss(an_image(), an_image()) == 1
    assert images_in_loss(Text("red"), an_image()) == 1
    assert images_in_loss(an_image(), Text("red"), an_image()) == 1


def test_longest_sample_fits_and_one_token_more_is_broken(vocabulary):
    document = Document("", (an_image(), Text("the red dog")))
    length = len(SampleBuilder(vocabulary, 3, 100).sample(document))
    assert len(SampleBuilder(vocabulary, 3, length).sample(document)) == length
    with pytest.raises(BrokenRecord, match=f"{length} tokens .1 images of 5. do not fit in a row of {length - 1}"):
        SampleBuilder(vocabulary, 3, length - 1).sample(document)


def test_longest_prompt(vocabulary):
    document = Document("line 7", (an_image(), Text("the red dog")))
    length = len(SampleBuilder(vocabulary, 3, 100).prompt(document))
    assert len(SampleBuilder(vocabulary, 3, length).prompt(document)) == length
    with pytest.raises(UserError, match=f"line 7 has {length} tokens"):
        SampleBuilder(vocabulary, 3, length - 1).prompt(document)


@pytest.mark.parametrize(
    "segments",
    [(), (Text(""),), (Text(" \n"), an_image()), (an_image(),), (an_image(), Text("\u200b"))],
    ids=["nothing", "empty", "white space", "only an image", "a zero-width space"],
)
def test_nothing_to_learn_from_is_broken(vocabulary, segments):
    with pytest.raises(BrokenRecord, match="no text"):
        SampleBuilder(vocabulary, 3, 100).sample(Document("", segments))


def test_no_text_in_the_loss_is_broken(vocabulary):
    with pytest.raises(BrokenRecord, match="no text"):
        SampleBuilder(vocabulary, 3, 100).sample(Document("", (an_image(), Text("the dog", in_loss=False))))


def test_half_a_surrogate_is_broken(vocabulary):
    """JSON can spell it, UTF-8 cannot."""
    with pytest.raises(BrokenRecord, match="surrogate"):
        SampleBuilder(vocabulary, 3, 100).sample(Document("", (Text("a \ud83d dog"),)))
    with pytest.raises(UserError, match=r"line 7.*surrogate"):
        SampleBuilder(vocabulary, 3, 100).prompt(Document("line 7", (Text("a \ud83d dog"),)))


def test_prompts_may_be_empty_or_only_images(vocabulary):
    sample_builder = SampleBuilder(vocabulary, 3, 100)
    assert words(vocabulary, sample_builder.prompt(Document("", ()))) == ["<s>"]
    assert words(vocabulary, sample_builder.prompt(Document("", (an_image(),)))) == ["<s>", "<image>", *E, "</image>"]
