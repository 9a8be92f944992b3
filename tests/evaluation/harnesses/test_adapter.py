"""Shared by the adapters: prompts, options, contexts that are too long."""

import logging
import random

import numpy as np
import PIL.Image
import pytest
import torch

from kosmos_plugin.data.documents import Text
from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.harnesses.adapter import (
    Context,
    log_likelihoods,
    make_prompt,
    number_of_contexts,
    search_options,
    texts,
)
from kosmos_plugin.evaluation.requests import prompt_text
from kosmos_plugin.generation.beam_search import SearchOptions
from kosmos_plugin.images import decode_image
from tests import tiny
from tests.evaluation.harnesses.common import full_pass, of_last_tokens, picture, picture_file, sample_of


def question(text: str, *images: PIL.Image.Image) -> Context:
    return Context(text, tuple(map(id, images)), lambda: make_prompt(text, images))


def in_order(answers) -> list:
    answers = dict(answers)
    return [answers[number] for number in range(len(answers))]


def warnings_of(caplog) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("text", "images", "expected"),
    [
        ("Question: what is this?", 0, "Question: what is this?"),
        ("the tag <image> of HTML", 0, "the tag <image> of HTML"),
        ("Question: what is this?", 1, "<image> Question: what is this?"),
        ("Are these alike?", 2, "<image> <image> Are these alike?"),
        ("first <image> second <image> alike?", 2, "first <image> second <image> alike?"),
        ("", 1, "<image>"),
    ],
)
def test_images_go_where_the_text_has_them_or_before_it(text, images, expected):
    prompt = make_prompt(text, [picture(seed) for seed in range(images)])
    assert prompt_text(prompt) == expected
    assert sum(isinstance(segment, Text) and "<image>" in segment.text for segment in prompt) == (images == 0) * (
        "<image>" in text
    )


def test_a_text_with_another_number_of_images_is_refused():
    with pytest.raises(UserError, match="1 <image> and 2 images"):
        make_prompt("the <image> of", [picture(0), picture(1)])


@pytest.mark.parametrize("visual", ["film.mp4", {"array": np.zeros(3), "sampling_rate": 16000}])
def test_other_media_are_refused(visual):
    with pytest.raises(UserError, match=f"the task has a {type(visual).__name__}"):
        make_prompt("what is this?", [visual])


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1", "CMYK", "YCbCr"])
def test_images_of_any_mode_are_read_as_they_are(mode):
    image = picture(3, mode)
    [segment] = make_prompt("", [image])
    pixels = decode_image(segment.read(), tiny.IMAGE_SIZE)
    assert np.array_equal(pixels.permute(1, 2, 0).numpy(), np.array(image.convert("RGB")))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, SearchOptions(max_new_tokens=256)),
        ({"until": ["\n\n", "."], "max_gen_toks": 32, "do_sample": False}, SearchOptions(1, 32, stop=("\n\n", "."))),
        ({"until": ".", "max_new_tokens": 16, "temperature": 0.0, "top_p": 1.0}, SearchOptions(1, 16, stop=".")),
        ({"until": ["", "."], "max_tokens": 8, "top_p": None}, SearchOptions(1, 8, stop=".")),
        ({"max_gen_toks": 4, "max_new_tokens": 8, "num_beams": 5}, SearchOptions(5, 4)),
        ({"num_beams": 2, "length_penalty": 0.5, "max_gen_toks": 4}, SearchOptions(2, 4, 0.5)),
        ({"do_sample": False, "temperature": 0.7, "max_gen_toks": 4}, SearchOptions(1, 4)),
    ],
)
def test_options_of_generation(options, expected):
    before = dict(options)
    assert search_options(options) == expected
    assert options == before


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"temperature": 0.2}, {"temperature": 0.2}),
        ({"do_sample": True}, {}),
        (
            {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 5},
            {"temperature": 0.7, "top_p": 0.9, "top_k": 5},
        ),
        ({"do_sample": True, "top_k": -1, "min_p": 0.1, "seed": 3}, {"min_p": 0.1, "seed": 3}),
        ({"temperature": "1", "repetition_penalty": 1.2}, {"repetition_penalty": 1.2}),
    ],
)
def test_options_of_sampling(options, expected):
    found = search_options({"max_gen_toks": 4, **options})
    assert found == SearchOptions(max_new_tokens=4, do_sample=True, **expected) and found.samples


