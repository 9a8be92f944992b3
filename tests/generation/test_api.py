"""`generate`, `stream` and `score` as users call them: what is returned for what, and one line for what is wrong."""

import gc
import random
import sys
import typing
from dataclasses import fields

import pytest
import torch

from kosmos_plugin.errors import UserError
from kosmos_plugin.generation import static_stepper
from kosmos_plugin.generation.generator import Generator
from kosmos_plugin.generation.options import SearchArguments, SearchOptions
from kosmos_plugin.generation.results import Generation
from tests import tiny

PICTURE, OTHER = (tiny.png(random.Random(seed)) for seed in (1, 2))


@pytest.fixture(scope="module")
def kosmos(data):
    task = tiny.task(data)
    model = tiny.model(task, seed=3)
    model.decoder.embed_tokens.weight.data *= 3
    return Generator(model, task.vocabulary, task.sample_builder)


@pytest.fixture(params=["growing", "static"])
def shapes(request, monkeypatch):
    monkeypatch.setattr(static_stepper, "uses_static_shapes", lambda device: request.param == "static")


def test_every_option_is_an_argument():
    assert set(typing.get_type_hints(SearchArguments)) == {field.name for field in fields(SearchOptions)}


def test_what_is_returned_for_what(kosmos):
    text = kosmos.generate("the <image> cat", PICTURE, max_new_tokens=5)
    assert isinstance(text, str)
    prompts, images = ["the <image> cat", "a house"], [PICTURE, None]
    other = kosmos.generate("a house", max_new_tokens=5)
    assert kosmos.generate(prompts, images, max_new_tokens=5) == [text, other]
    assert kosmos.generate(["a house"], max_new_tokens=5) == [other]
    assert kosmos.generate([]) == []
    detailed = kosmos.generate("the <image> cat", PICTURE, max_new_tokens=5, details=True)
    assert isinstance(detailed, Generation)
    assert (detailed.text, detailed.prompt_tokens) == (text, len(kosmos.prompt("the <image> cat", PICTURE)))
    [choice] = detailed.choices
    assert choice.logprobs is None and choice.finish_reason in ("stop", "length")
    assert len(kosmos.generate(prompts, images, n=2, num_beams=3, max_new_tokens=5)[0].choices) == 2


def test_log_probabilities(kosmos, shapes):
    [choice] = kosmos.generate("the <image> cat", PICTURE, max_new_tokens=6, top_logprobs=3).choices
    assert [each.token for each in choice.logprobs] == list(choice.tokens)
    assert sum(each.logprob for each in choice.logprobs) == pytest.approx(choice.log_probability, abs=1e-4)
    for each in choice.logprobs:
        likely = [other.logprob for other in each.top_logprobs]
        assert len(likely) == 3 and likely == sorted(likely, reverse=True)
        assert each.top_logprobs[0].token == each.token, "greedy search takes the likeliest"
        assert each.logprob == pytest.approx(likely[0], abs=1e-5)
    words = b"".join(each.bytes for each in choice.logprobs).decode().strip()
    assert words == choice.text
    [scored] = kosmos.score("the <image> cat", PICTURE, [choice.text])
    if kosmos.vocabulary.encode(choice.text) == list(choice.tokens):
        assert scored == pytest.approx(choice.log_probability, abs=1e-3)


