"""The server by plain HTTP: what OpenAI's client never sends, limits, keys, CORS and connections that break."""

import json
import socket
import time

import httpx2
import pytest

from kosmos_plugin.data.samples import SampleBuilder
from kosmos_plugin.generation.generator import Generator
from kosmos_plugin.serving.keys import KEY_VARIABLE
from kosmos_plugin.serving.options import EngineOptions, ServerOptions
from tests import tiny
from tests.serving.conftest import serving, wait_until

CHAT = "/v1/chat/completions"
CAT = {"messages": [{"role": "user", "content": "a cat"}], "max_tokens": 3}
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid"),
        (b"{", "not valid JSON"),
        (b'{"messages": [}', "not valid JSON"),
        (b"\xff\xfe", "valid JSON"),
        (b"[1]", "not valid"),
        (b"null", "not valid"),
        (b'"text"', "not valid"),
        (b"[" * 100_000, "valid JSON"),
        (b'{"messages": [{"role": "user", "content": "\\ud83d"}]}', "surrogate"),
        (b'{"messages": [{"role": "user", "content": "a"}], "temperature": NaN}', "finite"),
        (b'{"messages": [{"role": "user", "content": "a"}], "temperature": 1e999}', "finite"),
        (b'{"messages": [{"role": "user", "content": "a"}], "seed": %s}' % (b"9" * 10_000), "valid"),
        (
            b'{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "data:,\\ud83d"}]}]}',
            "data URI",
        ),
        (b'{"messages": [{"role": "user", "content": [[]]}]}', "messages[0].content"),
        (b'{"messages": "a cat"}', "messages"),
        (b'{"messages": [null]}', "messages[0]"),
        (b'{"messages": [{"role": "user", "content": "a"}], "model": "\\ud83d"}', "no model"),
    ],
)
def test_wrong_bodies(http, content, message):
    answer = http.post(CHAT, content=content, headers=JSON)
    assert answer.status_code == (404 if message == "no model" else 400)
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert message in error["message"] and "\n" not in error["message"]


@pytest.mark.parametrize("prompt", [[], [[]], [1, "a"], [10**6], [-1], 7, None, [10**30]])
def test_wrong_prompts(http, prompt):
    answer = http.post("/v1/completions", json={"prompt": prompt})
    assert answer.status_code == 400
    assert "prompt" in answer.json()["error"]["message"]


def test_an_empty_prompt_and_an_empty_message(http):
    assert http.post("/v1/completions", json={"prompt": "", "max_tokens": 3}).status_code == 200
    for content in ("", None, [], "  \n "):
        body = {"messages": [{"role": "user", "content": content}], "max_tokens": 3}
        assert http.post(CHAT, json=body).status_code == 200


def test_a_body_that_is_not_json(http):
    """A page of another site can send a form without being asked, so it must not be taken for JSON."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = http.post(CHAT, content=json.dumps(CAT), headers={"Content-Type": kind})
        assert answer.status_code == 400
        assert "Content-Type: application/json" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/v2", 404), ("GET", CHAT, 405), ("DELETE", "/v1/models", 405), ("GET", "/docs", 404)],
)
def test_wrong_paths(http, method, path, status):
    answer = http.request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_health_and_metrics(http):
    assert http.get("/health").json() == {"status": "ok"}
    http.post(CHAT, json=CAT)
    page = http.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
    values = dict(line.rsplit(" ", 1) for line in page.text.splitlines() if not line.startswith("#"))
    assert int(values['kosmos_answers_total{path="/v1/chat/completions",status="200"}']) >= 1
    assert int(values["kosmos_generated_tokens_total"]) >= 1
    assert int(values["kosmos_cache_blocks"]) > 0


def test_another_site_is_not_answered(http):
    """Without --cors-origin a browser gives no page of another origin what the server says."""
    answer = http.post(CHAT, json=CAT, headers={"Origin": "https://example.com"})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    preflight = {"Origin": "https://example.com", "Access-Control-Request-Method": "POST"}
    answer = http.options(CHAT, headers=preflight)
    assert answer.status_code == 405
    assert not [name for name in answer.headers if name.startswith("access-control")]


def raw(port, content):
    """Send bytes, and return what comes back until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(content)
        received = b""
        while data := connection.recv(2**16):
            received += data
            if b"\r\n\r\n" in received and b"}}" in received:
                break
        return received


@pytest.fixture(scope="module")
def limited(kosmos):
    """A server with a key, an origin and small limits."""
    options = ServerOptions(api_key=("key",), cors_origin=("https://a.example",), max_body_mib=0.01, max_new_tokens=5)
    with serving(kosmos, EngineOptions(max_sequences=2, max_queue=2), options) as served:
        yield served


KEY = {"Authorization": "Bearer key"}


