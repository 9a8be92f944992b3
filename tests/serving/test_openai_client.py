"""The server through OpenAI's own client: its types must take what we answer, its exceptions what we refuse."""

import base64
import io
import random

import openai
import pytest
from PIL import Image

from kosmos_plugin.serving.options import EngineOptions, ServerOptions
from tests import tiny
from tests.serving.conftest import serving, wait_until


@pytest.fixture(scope="module")
def client(served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def images():
    rng = random.Random(0)
    return [tiny.png(rng) for _ in range(2)]


def data_uri(image: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def image_part(image: bytes, **more: str) -> dict:
    return {"type": "image_url", "image_url": {"url": data_uri(image), **more}}


def text_part(text: str) -> dict:
    return {"type": "text", "text": text}


def user(*parts) -> list[dict]:
    return [{"role": "user", "content": list(parts)}]


def test_an_image_is_described(client, kosmos, images):
    found = client.chat.completions.create(
        model="tiny", messages=user(image_part(images[0], detail="high"), text_part("a photo of")), max_tokens=12
    )
    [choice] = found.choices
    expected = kosmos.generate("<image> a photo of", images[0], max_new_tokens=12, details=True)
    assert choice.message.content == expected.text
    assert choice.message.role == "assistant"
    assert choice.finish_reason == expected.choices[0].finish_reason
    assert found.object == "chat.completion" and found.model == "tiny"
    assert found.usage.prompt_tokens == expected.prompt_tokens
    assert found.usage.completion_tokens == len(expected.choices[0].tokens)
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens


@pytest.mark.parametrize("streamed", [False, True])
def test_two_images_in_order(client, kosmos, images, streamed):
    """Log-probabilities differ with the order of the images."""
    found = []
    for first, second in (images, images[::-1]):
        parts = text_part("first"), image_part(first), text_part("then"), image_part(second), text_part("so")
        arguments = {"model": "tiny", "messages": user(*parts), "max_completion_tokens": 20, "logprobs": True}
        if streamed:
            chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**arguments, stream=True)]
            text = "".join(chunk.delta.content or "" for chunk in chunks)
            logprobs = [one.logprob for chunk in chunks if chunk.logprobs for one in chunk.logprobs.content]
        else:
            [choice] = client.chat.completions.create(**arguments).choices
            text, logprobs = choice.message.content, [one.logprob for one in choice.logprobs.content]
        prompt = "first <image> then <image> so"
        expected = kosmos.generate(prompt, [first, second], max_new_tokens=20, logprobs=True).choices[0]
        assert text == expected.text
        assert logprobs == pytest.approx([one.logprob for one in expected.logprobs][: len(logprobs)], abs=1e-4)
        found.append(logprobs)
    assert found[0] != pytest.approx(found[1], abs=1e-4)


