"""What the page lets through, by plain HTTP: paths, files, other origins, names of the server, keys and sizes."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest
from starlette.datastructures import Headers

from kosmos_plugin.errors import UserError
from kosmos_plugin.serving.errors import ApiError
from kosmos_plugin.serving.listening import allowed_hosts
from kosmos_plugin.serving.options import EngineOptions, ServerOptions
from kosmos_plugin.serving.page.access import PageAccess
from kosmos_plugin.serving.page.files import PageFiles
from tests.serving.conftest import serving
from tests.serving.page.conftest import SETTINGS, Visitor, texts

API = "/chat/gradio_api"
JOIN = f"{API}/queue/join"


@pytest.fixture
def browser(paged):
    with httpx2.Client(base_url=paged.url, timeout=60) as client:
        yield client


def upload(client, content=b"picture", name="a.png", **headers):
    return client.post(f"{API}/upload", files={"files": (name, content)}, headers=headers)


def test_the_page_is_there_and_loads_nothing_from_elsewhere(browser):
    assert browser.get("/").headers["location"] == "/chat/"
    page = browser.get("/chat/")
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'self' data: blob:;" in policy and "http" not in policy and "*" not in policy
    config = browser.get("/chat/config").json()
    assert config["analytics_enabled"] is False
    assert "fonts.googleapis.com" not in page.text + browser.get("/chat/theme.css").text


def test_only_paths_that_the_page_needs_are_open(files):
    """Of all routes that Gradio has, or will have."""
    routes = Path(pytest.importorskip("gradio").routes.__file__).read_text()
    found = re.findall(r'@(app|router)\.\w+\(\s*"([^"]+)"', routes)
    access = PageAccess(files, ())

    def is_open(path):
        try:
            access.check(path, Headers({}))
        except ApiError as error:
            assert error.status == 404
            return False
        return True

    paths = {f"{'/chat' if kind == 'app' else API}{re.sub('{.*?}', 'a', path)}" for kind, path in found}
    assert len(paths) > 60
    assert {path.removeprefix("/chat") for path in paths if is_open(path)} == {
        *("/", "/login", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/assets/a", "/static/a"),
        *(
            f"/gradio_api/{name}"
            for name in (
                *("startup-events", "app_id", "info", "upload", "upload_progress", "cancel", "reset"),
                *("queue/join", "queue/data", "heartbeat/a"),
            )
        ),
    }


@pytest.mark.parametrize(
    "path",
    [
        "/file=/etc/passwd",
        "/file=../../../../etc/passwd",
        "/file=%2Fetc%2Fpasswd",
        "/file=http://127.0.0.1:1/",
        "/file=https://example.com/",
        "/file={folder}/../../etc/passwd",
        "/file={folder}",
        "/file=",
        "/file=%00",
        "/proxy=https://example.hf.space/",
        "/run/ask",
        "/call/ask",
        "/vibe-code",
        "/component_server",
        "/deep_link?session_hash=a",
        "/../monitoring",
        "/../monitoring/summary",
        "/../assets/../../../../../etc/passwd",
        "/../assets/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/../static/..%2f..%2f..%2fetc/passwd",
    ],
)
def test_no_file_of_the_server_and_no_url_is_served(paged, files, path):
    answer = httpx2.get(f"{paged.url}{API}{path.format(folder=files.folder)}")
    assert answer.status_code in (403, 404, 405)
    assert b"root:" not in answer.content


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "{folder}/../../etc/passwd", "https://example.com/a.png", "http://127.0.0.1:1/", "", "\0", 7, None],
)
def test_a_request_names_no_file_but_uploads(browser, files, path):
    """In the message, in another component's value, and in what an event tells."""
    path = path.format(folder=files.folder) if isinstance(path, str) else path
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    for data, event in (
        ([None, {"text": "a", "files": [file]}, "plain", *SETTINGS], None),
        ([None, {"text": "a", "files": []}, "plain", file, *SETTINGS[1:]], None),
        ([None, {"text": "a", "files": []}, "plain", *SETTINGS], {"value": [{"files": [[file]]}]}),
    ):
        body = {"data": data, "event_data": event, "fn_index": 0, "session_hash": "a"}
        answer = browser.post(JOIN, json=body)
        assert (answer.status_code, answer.json()["error"]["message"]) == (
            400,
            "A file must be uploaded before it is used.",
        )
    assert not [path for path in files.folder.rglob("*") if path.name == "passwd"]


