"""Steps of fixed shapes: equal to the growing cache, of constant shapes, and without a question to the device."""

import copy
import gc
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from kosmos_plugin.generation import static_step
from kosmos_plugin.generation.generator import Generator
from kosmos_plugin.generation.options import SearchOptions
from kosmos_plugin.generation.prefill import prefill
from kosmos_plugin.generation.sampling import Sampler, likeliest_token
from kosmos_plugin.generation.static_step import StaticStep, rounded_shape, static_steps
from kosmos_plugin.generation.static_stepper import STEPS_AT_ONCE, StaticStepper
from kosmos_plugin.generation.stepper import Row, Stepper
from kosmos_plugin.generation.token_trie import TokenTrie
from kosmos_plugin.models.config import KosmosTinyConfig
from kosmos_plugin.models.decoder import KosmosDecoder
from kosmos_plugin.models.static_cache import CacheShape
from tests import tiny

WORDS, PAD = 203, 1
# What waits for the device, or copies from it.
QUESTIONS = ("_local_scalar_dense", "nonzero", "masked_select", "item", "is_nonzero", "equal.default")


class Operations(TorchDispatchMode):
    """Records each operation with the shapes, dtypes and devices of its tensors."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        self.found.append((str(operation), [(x.shape, x.dtype, x.device.type) for x in tensors]))
        return result


def fake_step(device: str, dtype: torch.dtype, shape: CacheShape, **options) -> StaticStep:
    config = KosmosTinyConfig(vision_encoder="none", **options)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            decoder = KosmosDecoder(config, WORDS, PAD).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    heads = config.decoder_attention_heads
    size = (decoder.num_layers, 2, shape.prompts, heads, shape.keys, decoder.head_dim)
    return StaticStep(decoder, shape, PAD, torch.empty(size, device=device, dtype=dtype))


@pytest.mark.parametrize("positions", ["xpos", "sinusoidal", "both"])
@pytest.mark.parametrize("beams", [1, 6])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_step_asks_the_device_nothing_and_is_the_same_each_time(positions, beams, dtype):
    """On fake tensors of a GPU, where a value cannot be read and tensors of two devices do not mix."""
    rows = 2 * beams
    with FakeTensorMode(), torch.no_grad():
        step = fake_step("cuda", dtype, CacheShape(2, beams, 128, 32), positions=positions)
        steps = []
        for take in (lambda: step.run([1] * rows, [0] * rows), lambda: step.continue_with(step.log_probs.argmax(-1))):
            take()
            for _ in range(2):
                with Operations() as operations:
                    step.compute()
                steps.append(operations.found)
    assert steps[0] == steps[1] == steps[2] == steps[3]
    for operation, tensors in steps[0]:
        assert not any(question in operation for question in QUESTIONS), operation
        assert {device for _, _, device in tensors} <= {"cuda"}, operation


@pytest.mark.parametrize("options", [{}, {"top_k": 5}, {"top_p": 0.9, "min_p": 0.1, "temperature": 0.7}])
def test_a_draw_asks_the_device_nothing(options):
    with FakeTensorMode(), torch.no_grad():
        device, rows = torch.device("cuda"), torch.arange(3, device="cuda")
        sampler = Sampler([SearchOptions(do_sample=True, seed=1, **options)] * 3, [0, 1, 2], device)
        with Operations() as operations:
            tokens = sampler(torch.zeros(3, WORDS, device="cuda"), rows, 0)
    assert tokens.shape == (3,) and tokens.is_cuda
    for operation, tensors in operations.found:
        assert not any(question in operation for question in QUESTIONS), operation
        assert {device for _, _, device in tensors} <= {"cuda"}, operation


def test_tensors_stay_in_their_places(kosmos):
    """A graph knows addresses: what goes from one step to the next is written in place."""
    step = static_steps(kosmos.model, PAD).of(CacheShape(2, 3, 128, 32))

    def addresses():
        cache = step.cache
        kept = (step.log_probs, step.inputs, cache.store, cache.parents, cache.step, cache.next_position, cache.visible)
        return [tensor.data_ptr() for tensor in (*kept, cache.new_keys, cache.mask)]

    before = addresses()
    state, last = prefill(kosmos.model, [kosmos.prompt("a red cat"), kosmos.prompt("the")], kosmos.vocabulary.pad)
    with torch.inference_mode():
        stepper = StaticStepper(step, state, last, kosmos.vocabulary, SearchOptions())
        stepper.advance([0, 0, 1], [5, 6, 7])
        stepper.advance([1, 1, 0, 2], [8, 9, 4, 5])
    assert addresses() == before


@st.composite
def walks(draw):
    """Numbers of prompts and beams, and for each step the rows that go on, of each prompt at most as many as beams."""
    prompts, beams = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    steps, rows = [], list(range(prompts))  # the prompt of each row
    for _ in range(draw(st.integers(1, 5))):
        chosen = []
        for prompt in range(prompts):
            own = [row for row, of in enumerate(rows) if of == prompt]
            if own:
                chosen += draw(st.lists(st.sampled_from(own), min_size=0, max_size=beams))
        if not chosen:
            break
        steps.append((chosen, draw(st.lists(st.integers(4, 60), min_size=len(chosen), max_size=len(chosen)))))
        rows = [rows[row] for row in chosen]
    return prompts, beams, steps


@settings(max_examples=40, deadline=None)
@given(walk=walks(), seed=st.integers(0, 5))
def test_any_walk_equals_the_growing_cache(kosmos, walk, seed):
    """Rows repeated, dropped and reordered, prompts of several lengths with a common prefix and with images."""
    prompts, beams, steps = walk
    rng = random.Random(seed)
    shared = " ".join(["a red cat sleeps near the river and the car"] * 4)
    texts = [f"{shared} {tiny.sentence(rng, (1, 6))}", f"{shared} <image> a", "<image> the", "a"]
    samples = [kosmos.prompt(text, [tiny.png(rng)] * text.count("<image>")) for text in texts[seed % 2 :][:prompts]]
    prefilled = prefill(kosmos.model, samples, kosmos.vocabulary.pad)
    step = static_steps(kosmos.model, kosmos.vocabulary.pad).of(rounded_shape(prompts, beams, 64, 5))
    with torch.inference_mode():
        static = StaticStepper(step, *prefilled, kosmos.vocabulary, SearchOptions())
        growing = Stepper(*prefilled, kosmos.vocabulary, SearchOptions())
        for rows, tokens in steps:
            for stepper in (static, growing):
                stepper.advance(rows, tokens)
            expected = growing.log_probs
            torch.testing.assert_close(static.step.log_probs[static.beams], expected, atol=1e-4, rtol=1e-4)
            normalizers = static.step.normalizers[static.beams]
            torch.testing.assert_close(normalizers, growing.normalizers, atol=1e-4, rtol=1e-4)


def rows_of(texts) -> list[Row]:
    return [Row(number, number, text) for number, text in enumerate(texts)]


def test_greedy_steps_at_once_are_those_one_by_one(kosmos):
    prefilled = prefill(kosmos.model, [kosmos.prompt("a red cat"), kosmos.prompt("the")], kosmos.vocabulary.pad)
    step = static_steps(kosmos.model, kosmos.vocabulary.pad).of(rounded_shape(2, 1, 64, 32))
    options = SearchOptions(top_logprobs=3)
    with torch.inference_mode():
        stepper = StaticStepper(step, *prefilled, kosmos.vocabulary, options)
        together = stepper.choose(likeliest_token, rows_of([(), ()]), 10)
        assert len(together) == STEPS_AT_ONCE
        one, texts = Stepper(*prefilled, kosmos.vocabulary, options), ([], [])
        for number, found in enumerate(together):
            if number:
                one.advance([0, 1], [text[-1] for text in texts])
            [expected] = one.choose(likeliest_token, rows_of(texts), 10)
            for text, (token, (value, top)), (expected_token, (expected_value, expected_top)) in zip(
                texts, found, expected, strict=True
            ):
                assert token == expected_token == top[0][0]
                assert value == pytest.approx(expected_value, abs=1e-4)
                assert [each[0] for each in top] == [each[0] for each in expected_top]
                text.append(token)


@torch.inference_mode()
@pytest.mark.parametrize(
    "limit",
    [
        {"options": SearchOptions(stop="the")},
        {"options": SearchOptions(repetition_penalty=1.5), "prompts": [np.array([5, 6])]},
        {"options": SearchOptions(), "allowed": TokenTrie([[5, 6, 7, 8, 9, 10]])},
    ],
)
def test_what_the_cpu_decides_is_asked_at_each_step(kosmos, limit):
    prefilled = prefill(kosmos.model, [kosmos.prompt("a")], kosmos.vocabulary.pad)
    step = static_steps(kosmos.model, kosmos.vocabulary.pad).of(rounded_shape(1, 1, 64, 32))
    stepper = StaticStepper(step, *prefilled, kosmos.vocabulary, **limit)
    assert len(stepper.choose(likeliest_token, rows_of([()]), 10)) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(kosmos, dtype, monkeypatch):
    """Greedy log-probabilities are near those of the growing cache in the same precision."""
    half = Generator(copy.deepcopy(kosmos.model).to(dtype), kosmos.vocabulary, kosmos.sample_builder)
    rng = random.Random(2)
    prompts = [half.prompt("<image> the red", [tiny.png(rng)]), half.prompt("a")]
    found = half.search(prompts, SearchOptions(max_new_tokens=6))
    monkeypatch.setattr("kosmos_plugin.generation.static_stepper.uses_static_shapes", lambda device: True)
    for one, expected in zip(half.search(prompts, SearchOptions(max_new_tokens=6)), found, strict=True):
        assert one.log_probability == pytest.approx(expected.log_probability, abs=0.3)


def test_shapes_are_few():
    assert rounded_shape(1, 6, 1, 1) == CacheShape(1, 6, 128, 32)
    assert rounded_shape(5, 6, 129, 33) == CacheShape(8, 6, 256, 64)
    assert rounded_shape(16, 1, 2048, 64) == CacheShape(16, 1, 2048, 64)


def test_steps_are_kept_while_the_weights_stay(kosmos, monkeypatch):
    model = copy.deepcopy(kosmos.model)
    steps = static_steps(model, PAD)
    small = steps.of(CacheShape(1, 1, 128, 32))
    assert static_steps(model, PAD).of(CacheShape(1, 1, 128, 32)) is small
    large = steps.of(CacheShape(4, 1, 128, 32))
    assert steps.of(CacheShape(1, 1, 128, 32)) is not small, "the store has moved"
    assert steps.of(CacheShape(4, 1, 128, 32)) is large
    monkeypatch.setattr(static_step, "MAX_GRAPHS", 2)
    steps.of(CacheShape(2, 1, 128, 32))
    assert steps.of(CacheShape(4, 1, 128, 32)) is large, "used more recently"
    model.double()
    assert static_steps(model, PAD) is not steps
    count = len(static_step._steps_of_model)
    del model
    gc.collect()
    assert len(static_step._steps_of_model) == count - 1


def test_nothing_of_an_earlier_search_remains(kosmos):
    """Not even numbers that are not finite, which the weight zero would not remove."""
    prefilled = prefill(kosmos.model, [kosmos.prompt("a red cat")], kosmos.vocabulary.pad)
    step = static_steps(kosmos.model, kosmos.vocabulary.pad).of(rounded_shape(2, 2, 64, 32))
    with torch.inference_mode():
        step.cache.store.fill_(torch.nan)
        step.log_probs.fill_(torch.nan)
        static = StaticStepper(step, *prefilled, kosmos.vocabulary, SearchOptions())
        growing = Stepper(*prefilled, kosmos.vocabulary, SearchOptions())
        for stepper in (static, growing):
            stepper.advance([0, 0], [5, 6])
        assert not step.log_probs.isnan().any()
        rows = [Row(0, 0, (5,)), Row(0, 0, (6,))]
        assert static.likeliest(3, rows)[1] == growing.likeliest(3, rows)[1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("beam", [1, 5])
def test_a_graph_on_a_gpu_generates_what_a_cpu_does(kosmos, beam):
    rng = random.Random(4)
    prompts = [kosmos.prompt("<image> the red", [tiny.png(rng)]), kosmos.prompt("a"), kosmos.prompt("the small cat")]
    options = SearchOptions(beam, 12)
    expected = kosmos.search(prompts, options)
    gpu = Generator(copy.deepcopy(kosmos.model).cuda(), kosmos.vocabulary, kosmos.sample_builder)
    for _ in range(2):  # the second with the graph of the first
        found = gpu.search(prompts, options)
        assert [one.tokens for one in found] == [one.tokens for one in expected]
        assert [one.score for one in found] == pytest.approx([one.score for one in expected], abs=1e-3)
    [step] = static_step._steps_of_model[gpu.model]._steps.values()
    assert step.graph is not None
    with torch.inference_mode():
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(3):
                step.continue_with(step.log_probs.argmax(dim=-1))
        finally:
            torch.cuda.set_sync_debug_mode("default")