def test_beams_from_the_best_on(kosmos, shapes):
    generation = kosmos.generate("a red cat", num_beams=4, n=4, max_new_tokens=6)
    scores = [choice.score for choice in generation.choices]
    assert scores == sorted(scores, reverse=True) and len({choice.tokens for choice in generation.choices}) == 4
    assert generation.text == kosmos.generate("a red cat", num_beams=4, max_new_tokens=6)


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "temperature": 3.0, "seed": 2}, {"stop": ("a", "s")}])
def test_a_stream_is_the_text(kosmos, shapes, options):
    for prompt, image in (("the <image> cat", PICTURE), ("a small house", None)):
        arguments = {"max_new_tokens": 12, **options}
        whole = kosmos.generate(prompt, image, details=True, **arguments).choices[0]
        parts = list(kosmos.stream(prompt, image, **arguments))
        assert "".join(parts) == whole.text and all(parts)
        chunks = list(kosmos.stream(prompt, image, logprobs=True, **arguments))
        assert "".join(chunk.text for chunk in chunks) == whole.text
        assert tuple(token for chunk in chunks for token in chunk.tokens) == whole.tokens
        assert tuple(each.token for chunk in chunks for each in chunk.logprobs) == whole.tokens
        assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
        assert chunks[-1].finish_reason == whole.finish_reason


def test_streams_of_the_same_time_do_not_disturb_each_other(kosmos, shapes):
    prompts = ["a red cat", "the small house", "a river"]
    expected = kosmos.generate(prompts, max_new_tokens=12)
    streams = [kosmos.stream(prompt, max_new_tokens=12) for prompt in prompts]
    found = [""] * 3
    for _ in range(40):
        for number, parts in enumerate(streams):
            found[number] += next(parts, "")
    assert found == expected


@pytest.mark.slow  # it counts all objects of the process
def test_a_stream_that_is_dropped_keeps_no_memory(kosmos):
    def held() -> int:
        gc.collect()
        return sum(isinstance(each, torch.Tensor) for each in gc.get_objects())

    list(kosmos.stream("a red cat", max_new_tokens=4))
    before = held()
    closed = kosmos.stream("a red cat", max_new_tokens=30, stop="zzz")
    next(closed)
    assert held() > before
    closed.close()
    assert held() == before
    dropped = kosmos.stream("a red cat", max_new_tokens=30, stop="zzz")
    next(dropped)
    del dropped
    assert held() == before


def test_a_stream_leaves_torch_s_modes_alone(kosmos):
    for _ in kosmos.stream("a red cat", max_new_tokens=6):
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        break
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_stop_tokens(kosmos, shapes):
    free = kosmos.generate("a red cat", max_new_tokens=12, details=True).choices[0].tokens
    end = free[3]
    for token in (end, [end], kosmos.vocabulary.symbol(end), (kosmos.vocabulary.symbol(end), 5)):
        [choice] = kosmos.generate("a red cat", max_new_tokens=12, stop_tokens=token, details=True).choices
        assert choice.tokens == free[: free.index(end) + 1] and choice.finish_reason == "stop"
    for token, message in (("no such", "'no such' is not in the vocabulary"), (10**6, "1000000 is not in"), (-1, "-1")):
        with pytest.raises(UserError, match=message):
            kosmos.generate("a", stop_tokens=token, max_new_tokens=4)