def test_gradio_itself_refuses_files_too(paged):
    """Should a way around the check above be found."""
    from gradio.context import LocalContext
    from gradio.exceptions import InvalidPathError
    from gradio.processing_utils import _check_allowed

    app = next(route.app for route in paged.app.routes if getattr(route, "path", "") == "/chat")
    token = LocalContext.blocks.set(app.get_blocks())
    try:
        with pytest.raises(InvalidPathError):
            _check_allowed("/etc/passwd", check_in_upload_folder=True)
    finally:
        LocalContext.blocks.reset(token)


def test_other_sites_cannot_use_the_page(browser, paged):
    mine, other = {"Origin": paged.url}, {"Origin": "https://example.com"}
    assert upload(browser, **mine).status_code == 200
    for origin in (other, {"Origin": "null"}, {"Origin": f"http://127.0.0.1:{paged.port + 1}"}):
        assert upload(browser, **origin).status_code == 403
        assert browser.post(JOIN, json={}, headers=origin).status_code == 403
        answer = browser.get("/chat/config", headers=origin)
        assert (answer.status_code, "access-control-allow-origin" in answer.headers) == (403, False)
    assert browser.post(JOIN, content=b"{}", headers={"Content-Type": "text/plain"}).status_code == 400
    answer = browser.post(f"{API}/upload", content=b"a", headers={"Content-Type": "text/plain"})
    assert (answer.status_code, "multipart/form-data" in answer.text) == (400, True)


def test_bodies_that_are_wrong(browser):
    for body in (b"", b"{", b"[" * 100_000, b"\xff"):
        answer = browser.post(JOIN, content=body, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["message"]) == (400, "The body is not valid JSON.")
    for value in ({}, [], None, 7, {"data": 7}, {"data": [], "fn_index": 0}):
        assert browser.post(JOIN, json=value).status_code in (400, 422)


def test_uploads_are_private_and_limited(browser, files):
    assert oct(files.folder.stat().st_mode)[-3:] == "700"
    [path] = upload(browser, name="../../evil.png").json()
    assert files.has(path)
    answer = browser.get(f"{API}/file={path}")
    assert answer.content == b"picture"
    [path] = upload(browser, b"<script>alert(1)</script>", "a.html").json()
    answer = browser.get(f"{API}/file={path}")
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert upload(browser, b"x" * 2**21).status_code == 413


def test_room_for_uploads():
    files = PageFiles(100)  # keeps 3,200 bytes
    own, old, new = (files.folder / name for name in ("own", "old", "new"))
    own.write_bytes(b"x" * 3000)
    files.keep()
    for age, path in enumerate((new, old)):
        path.write_bytes(b"x" * 1500)
        os.utime(path, (1000 - age, 1000 - age))
    files.make_room(200)
    assert own.exists() and old.exists() and new.exists()
    files.make_room(201)
    assert own.exists() and not old.exists() and new.exists()
    files.delete()
    assert not files.folder.exists()


def test_an_image_that_was_deleted(visitor, picture, files, warnings, monkeypatch):
    before = visitor.ask("a", picture)
    monkeypatch.setattr(files, "max_bytes", 0)
    files.make_room(0)
    assert visitor.ask("b") == before
    assert warnings == ["The image noise.png is not kept any longer: send it again."]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:1234", 200),
        ("127.0.0.1", 200),
        ("[::1]:80", 200),
        ("example.com", 400),
        ("example.com:8000", 400),
        ("127.0.0.1.example.com", 400),
        ("localhost.example.com", 400),
        ("0.0.0.0", 400),
        ("", 400),
    ],
)
def test_names_of_a_server_on_loopback(browser, host, status):
    """A site whose name points to this machine cannot use the server (DNS rebinding)."""
    for path in ("/v1/models", "/health", "/chat/", "/chat/config"):
        assert browser.get(path, headers={"Host": host}).status_code == status


@pytest.mark.parametrize(
    ("host", "given", "hosts"),
    [
        ("0.0.0.0", (), ["*"]),
        ("::1", (), ["[::1]", "localhost", "127.0.0.1", "[::1]"]),
        ("127.0.0.2", (), ["127.0.0.2", "localhost", "127.0.0.1", "[::1]"]),
        ("localhost", ("*.a.example", "b"), ["localhost", "*.a.example", "b", "localhost", "127.0.0.1", "[::1]"]),
        ("0.0.0.0", ("a.example",), ["0.0.0.0", "a.example", "localhost", "127.0.0.1", "[::1]"]),
        ("127.0.0.1", ("*",), ["127.0.0.1", "*", "localhost", "127.0.0.1", "[::1]"]),
    ],
)
def test_allowed_hosts(host, given, hosts):
    assert allowed_hosts(host, given) == hosts


@pytest.mark.parametrize("name", ["a.*", "*a", "https://a.example", "*.*"])
def test_wrong_allowed_hosts(name):
    with pytest.raises(UserError, match=r"^--allowed-host .* must be a name"):
        allowed_hosts("127.0.0.1", (name,))