def test_a_stream(client, kosmos):
    """The role, deltas, the reason, the usage; the client itself reads to `[DONE]`."""
    chunks = list(
        client.chat.completions.create(
            model="tiny",
            messages=user(text_part("a cat")),
            max_tokens=15,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    first, *middle, last, usage = chunks
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    assert all(chunk.choices[0].finish_reason is None and chunk.usage is None for chunk in (first, *middle))
    assert last.choices[0].finish_reason in ("stop", "length")
    assert usage.choices == [] and usage.usage.completion_tokens <= 15
    expected = kosmos.generate("a cat", max_new_tokens=15)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in (*middle, last)) == expected
    assert len(middle) > 3


def test_the_end_of_a_stream(http):
    """Each event is a line `data: …`, the last one `[DONE]`; without include_usage there is no usage."""
    body = {"messages": [{"role": "user", "content": "a cat"}], "max_tokens": 5, "stream": True}
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(event.startswith("data: {") and "usage" not in event for event in events[:-2])


def test_log_probabilities(client, kosmos):
    found = client.chat.completions.create(
        model="tiny", messages=user(text_part("a cat")), max_tokens=8, logprobs=True, top_logprobs=3
    )
    content = found.choices[0].logprobs.content
    expected = kosmos.generate("a cat", max_new_tokens=8, top_logprobs=3).choices[0].logprobs
    assert [token.token for token in content] == [one.text for one in expected][: len(content)]
    for token, one in zip(content, expected, strict=False):
        assert token.logprob == pytest.approx(one.logprob, abs=1e-4)
        assert bytes(token.bytes) == one.bytes
        assert [top.token for top in token.top_logprobs] == [top.text for top in one.top_logprobs]
        assert token.top_logprobs[0].logprob == token.logprob  # greedy
    assert b"".join(bytes(token.bytes) for token in content).decode().strip() == found.choices[0].message.content


def test_log_probabilities_of_a_stream_are_those_of_the_whole(client):
    arguments = {"model": "tiny", "messages": user(text_part("a cat")), "max_tokens": 8, "logprobs": True}
    whole = client.chat.completions.create(**arguments).choices[0].logprobs.content
    parts = []
    for chunk in client.chat.completions.create(**arguments, stream=True):
        if chunk.choices[0].logprobs:
            parts += chunk.choices[0].logprobs.content
    assert [part.token for part in parts] == [one.token for one in whole]
    assert [part.logprob for part in parts] == pytest.approx([one.logprob for one in whole], abs=1e-4)


@pytest.mark.parametrize("streamed", [False, True])
def test_n_samples_are_those_of_the_seed(client, kosmos, images, streamed):
    arguments = {
        "model": "tiny", "messages": user(image_part(images[0]), text_part("a")), "max_tokens": 10, "n": 2, "seed": 5,
        "temperature": 1.5, "top_p": 0.9,
    }  # fmt: skip
    texts = ["", ""]
    if streamed:
        for chunk in client.chat.completions.create(**arguments, stream=True):
            [choice] = chunk.choices
            texts[choice.index] += choice.delta.content or ""
    else:
        found = client.chat.completions.create(**arguments)
        assert [choice.index for choice in found.choices] == [0, 1]
        texts = [choice.message.content for choice in found.choices]
    expected = kosmos.generate(
        "<image> a", images[0], n=2, seed=5, max_new_tokens=10, do_sample=True, temperature=1.5, top_p=0.9
    )
    assert texts == [choice.text for choice in expected.choices]
    assert texts[0] != texts[1]


@pytest.mark.parametrize("stop", ["e", ["zzz", "o", "e"]])
def test_stop(client, kosmos, stop):
    found = client.chat.completions.create(model="tiny", messages=user(text_part("a cat")), max_tokens=40, stop=stop)
    text = found.choices[0].message.content
    assert text == kosmos.generate("a cat", max_new_tokens=40, stop=stop)
    assert not any(mark in text for mark in stop)
    assert found.choices[0].finish_reason == "stop"


def test_length(client):
    found = client.chat.completions.create(model="tiny", messages=user(text_part("a cat")), max_tokens=1)
    assert found.choices[0].finish_reason == "length"


def test_earlier_turns_are_not_read_again(client, kosmos):
    """Each turn costs its own tokens: the answers of the server go back to it as they are."""
    messages, before = [{"role": "system", "content": "the red cat sees a small dog " * 4}], 0
    for turn in range(4):
        messages.append({"role": "user", "content": f"the bird and the tree {turn}"})
        found = client.chat.completions.create(model="tiny", messages=messages, max_tokens=6)
        assert found.usage.prompt_tokens_details.cached_tokens >= before - 16
        before = found.usage.prompt_tokens
        messages.append({"role": "assistant", "content": found.choices[0].message.content})
    plain = " ".join(message["content"] for message in messages[:-1])
    assert isinstance(plain, str) and before > 60


def test_completions(client, kosmos):
    found = client.completions.create(model="tiny", prompt=["a cat", "the dog sees"], max_tokens=8, logprobs=2)
    assert [choice.index for choice in found.choices] == [0, 1]
    assert [choice.text for choice in found.choices] == kosmos.generate(["a cat", "the dog sees"], max_new_tokens=8)
    [first, _] = found.choices
    assert len(first.logprobs.tokens) == len(first.logprobs.token_logprobs) == len(first.logprobs.text_offset)
    assert len(first.logprobs.top_logprobs[0]) == 2
    assert found.object == "text_completion"


def test_completions_of_token_ids(client, kosmos):
    tokens = kosmos.prompt("the dog sees").tokens.tolist()
    for prompt, choices in ((tokens, 1), ([tokens, tokens], 2)):
        found = client.completions.create(model="tiny", prompt=prompt, max_tokens=8)
        assert [choice.text for choice in found.choices] == [
            kosmos.generate("the dog sees", max_new_tokens=8)
        ] * choices


def test_completions_streamed_with_the_prompt(client, kosmos):
    chunks = client.completions.create(model="tiny", prompt="a cat", max_tokens=8, stream=True, echo=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == "a cat" + kosmos.generate("a cat", max_new_tokens=8)


def test_models(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "kosmos_plugin"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gone/model")


def huge_png() -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (6000, 6000)).save(buffer, "PNG")
    return buffer.getvalue()


CAT = user(text_part("a cat"))


@pytest.mark.parametrize(
    ("arguments", "param", "message"),
    [
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "'user'"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content", "valid"),
        ({"messages": user({"type": "audio"})}, "messages[0].content[0].type", "'audio'"),
        ({"messages": user({"type": "text"})}, "messages[0].content[0].text", "must be a text"),
        ({"messages": user({"type": "image_url"})}, "messages[0].content[0].image_url", "url"),
        ({"messages": user(image_part(b"no image"))}, None, "Image 1 cannot be read"),
        ({"messages": user(image_part(b""))}, None, "0 bytes"),
        ({"messages": user(image_part(huge_png()))}, None, "more than 24,000,000 pixels"),
        (
            {"messages": user({"type": "image_url", "image_url": {"url": "data:image/png;base64,???"}})},
            "messages[0].content[0].image_url",
            "not a valid data URI",
        ),
        (
            {"messages": user({"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}})},
            "messages[0].content[0].image_url",
            "fetches none",
        ),
        (
            {"messages": user({"type": "image_url", "image_url": {"url": "/etc/passwd"}})},
            "messages[0].content[0].image_url",
            "fetches none",
        ),
        ({"messages": CAT, "max_tokens": 10_000}, "max_tokens", "do not fit"),
        ({"messages": CAT, "max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"messages": user(text_part("a cat " * 1000))}, None, "tokens"),
        ({"messages": user(text_part("a cat " * 100_000))}, None, "characters"),
        ({"messages": CAT, "temperature": -1}, "temperature", "greater than or equal to 0"),
        ({"messages": CAT, "temperature": "hot"}, "temperature", "valid number"),
        ({"messages": CAT, "top_p": 1.5}, "top_p", "less than or equal to 1"),
        ({"messages": CAT, "n": 0}, "n", "greater than or equal to 1"),
        ({"messages": CAT, "n": 100}, "n", "more than"),
        ({"messages": CAT, "stop": ""}, "stop[0]", "at least 1 character"),
        ({"messages": CAT, "stop": ["a"] * 17}, "stop", "at most 16"),
        ({"messages": CAT, "top_logprobs": 3}, "top_logprobs", "needs logprobs"),
        ({"messages": CAT, "logprobs": True, "top_logprobs": 30}, "top_logprobs", "less than or equal to 20"),
        ({"messages": CAT, "frequency_penalty": 1}, "frequency_penalty", "not supported"),
        ({"messages": CAT, "tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "tools"),
        ({"messages": CAT, "response_format": {"type": "json_object"}}, "response_format", "text only"),
        ({"messages": CAT, "extra_body": {"stop_token_ids": [10**6]}}, None, "not in the vocabulary"),
    ],
)
def test_wrong_requests(client, arguments, param, message):
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(**{"model": "tiny", **arguments})
    assert error.value.type == "invalid_request_error"
    assert error.value.param == param
    assert message in error.value.message


def test_an_unknown_model(client):
    with pytest.raises(openai.NotFoundError) as error:
        client.chat.completions.create(model="gpt-4o", messages=CAT)
    assert error.value.code == "model_not_found"


def test_unknown_fields_are_ignored(client):
    found = client.chat.completions.create(
        model="tiny", messages=CAT, max_tokens=2, user="me", store=False, metadata={"a": "b"}, service_tier="auto",
        parallel_tool_calls=True, extra_body={"mystery": {"deep": [1]}},
    )  # fmt: skip
    assert found.choices


def test_a_client_that_closes_its_stream_frees_the_place(client, served):
    stream = client.chat.completions.create(model="tiny", messages=CAT, max_tokens=240, stream=True, temperature=3)
    next(iter(stream))
    stream.close()
    served.wait_until_idle()


def test_a_client_that_gives_up_frees_the_place(client, served):
    cancelled = served.engine.counters.cancelled
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.1).chat.completions.create(
            model="tiny", messages=CAT, n=20, max_tokens=240, temperature=3
        )
    wait_until(lambda: served.engine.counters.cancelled > cancelled)
    served.wait_until_idle()


def test_keys_and_a_full_queue(kosmos):
    options = ServerOptions(api_key=("right", "another"), temperature=1.0)
    with serving(kosmos, EngineOptions(max_sequences=1, max_queue=1), options) as served:
        with openai.OpenAI(base_url=f"{served.url}/v1", api_key="wrong", max_retries=0) as client:
            for call in (client.models.list, lambda: client.chat.completions.create(model="tiny", messages=CAT)):
                with pytest.raises(openai.AuthenticationError) as error:
                    call()
            assert error.value.code == "invalid_api_key"
        with openai.OpenAI(base_url=f"{served.url}/v1", api_key="another", max_retries=0) as client:
            long = {"model": "tiny", "messages": CAT, "max_tokens": 200, "stream": True, "temperature": 3}
            streams = [client.chat.completions.create(**long) for _ in range(2)]
            with pytest.raises(openai.RateLimitError):
                client.chat.completions.create(model="tiny", messages=CAT)
            for stream in streams:
                stream.close()
            served.wait_until_idle()
            assert client.chat.completions.create(model="tiny", messages=CAT, max_tokens=2).choices
