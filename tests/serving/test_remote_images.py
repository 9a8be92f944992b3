"""Images at URLs: nothing that is not public is read, whatever it is called and wherever a redirect leads."""

import asyncio
import http.server
import random
import socket
import threading
import time

import httpx2
import pytest

from kosmos_plugin.errors import UserError
from kosmos_plugin.serving import remote_images
from kosmos_plugin.serving.options import EngineOptions, ServerOptions
from kosmos_plugin.serving.remote_images import fetch, is_public
from tests import tiny
from tests.serving.conftest import serving

PUBLIC = ("8.8.8.8", "93.184.216.34", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8")
PRIVATE = """
127.0.0.1 127.8.8.8 0.0.0.0 10.0.0.1 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 192.0.0.1 192.0.2.1 198.18.0.1
198.51.100.1 203.0.113.1 224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255 ::1 :: fe80::1 fe80::1%eth0 fc00::1 fd12::1
fec0::1 ff02::1 ff0e::1 2001:db8::1 100::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::127.0.0.1
64:ff9b::127.0.0.1 64:ff9b::a9fe:a9fe 64:ff9b:1::a00:1 2002:7f00:1::1 2002:a9fe:a9fe::1 2001:0:7f00:1::
2001:0:808:808::8efe:1 nonsense
""".split()


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address):
    assert is_public(address)


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/a.png",
        "http://localhost/a.png",
        "http://LOCALHOST./a.png",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://017700000001/",
        "http://0/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://169.254.169.254/latest/meta-data/",
        "http://①②⑦.⓪.⓪.①/",
        "https://10.0.0.1/",
    ],
)
def test_names_of_private_addresses(url):
    with pytest.raises(UserError, match=r"not at a public address|cannot be fetched|not valid"):
        asyncio.run(fetch(url, 100))


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://example.com/a", "gopher://a", "/etc/passwd", "cat.png", "", "http:///a", "http://"],
)
def test_other_urls(url):
    with pytest.raises(UserError, match=r"data URI|no host"):
        asyncio.run(fetch(url, 100))


@pytest.mark.parametrize(
    "url", ["http://user:password@8.8.8.8/", "http://8.8.8.8:99999/", "http://[/", "http://a\ud83d/"]
)
def test_odd_urls(url):
    with pytest.raises(UserError, match=r"not valid|user name"):
        asyncio.run(fetch(url, 100))


class Site(http.server.BaseHTTPRequestHandler):
    """Pages that behave well and badly."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.requests.append((self.path, self.headers["Host"]))
        getattr(self, self.path.split("/")[1].partition("?")[0])()

    def image(self):
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"image")

    def chunked(self):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"3\r\nima\r\n2\r\nge\r\n0\r\n\r\n")

    def to(self):
        self.send_response(302)
        self.send_header("Location", self.path.removeprefix("/to/"))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def round(self):
        self.send_response(301)
        self.send_header("Location", "/round")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def large(self):
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        for _ in range(1000):
            self.wfile.write(b"x" * 10_000)

    def slow(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        for _ in range(100):
            self.wfile.write(b"x")
            time.sleep(0.1)

    def gone(self):
        self.send_error(404)

    def cut(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"x")
        self.close_connection = True

    def log_message(self, *arguments):
        pass


@pytest.fixture
def site(monkeypatch):
    """A site at 127.0.0.1, which counts as the only public address."""
    monkeypatch.setattr(remote_images, "is_public", lambda address: address == "127.0.0.1")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.handle_error = lambda *arguments: None
    server.requests = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def read(site, path, **options):
    return asyncio.run(fetch(f"http://127.0.0.1:{site.server_port}{path}", options.pop("max_bytes", 1000), **options))


def test_images_are_read(site):
    for path in ("/image", "/chunked", "/to//image", "/to//image?a=b c", "/image?q=%41#part"):
        assert read(site, path) == b"image"
    assert site.requests[-1] == ("/image?q=%41", f"127.0.0.1:{site.server_port}")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/to/http://127.0.0.2/", "not at a public address"),
        ("/to/http://169.254.169.254/latest/meta-data/", "not at a public address"),
        ("/to///[::1]/", "not valid"),
        ("/to/file:///etc/passwd", "data URI"),
        ("/round", "more than 3 redirects"),
        ("/large", "larger than 1,000 bytes"),
        ("/gone", "status 404"),
        ("/cut", "cannot be fetched"),
    ],
)
def test_what_is_not_read(site, path, message):
    with pytest.raises(UserError, match=message) as error:
        read(site, path)
    assert "\n" not in str(error.value)


def test_all_of_it_has_a_time_limit(site):
    begin = time.monotonic()
    with pytest.raises(UserError, match=r"within 0\.5 s"):
        read(site, "/slow", seconds=0.5)
    assert time.monotonic() - begin < 8


def test_the_connection_goes_to_the_address_that_was_checked(site, monkeypatch):
    """A name that means another address a moment later."""
    answers = [["127.0.0.1"], ["127.0.0.2"]]

    def resolve(host, port, *arguments, **more):
        found = answers.pop(0)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    url = f"http://changing.example:{site.server_port}/image"
    assert asyncio.run(fetch(url, 100)) == b"image"
    assert site.requests == [("/image", f"changing.example:{site.server_port}")]
    with pytest.raises(UserError, match="not at a public address"):
        asyncio.run(fetch(url, 100))


def test_one_private_address_of_a_name_is_enough(monkeypatch):
    def resolve(host, port, *arguments, **more):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("8.8.8.8", "10.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(UserError, match="not at a public address"):
        asyncio.run(fetch("http://both.example/", 100))


def test_https_is_not_answered_in_plain_text(site):
    with pytest.raises(UserError, match="cannot be fetched: SSL"):
        asyncio.run(fetch(f"https://127.0.0.1:{site.server_port}/image", 100))


def test_through_the_server(kosmos, site, monkeypatch):
    """Only where it is allowed; the answer is that for the same image in the request."""
    image = tiny.png(random.Random(0))

    def picture(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(image)))
        self.end_headers()
        self.wfile.write(image)

    monkeypatch.setattr(Site, "picture", picture, raising=False)

    def ask(served, url):
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "a"}]
        body = {"messages": [{"role": "user", "content": content}], "max_tokens": 8}
        return httpx2.post(f"{served.url}/v1/chat/completions", json=body, timeout=60)

    with serving(kosmos, EngineOptions(), ServerOptions(template="plain", allow_remote_images=True)) as served:
        answer = ask(served, f"http://127.0.0.1:{site.server_port}/picture")
        expected = kosmos.generate("<image> a", image, max_new_tokens=8)
        assert answer.json()["choices"][0]["message"]["content"] == expected
        answer = ask(served, "http://127.0.0.2/picture")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_image")