def test_the_key(kosmos, files, picture):
    """The page asks for it, and what it is asked without it is refused; the API has its own header."""
    options = ServerOptions(template="plain", api_key=("the key",))
    with serving(kosmos, EngineOptions(), options, files) as served, httpx2.Client(base_url=served.url) as client:
        assert client.get("/").headers["location"] == "/chat/"
        page = client.get("/chat/").text
        assert "The password is the API key of the server" in page and '"components":[]' in page
        [kept] = [path for path in files.folder.rglob("*") if path.name == "caption-1.png"][:1]
        assert client.post(JOIN, json={"data": [], "fn_index": 0, "session_hash": "a"}).status_code == 401
        assert upload(client).status_code == 401
        for path in ("/chat/config", f"{API}/info", f"{API}/queue/data?session_hash=a", f"{API}/file={kept}"):
            assert client.get(path).status_code == 401
        for password in ("", "another", "THE KEY", "the key "):
            assert client.post(
                "/chat/login", files={"username": (None, "a"), "password": (None, password)}
            ).status_code in (400, 422)
        with pytest.raises(Exception, match="Could not login"):
            Visitor(served.url, auth=("a", "another"))
        visitor = Visitor(served.url, auth=("a", "the key"))
        assert texts(visitor.ask("a cat", picture))[0] == "a cat"
        assert (
            client.post("/chat/login", files={"username": (None, "a"), "password": (None, "the key")}).status_code
            == 200
        )
        assert client.get("/chat/config").status_code == 200
        assert client.get("/v1/models").status_code == 401
        visitor.client.close()


@pytest.mark.slow
def test_the_server_does_not_need_gradio():
    code = (
        "import sys; sys.modules['gradio'] = None\n"
        "import kosmos_plugin.serving.app, kosmos_plugin.serving.page.access, kosmos_plugin.serving.page.files"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


@pytest.mark.slow
def test_without_the_extra():
    code = (
        "import sys; sys.modules['gradio'] = None\n"
        "from fairseq_cli_ext.serve import cli_main\n"
        f"cli_main(['--path', {__file__!r}, '--page'])"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        'error: kosmos-serve --page needs the package gradio: pip install "kosmos-plugin[page]"'
    )


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_the_files_are_deleted_at_the_end(checkpoint, tmp_path, number):
    """While a page is open, and with one line."""
    pytest.importorskip("gradio")
    command = [sys.executable, "-W", "ignore", "-m", "fairseq_cli_ext.serve", "--path", checkpoint, "--port", "0"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([*command, "--page"], stderr=subprocess.PIPE, text=True, env=environment) as process:
        url = next(line for line in process.stderr if line.startswith("The page is at")).split()[-1]
        [folder] = tmp_path.glob("kosmos-page-*")
        assert upload(httpx2.Client(base_url=url.removesuffix("/chat"))).status_code == 200
        with httpx2.stream("GET", f"{url}/gradio_api/heartbeat/a") as heartbeat:
            lines = heartbeat.iter_lines()  # kept, as its end is that of the connection
            next(lines)
            process.send_signal(number)
            begin = time.monotonic()
            assert process.wait(60) == 128 + number
            assert time.monotonic() - begin < 20  # two on a machine that is not busy
        assert [line for line in process.stderr if line.strip()] == ["Stopped.\n"]
    assert not folder.exists()


@pytest.mark.slow
def test_the_server_connects_to_nothing(checkpoint, picture):
    """From its start on, whatever is done on the page."""
    pytest.importorskip("gradio")
    code = (
        "import sys\n"
        "def hook(event, arguments):\n"
        "    if event in ('socket.connect', 'socket.sendto', 'socket.getaddrinfo', 'socket.gethostbyname'):\n"
        "        where = arguments[event in ('socket.connect', 'socket.sendto')]\n"
        "        print('LOOKS FOR', repr(where), file=sys.stderr, flush=True)\n"
        "sys.addaudithook(hook)\n"
        "from fairseq_cli_ext.serve import cli_main\n"
        "cli_main(sys.argv[1:])"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, "--path", checkpoint, "--port", "0", "--page"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        found = []
        for line in process.stderr:
            found.append(line)
            if line.startswith("The page is at"):
                break
        visitor = Visitor(line.split()[-1].removesuffix("/chat"))
        visitor.ask("a cat", picture, template="question-answer")
        assert visitor.do("look")
        visitor.client.close()
        process.send_signal(signal.SIGTERM)
        found += process.stderr
    looked = [line for line in found if line.startswith("LOOKS FOR")]
    assert looked and all("'127.0.0.1'" in line for line in looked)