@pytest.mark.parametrize(
    "options",
    [{}, {"top_p": 0.5, "seed": 1}, {"do_sample": True, "temperature": 0}, {"do_sample": False, "temperature": 1}],
)
def test_other_options_are_greedy(options):
    assert not search_options(options).samples


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"do_sample": True, "num_beams": 2}, "Beam search does not sample"),
        ({"temperature": "warm"}, "option temperature must be a number, not 'warm'"),
        ({"do_sample": True, "top_p": 2}, "top_p is a probability"),
        ({"max_gen_toks": [1]}, "option max_gen_toks must be a number"),
    ],
)
def test_wrong_options_of_generation(options, message):
    with pytest.raises(UserError, match=message):
        search_options(options)


def test_unknown_options_are_named_once(caplog):
    for _ in range(2):
        search_options({"max_gen_toks": 4, "typical_p": 0.9, "image_aspect_ratio": "pad"})
    [record] = warnings_of(caplog)
    assert record.getMessage().endswith("ignored: typical_p")


@pytest.mark.parametrize(
    ("given", "most", "expected"), [(3, None, 3), ("8", 4, 8), ("auto", None, 16), ("auto:4", 32, 32)]
)
def test_batch_sizes(given, most, expected):
    assert number_of_contexts(given, most) == expected


@pytest.mark.parametrize("given", [0, "many", -1])
def test_invalid_batch_sizes(given):
    with pytest.raises(UserError, match="--batch_size"):
        number_of_contexts(given)


@pytest.fixture
def images_encoded(kosmos, monkeypatch):
    """The number of images in each call of the vision encoder."""
    encode, counts = kosmos.model.embed_images, []

    def counted(pixels):
        counts.append(len(pixels))
        return encode(pixels)

    monkeypatch.setattr(kosmos.model, "embed_images", counted)
    return counts


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_continuations_are_as_likely_as_in_one_pass_and_a_context_is_read_once(kosmos, images_encoded, batch_size):
    images = [picture(seed) for seed in range(2)]
    asked = [
        (question("the red house"), " cat"),
        (question("the <image> red", images[0]), " dog"),
        (question("the red house"), " old dog sees"),
        (question("the <image> red", images[1]), " dog"),
        (question(""), "a river"),
        (question("the <image> red", images[0]), " bird of the"),
        (question("a cat near the river sees a bird and a dog"), " today"),
    ]
    questions, continuations = zip(*asked, strict=True)
    found = in_order(log_likelihoods(kosmos, questions, continuations, batch_size))
    assert sum(images_encoded) == 2
    pictures = {id(images[seed]): picture_file(seed) for seed in range(2)}
    for (asked_question, continuation), likelihood in zip(asked, found, strict=True):
        of_question = [pictures[key] for key in asked_question.key]
        log_probability, greedy = full_pass(kosmos, asked_question.text, continuation, of_question)
        assert likelihood.log_probability == pytest.approx(log_probability, abs=1e-4)
        assert likelihood.greedy == greedy


def test_what_greedy_search_generates_is_greedy(kosmos):
    contexts = [f"the {word} cat" for word in ("old", "new", "red", "green", "blue", "small", "large", "round")]
    words = texts(kosmos, [question(text) for text in contexts], [SearchOptions(1, 1)] * len(contexts), 8)
    said = [(contexts[number], f" {word}") for number, word in words if word in tiny.WORDS]
    assert said, "the model says words"
    questions, continuations = [question(context) for context, _ in said], [continuation for _, continuation in said]
    assert all(likelihood.greedy for _, likelihood in log_likelihoods(kosmos, questions, continuations, 8))
    assert not any(likelihood.greedy for _, likelihood in log_likelihoods(kosmos, questions, [" car"] * len(said), 8))


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_a_request_generates_the_same_in_any_batch(kosmos, batch_size):
    image = picture(5)
    asked = [
        (question("the red house"), SearchOptions(1, 5)),
        (question("<image> the old", image), SearchOptions(3, 4)),
        (question("a cat near the river"), SearchOptions(1, 5)),
        (question("the red house"), SearchOptions(1, 9, stop=("a", "e"))),
        (question("the red house"), SearchOptions(1, 5)),
    ]
    found = in_order(texts(kosmos, *zip(*asked, strict=True), batch_size))
    for (asked_question, options), text in zip(asked, found, strict=True):
        images = [picture_file(5)] * len(asked_question.key)
        assert text == kosmos.generate(asked_question.text, images, **vars(options))
    assert found[0] == found[4] != ""


