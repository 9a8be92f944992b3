"""The engine: any mix of requests gives what `generate` gives for each alone; places and memory come free."""

import random
import threading

import pytest
import torch

from kosmos_plugin.generation.options import SearchOptions
from kosmos_plugin.models.paged_cache import BLOCK_SIZE
from kosmos_plugin.serving.engine import Engine, EngineFailed, QueueFull
from kosmos_plugin.serving.image_cache import ImageCache
from kosmos_plugin.serving.options import EngineOptions
from kosmos_plugin.serving.prompt import prepare
from tests import tiny
from tests.serving.conftest import wait_until


class Collected:
    """The tokens of a request's texts."""

    def __init__(self, engine, text, images, n=1, **options):
        self.engine = engine
        self.ended = threading.Event()
        self.texts = [[] for _ in range(n)]
        self.failure = None
        prompt = prepare(engine.kosmos.prompt(text, images), engine.kosmos.model.config)
        self.request = engine.submit([prompt], SearchOptions.of(**options), n, self.listen)

    def listen(self, event):
        if isinstance(event, EngineFailed):
            self.failure = event
            self.ended.set()
        else:
            self.texts[event.choice].append(event)
            if all(text and text[-1].finish_reason for text in self.texts):
                self.ended.set()

    def wait(self):
        assert self.ended.wait(300)
        return self


def random_request(rng):
    """(text, images, options, n)"""
    words = tiny.sentence(rng, (1, 40)).split()
    number = rng.choice([0, 0, 1, 2])
    for _ in range(number):
        words.insert(rng.randint(0, len(words)), "<image>")
    options = {"max_new_tokens": rng.randint(1, 40)}
    kind = rng.choice(["greedy", "sampled", "penalized"])
    if kind == "sampled":
        options |= {"do_sample": True, "seed": rng.randint(0, 9), "temperature": rng.choice([0.5, 1.0, 2.0])}
        options |= rng.choice([{}, {"top_p": 0.8}, {"top_k": 5}, {"min_p": 0.1}])
    elif kind == "penalized":
        options |= rng.choice([{"repetition_penalty": 1.3}, {"no_repeat_ngram_size": 2}])
    if rng.random() < 0.3:
        options["stop"] = rng.choice(["e", "a ", "o"])
    if rng.random() < 0.3:
        options["top_logprobs"] = rng.randint(1, 4)
    n = rng.choice([1, 1, 3]) if kind == "sampled" else 1
    return " ".join(words), [tiny.png(rng) for _ in range(number)], options, n


@pytest.mark.parametrize("seed", range(3))
def test_any_mix_of_requests_is_each_alone(kosmos, seed):
    """With so few blocks that some make room for others, and prompts in pieces of a few tokens."""
    rng = random.Random(seed)
    requests = [random_request(rng) for _ in range(14)]
    options = EngineOptions(max_sequences=5, step_tokens=rng.choice([5, 20, 512]), kv_cache_tokens=300)
    with Engine(kosmos, options) as engine:
        collected = []
        for text, images, search, n in requests:
            collected.append(Collected(engine, text, images, n, **search))
            if rng.random() < 0.5:
                collected[-1].ended.wait(rng.random() / 20)
        for one, (text, images, search, n) in zip(collected, requests, strict=True):
            one.wait()
            alone = kosmos.generate(text, images, details=True, n=n, **search)
            for ours, expected in zip(one.texts, alone.choices, strict=True):
                assert [event.token for event in ours] == list(expected.tokens)
                assert "".join(event.text for event in ours) == expected.text
                assert ours[-1].finish_reason == expected.finish_reason
                logprobs = [event.logprobs[0] for event in ours]
                assert sum(logprobs) == pytest.approx(expected.log_probability, abs=1e-3)
                for event, described in zip(ours, expected.logprobs or (), strict=False):
                    found = [token for token, _ in event.logprobs[1]]
                    assert found == [top.token for top in described.top_logprobs]
        assert engine.scheduler.pool.in_use == 0
        assert engine.unfinished == 0


def test_a_conversation_is_read_once(kosmos):
    """Ten turns with images: each turn computes its own tokens and at most a block more, and encodes its own image."""
    rng = random.Random(0)
    text, images = "", []
    with Engine(kosmos, EngineOptions()) as engine:
        before = 0
        for turn in range(10):
            if turn % 3 == 0:
                text, images = f"{text} <image>", [*images, tiny.png(rng)]
            text = f"{text} {tiny.sentence(rng, (3, 6))}"
            one = Collected(engine, text, images, max_new_tokens=4).wait()
            length = len(kosmos.prompt(text, images))
            assert one.request.cached_tokens >= (before - 1) // BLOCK_SIZE * BLOCK_SIZE - BLOCK_SIZE * (turn > 0)
            alone = kosmos.generate(text, images, details=True, max_new_tokens=4)
            assert [event.token for event in one.texts[0]] == list(alone.choices[0].tokens)
            before = length
        assert engine.images.encoded == len(images)
        assert engine.counters.computed_tokens < length + 10 * (4 + BLOCK_SIZE)


