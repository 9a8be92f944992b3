"""The page over HTTP, by Gradio's own client: dialogues, settings, mistakes, the cache, and users who go away."""

import base64
import io
import itertools
import random
import re

import httpx2
import pytest
from PIL import Image

from kosmos_plugin.data.samples import SampleBuilder
from kosmos_plugin.generation.generator import Generator
from kosmos_plugin.serving.options import EngineOptions, ServerOptions
from kosmos_plugin.serving.page import looking
from kosmos_plugin.serving.page.dialogue import NO_ANSWER, WORD_JOINER
from tests import tiny
from tests.serving.conftest import serving, wait_until
from tests.serving.page.conftest import Visitor, shown, slow_steps, texts, with_settings


def test_a_dialogue_equals_that_of_kosmos_chat(kosmos, visitor, picture):
    conversation = kosmos.chat("plain")
    said = []
    for text, pictures in (("a red cat", [picture]), ("sees", []), ("<image> and <image>", [picture, picture])):
        answer = conversation.ask(text, [str(path) for path in pictures], max_new_tokens=8)
        messages = visitor.ask(text, *pictures)
        said += [text, answer or NO_ANSWER]
        assert [text.replace(WORD_JOINER, "") for text in texts(messages)] == said
        assert [message["role"] for message in messages if message["content"][0]["type"] == "text"] == [
            "user",
            "assistant",
        ] * (len(said) // 2)


def test_the_template(kosmos, visitor, picture):
    [_, answer] = texts(visitor.ask("what?", picture, template="question-answer"))
    expected = kosmos.generate("<image> Question: what? Answer:", str(picture), max_new_tokens=8, stop="Question:")
    assert answer == (expected or NO_ANSWER)


def test_an_answer_comes_in_parts(visitor):
    updates = visitor.do("ask", {"text": "a", "files": []}, "plain", *with_settings(temperature=2, max_new_tokens=240))
    answers = [texts(update[0])[-1] for update in updates if isinstance(update[0], list) and len(update[0]) == 2]
    assert len(set(answers)) > 1
    assert all(after.startswith(before) for before, after in itertools.pairwise(answers))


def test_ten_turns_share_their_beginning(paged, visitor, picture):
    """Each turn computes no more than its own tokens, the answer before it, and what does not fill a block."""
    messages = visitor.ask("a red cat", picture, max_new_tokens=4)
    for _ in range(9):
        before = paged.engine.counters.computed_tokens
        messages = visitor.ask("sees the dog", max_new_tokens=4)
        assert paged.engine.counters.computed_tokens - before < 16 + 3 * 8
    assert texts(messages).count("sees the dog") == 9
    assert paged.engine.images.encoded == 1


def test_sampling_with_a_seed(kosmos, visitor):
    settings = {"temperature": 1.5, "top_k": 50, "seed": "7", "repetition_penalty": 1.2}
    [_, answer] = texts(visitor.ask("the cat", **settings))
    expected = kosmos.generate("the cat", max_new_tokens=8, do_sample=True, **settings | {"seed": 7})
    assert answer == (expected or NO_ANSWER)


def test_retry_undo_and_clear(visitor, picture):
    first = texts(visitor.ask("a cat", picture))
    visitor.ask("a dog")
    assert texts(shown(visitor.do("retry", *with_settings(max_new_tokens=2))))[:3] == [*first, "a dog"]
    [[messages, box, *_]] = visitor.do("undo")
    assert texts(messages) == first
    assert box["value"]["text"] == "a dog" and box["value"]["files"] == []
    [[messages, box, *_]] = visitor.do("undo")
    assert (messages, box["value"]["text"], len(box["value"]["files"])) == ([], "a cat", 1)
    assert visitor.do("undo")[0][0] == []
    visitor.ask("a cat")
    assert visitor.do("clear")[0][0] == []
    assert len(texts(visitor.ask("a bird"))) == 2


def test_where_it_looked(kosmos, visitor, picture, warnings):
    visitor.do("look")
    assert warnings == ["There is no answer yet."]
    visitor.ask("a cat")
    visitor.do("look")
    assert warnings[1:] == ["There is no image in this dialogue."]
    answer = texts(visitor.ask("a &lt; dog", picture, picture))[-1]
    [[token, shown_map]] = visitor.do("look")
    prompt = f"a cat {kosmos.generate('a cat', max_new_tokens=8)} <image> <image> a &lt; dog"
    looked = kosmos.attention_map(prompt, [str(picture)] * 2, answer)
    assert [label for label, _ in token["choices"]] == [part.strip() for part in looked.tokens]
    last = len(looked.tokens) - 1
    [shown_map] = visitor.do("token", last)
    assert re.findall(r"<figcaption>([0-9.]+)% of the attention", shown_map) == [
        f"{100 * each[last].sum():.1f}" for each in looked.maps
    ]
    [data, _] = re.findall(r'src="data:image/webp;base64,([^"]+)"', shown_map)
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (448, 448)


def test_maps_that_are_not_kept(visitor, picture, warnings, monkeypatch):
    visitor.ask("a cat", picture)
    visitor.do("look")
    monkeypatch.setattr(looking, "KEPT", 0)
    other = texts(visitor.ask("a dog"))
    assert other and visitor.do("look") and visitor.do("token", 0)
    assert warnings == ["These maps are not kept any longer: show them again."] * 2


def test_visitors_do_not_see_each_other(paged, visitor):
    visitor.ask("a cat")
    other = Visitor(paged.url)
    assert texts(other.ask("a dog"))[0] == "a dog"
    assert texts(visitor.ask("a bird"))[::2] == ["a cat", "a bird"]
    other.client.close()


def test_mistakes_are_one_line_and_change_nothing(visitor, picture, warnings, tmp_path):
    broken, large = tmp_path / "broken.png", tmp_path / "large.png"
    broken.write_bytes(b"not a picture")
    large.write_bytes(tiny.png(random.Random(0), 101))
    before = visitor.ask("a cat", picture)
    for inputs, settings, message in (
        (("",), {}, "A message needs a text or an image."),
        (("a", broken), {}, "Image 2 cannot be read: "),
        (("a", large), {}, "Image 2 cannot be read: image of more than 10,000 pixels"),
        (("<image> a",), {}, "The message: the text has 1 &lt;image&gt; and 0 images are given"),
        (("a cat " * 300,), {}, "; the model takes 256."),
        (("a",), {"max_new_tokens": 255}, "do not fit in the model&#x27;s 256 positions: ask for at most"),
        (("a",), {"seed": "<b>"}, "seed must be a whole number, not &#x27;&lt;b&gt;&#x27;."),
        (("a",), {"seed": "9" * 30}, "seed must be a number of 64 bits"),
    ):
        text, *pictures = inputs
        assert visitor.ask(text, *pictures, **settings) == before
        assert message in warnings[-1] and "\n" not in warnings[-1] and "/tmp" not in warnings[-1]
    assert len(warnings) == 8


def test_a_message_that_failed_is_in_the_box_again(visitor, picture, warnings):
    from gradio_client import handle_file

    message = {"text": "a", "files": [handle_file(str(picture))]}
    *_, last = visitor.do("ask", message, "plain", *with_settings(max_new_tokens=255))
    assert last[1]["value"]["text"] == "a" and len(last[1]["value"]["files"]) == 1
    assert last[1]["interactive"] and warnings


@pytest.fixture(scope="module")
def long(kosmos):
    """What to ask for an answer that does not end by itself."""
    options = {"temperature": 2.0, "max_new_tokens": 240, "top_k": 3}
    sampled = ((kosmos.generate("a", do_sample=True, seed=seed, details=True, **options), seed) for seed in range(99))
    seed = next(seed for generation, seed in sampled if generation.choices[0].finish_reason == "length")
    return {"text": "a", "files": []}, "plain", *with_settings(seed=str(seed), **options)


@pytest.fixture
def slow(paged, monkeypatch):
    slow_steps(paged.engine, monkeypatch)


def test_a_retry_that_fails_leaves_the_box_alone(visitor, warnings):
    before = visitor.ask("a cat")
    updates = visitor.do("retry", *with_settings(max_new_tokens=255))
    assert shown(updates) == before and warnings
    assert all("value" not in box for _, box, *_ in updates)


def test_to_undo_or_clear_stops_the_answer(paged, long, slow):
    for name in ("undo", "clear"):
        visitor = Visitor(paged.url)
        before = paged.engine.counters.cancelled
        visitor.client.submit(*long, api_name="/ask")
        wait_until(lambda: paged.engine.unfinished == 1)
        assert visitor.do(name)[0][0] == []
        paged.wait_until_idle()
        assert paged.engine.counters.cancelled == before + 1
        assert len(visitor.ask("a cat")) == 2
        visitor.client.close()


def test_a_model_without_vision(data, files, picture, warnings):
    task = tiny.task(data)
    model = tiny.model(task, vision_encoder="none")
    kosmos = Generator(model, task.vocabulary, SampleBuilder(task.vocabulary, tiny.IMAGE_TOKENS, 64))
    with serving(kosmos, EngineOptions(), ServerOptions(template="plain"), files) as served:
        visitor = Visitor(served.url)
        assert texts(visitor.ask("a cat"))[0] == "a cat"
        assert len(visitor.ask("a", picture)) == 2
        assert warnings == ["The model reads only text: leave out the images."]
        assert not any(dependency["api_name"] == "look" for dependency in visitor.client.config["dependencies"])
        visitor.client.close()


def test_a_template_of_a_file(kosmos, files, tmp_path):
    (tmp_path / "polite.txt").write_text("Please: {text}!")
    options = ServerOptions(template=str(tmp_path / "polite.txt"))
    with serving(kosmos, EngineOptions(), options, files) as served:
        visitor = Visitor(served.url)
        [_, answer] = texts(visitor.ask("a cat", template="polite.txt"))
        assert answer == (kosmos.generate("Please: a cat!", max_new_tokens=8) or NO_ANSWER)
        assert str(tmp_path) not in str(visitor.client.config)
        visitor.client.close()


def test_the_queue_is_full(paged, long, slow, warnings):
    others = [Visitor(paged.url) for _ in range(4)]
    jobs = [other.client.submit(*long, api_name="/ask") for other in others]
    wait_until(lambda: all(job.done() for job in jobs) or "The server is busy: try again later." in warnings)
    assert "The server is busy: try again later." in warnings
    for other, job in zip(others, jobs, strict=True):
        job.cancel()
        other.client.close()


def test_stop(paged, visitor, long, slow):
    before = paged.engine.counters.cancelled
    job = visitor.client.submit(*long, api_name="/ask")
    wait_until(lambda: paged.engine.unfinished == 1)
    job.cancel()
    paged.wait_until_idle()
    assert paged.engine.counters.cancelled == before + 1
    [[messages, box, *_]] = visitor.do("stop")
    assert box["interactive"] and len(texts(messages)[-1]) > 0


def test_a_page_that_is_closed_frees_its_place(paged, long, slow):
    before = paged.engine.counters.cancelled
    with httpx2.Client(base_url=f"{paged.url}/chat/gradio_api", timeout=60) as browser:
        event = {"data": [None, *long], "fn_index": 0, "session_hash": "closed"}
        assert browser.post("/queue/join", json=event).status_code == 200
        with browser.stream("GET", "/queue/data", params={"session_hash": "closed"}) as stream:
            lines = stream.iter_lines()  # kept, as its end is that of the connection
            next(lines)
            wait_until(lambda: paged.engine.unfinished == 1)
    paged.wait_until_idle()
    assert paged.engine.counters.cancelled == before + 1