WORDS = " ".join(random.Random(7).choices(tiny.WORDS, k=600))  # more than the 512 tokens that the model reads


def test_a_context_that_is_too_long_is_truncated_from_the_left_with_a_warning(kosmos, caplog):
    whole = kosmos.vocabulary.encode(WORDS)
    assert len(whole) > 512
    questions = [question(WORDS), question("the red house")]
    found = in_order(log_likelihoods(kosmos, questions, [" cat sees", " dog"], 2))
    [record] = warnings_of(caplog)
    # `<s>` and the context are read, and all of the continuation but its last token.
    lost = 1 + len(whole) + 2 - 1 - 512
    assert record.args == (1, 2, 512, lost, lost)
    read = sample_of([kosmos.vocabulary.bos, *whole[lost:], *kosmos.vocabulary.encode(" cat sees")])
    log_probability, _ = of_last_tokens(kosmos, read, 2)
    assert found[0].log_probability == pytest.approx(log_probability, abs=1e-4)
    assert found[1].log_probability == pytest.approx(full_pass(kosmos, "the red house", " dog")[0], abs=1e-4)

    caplog.clear()
    [text] = in_order(texts(kosmos, [question(WORDS)], [SearchOptions(1, 12)], 1))
    [record] = warnings_of(caplog)
    lost = 1 + len(whole) + 12 - 512
    assert record.args == (1, 1, 512, lost, lost)
    assert text == kosmos.generate(kosmos.vocabulary.decode(whole[lost:]), max_new_tokens=12)


def test_images_are_never_cut(kosmos, caplog):
    image = picture(6)
    length = 1 + tiny.IMAGE_TOKENS + 2
    words = kosmos.vocabulary.encode(WORDS)
    [text] = in_order(texts(kosmos, [question("<image>" + WORDS, image)], [SearchOptions(1, 12)], 1))
    rest = kosmos.vocabulary.decode(words[length + len(words) + 12 - 512 :])
    assert warnings_of(caplog)[0].args[4] == length + len(words) + 12 - 512
    assert text == kosmos.generate("<image>" + rest, [picture_file(6)], max_new_tokens=12)
    many = question("the <image>" + "<image>" * 99, *[image] * 100)
    with pytest.raises(UserError, match="602 tokens with 100 images"):
        in_order(texts(kosmos, [many], [SearchOptions(1, 12)], 1))


def test_what_cannot_be_answered_is_refused(kosmos):
    with pytest.raises(UserError, match="512 new tokens, and the model reads 512"):
        in_order(texts(kosmos, [question("a cat")], [SearchOptions(1, 512)], 1))
    with pytest.raises(UserError, match="continuation without tokens, ' '"):
        in_order(log_likelihoods(kosmos, [question("a cat")], [" "], 1))
    with pytest.raises(UserError, match=r"continuation of [\d,]+ tokens, ' a"):
        in_order(log_likelihoods(kosmos, [question("a cat")], [f" a {WORDS}"], 1))


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_requests_with_equal_contexts_get_samples_of_their_own(varied, batch_size):
    contexts = [question(text) for text in ("the red", "a cat near", "the red", "the red", "")]
    options = search_options({"do_sample": True, "temperature": 2.0, "seed": 5, "max_gen_toks": 8})
    found = in_order(texts(varied, contexts, [options] * 5, batch_size))
    sampling = {"do_sample": True, "temperature": 2.0, "seed": 5, "max_new_tokens": 8}
    of_red = varied.generate("the red", n=3, **sampling)
    assert [found[0], found[2], found[3]] == [one.text for one in of_red.choices]
    assert len(set(found)) == 5
    assert [found[1], found[4]] == [varied.generate(text, **sampling) for text in ("a cat near", "")]


def test_samples_without_a_seed_depend_on_torchs(varied):
    contexts, options = [question("the red")] * 4, [search_options({"temperature": 2.0, "max_gen_toks": 8})] * 4
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(in_order(texts(varied, contexts, options, 16)))
    assert runs[0] == runs[1] != runs[2] and len(set(runs[0])) == 4