def test_a_large_body_is_refused_before_it_is_read(limited):
    with httpx2.Client(base_url=limited.url, headers=KEY, timeout=60) as client:
        body = {"messages": [{"role": "user", "content": "a" * 20_000}]}
        answer = client.post(CHAT, json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
        chunks = (b"x" * 1000 for _ in range(100))  # without a Content-Length
        assert client.post(CHAT, content=chunks, headers=JSON).status_code == 413
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer key\r\n"
    head += b"Content-Type: application/json\r\n"
    assert b" 413 " in raw(limited.port, head + b"Content-Length: 99999999999\r\n\r\n")


def test_the_memory_of_all_bodies_is_bounded(limited):
    """Clients that send nearly all of a large body and wait: others are refused, and later answered."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer key\r\n"
    head += b"Content-Type: application/json\r\nContent-Length: 10000\r\n\r\n"
    connections = [socket.create_connection(("127.0.0.1", limited.port)) for _ in range(8)]
    for connection in connections:
        connection.sendall(head + b"x" * 9_999)
    with httpx2.Client(base_url=limited.url, headers=KEY, timeout=60) as client:
        large = {**CAT, "user": "x" * 9_000}
        wait_until(lambda: client.post(CHAT, json=large).status_code == 429)
        for connection in connections:
            connection.close()
        wait_until(lambda: client.post(CHAT, json=large).status_code == 200)


def test_the_key(limited):
    for headers in ({}, {"Authorization": "key"}, {"Authorization": "Bearer"}, {"Authorization": "Basic key"}):
        for method, path in (("GET", "/v1/models"), ("POST", CHAT), ("GET", "/metrics"), ("GET", "/gone")):
            answer = httpx2.request(method, limited.url + path, headers=headers)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert httpx2.get(f"{limited.url}/health").status_code == 200
    assert httpx2.get(f"{limited.url}/v1/models", headers={"Authorization": "bearer key"}).status_code == 200


def test_the_key_of_the_environment(kosmos, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    with serving(kosmos, EngineOptions(), ServerOptions(template="plain")) as served:
        assert httpx2.get(f"{served.url}/v1/models").status_code == 401
        assert httpx2.get(f"{served.url}/v1/models", headers={"Authorization": "Bearer secret"}).status_code == 200


def test_the_origin_that_is_allowed(limited):
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    answer = httpx2.options(limited.url + CHAT, headers={"Origin": "https://a.example", **ask})
    assert answer.headers["access-control-allow-origin"] == "https://a.example"
    answer = httpx2.options(limited.url + CHAT, headers={"Origin": "https://b.example", **ask})
    assert "access-control-allow-origin" not in answer.headers
    answer = httpx2.get(f"{limited.url}/v1/models", headers={"Origin": "https://a.example"})  # an error, too
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (401, "https://a.example")


def test_the_limit_of_new_tokens(limited):
    with httpx2.Client(base_url=limited.url, headers=KEY, timeout=60) as client:
        answer = client.post(CHAT, json={**CAT, "max_tokens": 6})
        assert answer.json()["error"]["message"] == "max_tokens may be at most 5 here."
        answer = client.post(CHAT, json={"messages": CAT["messages"]})
        assert answer.json()["usage"]["completion_tokens"] <= 5


def test_a_model_without_vision(data):
    task = tiny.task(data)
    model = tiny.model(task, vision_encoder="none")
    kosmos = Generator(model, task.vocabulary, SampleBuilder(task.vocabulary, tiny.IMAGE_TOKENS, 64))
    image = {"type": "image_url", "image_url": {"url": "data:,a"}}
    with serving(kosmos, EngineOptions(), ServerOptions(template="plain")) as served:
        answer = httpx2.post(f"{served.url}{CHAT}", json={"messages": [{"role": "user", "content": [image]}]})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages[0].content[0].image_url")
        assert "only text" in answer.json()["error"]["message"]
        assert httpx2.post(f"{served.url}{CHAT}", json=CAT, timeout=60).status_code == 200


def test_connections_that_break(served, http):
    """In the middle of the head, of the body, and before the answer."""
    body = json.dumps({**CAT, "max_tokens": 240, "temperature": 3, "n": 3}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    length = b"Content-Length: %d\r\n\r\n" % len(body)
    before = served.engine.counters.prompt_tokens
    for content in (head, head + length + body[:10], head + length + body, b"\x16\x03\x01 this is TLS"):
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            connection.sendall(content)
            if content.endswith(body):
                wait_until(lambda: served.engine.counters.prompt_tokens > before)
    served.wait_until_idle()
    assert http.post(CHAT, json=CAT).status_code == 200


def test_a_client_that_sends_slowly_does_not_stop_others(served, http):
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(head + b"Content-Length: 99\r\n\r\n{")
        begin = time.monotonic()
        assert http.post(CHAT, json=CAT).status_code == 200
        assert time.monotonic() - begin < 30