def test_texts_of_one_prompt_read_it_once(kosmos):
    text = " ".join(["the red cat sees a dog"] * 8)
    with Engine(kosmos, EngineOptions()) as engine:
        Collected(engine, text, [], n=4, max_new_tokens=2, do_sample=True, seed=0).wait()
        assert engine.counters.computed_tokens < len(kosmos.prompt(text)) + 4 * (2 + BLOCK_SIZE)


def test_a_new_request_joins_while_others_are_generated(kosmos):
    with Engine(kosmos, EngineOptions()) as engine:
        long = Collected(engine, "a cat", [], max_new_tokens=200, no_repeat_ngram_size=1)
        wait_until(lambda: len(long.texts[0]) > 3)
        short = Collected(engine, "a dog", [], max_new_tokens=2).wait()
        assert len(long.texts[0]) < 150
        assert short.texts[0][-1].finish_reason
        long.wait()


def test_cancelling_frees_the_place(kosmos):
    with Engine(kosmos, EngineOptions(max_sequences=1, max_queue=1)) as engine:
        running, waiting = (Collected(engine, "a cat", [], max_new_tokens=240) for _ in range(2))
        with pytest.raises(QueueFull):
            Collected(engine, "a cat", [], max_new_tokens=1)
        wait_until(lambda: running.texts[0])
        engine.cancel(running.request)
        engine.cancel(waiting.request)
        engine.cancel(waiting.request)  # a second time
        wait_until(lambda: engine.unfinished == 0)
        received = len(running.texts[0])
        Collected(engine, "a cat", [], max_new_tokens=1).wait()
        assert len(running.texts[0]) == received < 240
        assert not waiting.texts[0]
        assert engine.scheduler.pool.in_use == 0
        assert engine.counters.cancelled == 2


def test_after_a_failed_step_the_engine_goes_on(kosmos, monkeypatch, caplog):
    with Engine(kosmos, EngineOptions()) as engine:
        with monkeypatch.context() as patch:
            patch.setattr(engine.cache, "step", lambda spans: 1 / 0)
            failed = Collected(engine, "a cat", [], max_new_tokens=5).wait()
            wait_until(lambda: engine.unfinished == 0)
        assert failed.failure is not None
        assert "division by zero" in caplog.text
        assert engine.scheduler.pool.in_use == 0
        assert Collected(engine, "a cat", [], max_new_tokens=5).wait().failure is None


def test_when_the_engine_stops_nobody_waits_for_ever(kosmos, monkeypatch):
    """Whether it is stopped or its thread dies of an error of ours."""
    with Engine(kosmos, EngineOptions(max_sequences=1)) as engine:
        stopped = [Collected(engine, "a cat", [], max_new_tokens=240) for _ in range(2)]
    assert all(one.wait().failure is not None for one in stopped)
    with pytest.raises(EngineFailed):
        Collected(engine, "a cat", [], max_new_tokens=1)
    with Engine(kosmos, EngineOptions()) as engine:
        monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
        monkeypatch.setattr(engine.scheduler, "next_step", lambda: 1 / 0)
        assert Collected(engine, "a cat", [], max_new_tokens=5).wait().failure is not None
        wait_until(lambda: not engine.alive)


def test_a_listener_that_fails_ends_its_request_only(kosmos, caplog):
    with Engine(kosmos, EngineOptions()) as engine:
        prompt = prepare(kosmos.prompt("a cat"), kosmos.model.config)
        engine.submit([prompt], SearchOptions(max_new_tokens=50), 1, lambda event: 1 / 0)
        other = Collected(engine, "a dog", [], max_new_tokens=5).wait()
        assert len(other.texts[0]) == 5 or other.texts[0][-1].finish_reason == "stop"
        wait_until(lambda: engine.unfinished == 0)
        assert engine.scheduler.pool.in_use == 0


def test_few_images_are_kept(kosmos):
    cache = ImageCache(kosmos.model, max_images=3)
    torch.manual_seed(0)
    size = tiny.IMAGE_SIZE
    images = {bytes([number]): torch.randint(256, (3, size, size), dtype=torch.uint8) for number in range(6)}
    with torch.inference_mode():
        together = cache.embed(images)
        assert len(cache) == 6  # all of one call
        assert cache.embed({b"\5": images[b"\5"]})[b"\5"] is together[b"\5"]
        assert len(cache) == 3
        assert cache.encoded == 6
        alone = cache.embed({b"\0": images[b"\0"]})[b"\0"]
    torch.testing.assert_close(alone, together[b"\0"], atol=1e-5, rtol=0)
    assert alone.untyped_storage().nbytes() == alone.nbytes