def test_a_stop_text_needs_no_list(kosmos, shapes):
    free = kosmos.generate("a small cat sleeps near the river", max_new_tokens=16)
    mark = free[len(free) // 2 : len(free) // 2 + 2]
    for stop in (mark, [mark], (mark,)):
        found = kosmos.generate("a small cat sleeps near the river", max_new_tokens=16, stop=stop)
        assert found == free.partition(mark)[0].strip()


def test_score(kosmos):
    one = kosmos.score("the <image> cat", PICTURE, ["runs", "a house"])
    other = kosmos.score("the <image> cat", OTHER, ["runs"])
    assert len(one) == 2 and all(value < 0 for value in one)
    both = kosmos.score(["the <image> cat"] * 2, [PICTURE, OTHER], [["runs", "a house"], ["runs"]])
    assert both[0] == pytest.approx(one, abs=1e-4) and both[1] == pytest.approx(other, abs=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda k: k.generate(3), "A prompt is a text or a list of texts, not of type int"),
        (lambda k: k.generate(["a", 3]), "a prompt is a text, not of type int"),
        (
            lambda k: k.generate(["a", "<image>"], [PICTURE]),
            "images must be a list with those of each of the 2 prompts",
        ),
        (lambda k: k.generate(["a", "<image>"], PICTURE), "images must be a list with those of each of the 2 prompts"),
        (
            lambda k: k.generate(["a", "<image>"], [PICTURE, None]),
            "prompt 1: the text has 0 <image> and 1 image is given",
        ),
        (lambda k: k.generate("a", max_new_tokens=0), "max_new_tokens must be at least 1, not 0"),
        (lambda k: k.generate("a", num_beams=0), "num_beams must be at least 1, not 0"),
        (lambda k: k.generate("a", max_new_tokens=1.5), "max_new_tokens must be a whole number, not 1.5"),
        (lambda k: k.generate("a", temperature="hot"), "temperature must be a number, not 'hot'"),
        (lambda k: k.generate("a", do_sample="yes"), "do_sample must be True or False, not 'yes'"),
        (lambda k: k.generate("a", stop=""), "stop must not be empty"),
        (lambda k: k.generate("a", stop=3), "stop must be one or several texts"),
        (lambda k: k.generate("a", temperature=0.7), "temperature=0.7 is for sampling: give do_sample too"),
        (lambda k: k.generate("a", repetition_penalty=0), "repetition_penalty must be greater than 0"),
        (lambda k: k.generate("a", n=3), "n=3 texts need do_sample, or num_beams of at least 3"),
        (lambda k: k.generate("a", keep_greedy=True), "keep_greedy is for beam search"),
        (lambda k: k.generate("a", max_new_tokens=64), r"64 new ones do not fit .* \(max_new_tokens\)"),
        (lambda k: k.generate("<image>", b"no image", max_new_tokens=4), "prompt: image 1 cannot be read"),
        (lambda k: k.stream("a", num_beams=2), "A stream is one text"),
        (lambda k: k.stream(["a"]), "a prompt is a text, not of type list"),
        (lambda k: k.stream("a", max_new_tokens=64), "do not fit"),
        (lambda k: k.score("a", candidates="cat"), "are a list of texts, not one text"),
        (lambda k: k.score(["a", "b"], None, ["cat", "dog"]), "are a list of texts, not one text"),
        (lambda k: k.score(["a", "b"], None, [["cat"]]), "those of each of the 2 prompts"),
        (lambda k: k.score("a", candidates=["cat", ""]), "candidate 2 is empty"),
    ],
)
def test_what_is_wrong_is_one_line(kosmos, call, message):
    with pytest.raises(UserError, match=message) as error:
        call(kosmos)
    assert "\n" not in str(error.value)


def test_the_old_names_are_gone(kosmos):
    for name in ("beam", "max_length", "num_return_sequences"):
        with pytest.raises(TypeError, match=name):
            kosmos.generate("a", **{name: 2})
    with pytest.raises(TypeError, match=r"no option 'num_beam' of generation\. Did you mean 'num_beams'\?"):
        kosmos.chat().ask("a", num_beam=2)
    assert not hasattr(kosmos, "conversation")


def test_options_of_the_training_do_not_reach_generation(data):
    """The cache of features would grow with each image, and compiled layers again with each length."""
    from kosmos_plugin.checkpoints.fairseq_checkpoint import KosmosCheckpoint
    from kosmos_plugin.generation.generator import build_generator

    task = tiny.task(data)
    options = {"cache_vision_features": True, "compile": True, "checkpoint_activations": "full"}
    weights = tiny.model(task).state_dict()
    config = tiny.model_config(data, **options)
    kosmos = build_generator(KosmosCheckpoint(config, task.vocabulary, weights), "model.pt", "cpu")
    assert kosmos.model.vision.cache is None and not kosmos.model.config.compile
    assert "torch._inductor" not in sys.modules or not kosmos.model._to_compile
    assert isinstance(kosmos.generate("the <image> cat", PICTURE, max_new_tokens=2), str)
