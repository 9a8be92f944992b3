"""The page in a real browser, without a display: Chromium, driven by Playwright."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kosmos_plugin.generation.text_stream import TextStream
from kosmos_plugin.serving.options import EngineOptions, ServerOptions
from kosmos_plugin.serving.page.looking import Looking
from tests.serving.conftest import Served, serving, wait_until
from tests.serving.page.conftest import slow_steps

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]

HTML = (
    '<img src=x onerror="window.hacked=1"><b>bold</b> **strong** `code` $$x^2$$ <script>window.hacked=1</script> &lt;'
)


@pytest.fixture(scope="module")
def server(kosmos, files) -> Iterator[Served]:
    with serving(kosmos, EngineOptions(max_sequences=2), ServerOptions(template="plain"), files) as served:
        yield served


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


class Tab:
    """The page in a tab, with all that went wrong in it."""

    def __init__(self, chromium, server: Served, path: str = "/chat/", **options):
        self.server = server
        self.page = chromium.new_page(**{"viewport": {"width": 1280, "height": 800}} | options)
        self.page.set_default_timeout(30_000)
        self.errors: list[str] = []
        self.hosts: set[str] = set()
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        self.page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))
        self.page.goto(server.url + path)
        self.box = self.page.get_by_placeholder("Ask something")
        self.box.wait_for()

    def messages(self, role: str = "") -> list[str]:
        """The texts that are shown."""
        selector = f"[role=log] [data-testid={role}]" if role else "[role=log] [data-testid]"
        return [text for each in self.page.query_selector_all(selector) if (text := each.inner_text().strip())]

    def ask(self, text: str) -> None:
        """Ask, and wait for the end of the answer."""
        self.box.fill(text)
        with self.answered():
            self.box.press("Enter")

    @contextmanager
    def answered(self) -> Iterator[None]:
        """Wait for the answer to what is done inside."""
        counters = self.server.engine.counters
        before = counters.prompt_tokens
        yield
        wait_until(lambda: counters.prompt_tokens > before)
        self.server.wait_until_idle()
        self.page.wait_for_timeout(300)
        self.page.get_by_role("button", name="Stop").wait_for(state="detached")
        self.page.wait_for_function("!document.querySelector('[data-testid=textbox]').disabled")

    def press(self, name: str) -> None:
        self.page.get_by_role("log").get_by_role("button", name=name, exact=True).last.click()

    def upload(self, *paths) -> None:
        self.page.set_input_files("input[type=file]", [str(path) for path in paths])
        self.page.get_by_role("button", name="Remove file").nth(len(paths) - 1).wait_for()


@pytest.fixture
def tab(chromium, server) -> Iterator[Tab]:
    tab = Tab(chromium, server, "/")
    yield tab
    tab.page.close()
    server.wait_until_idle()
    assert tab.errors == []
    assert tab.hosts == {f"127.0.0.1:{server.port}"}


@pytest.fixture
def slow(server, monkeypatch):
    slow_steps(server.engine, monkeypatch)


def test_a_dialogue_about_a_picture(kosmos, server, tab, picture):
    tab.upload(picture)
    tab.ask("a red cat")
    [[_, first]] = [tab.messages()]
    assert first == kosmos.generate("<image> a red cat", str(picture), max_new_tokens=64)
    assert "64 new tokens" in tab.page.inner_text("#usage")
    read = server.engine.counters.computed_tokens
    tab.ask("sees the dog")
    assert tab.messages()[:3] == ["a red cat", first, "sees the dog"] and len(tab.messages()) == 4
    assert server.engine.counters.computed_tokens - read < 64 + 16 + 16  # of the first turn nothing
    assert tab.page.locator("[role=log] img").count() == 1

    tab.page.get_by_role("log").get_by_role("button", name="Edit", exact=True).first.click()
    edited = tab.page.locator("[role=log] textarea")
    assert edited.input_value() == "a red cat"
    edited.fill("a <b>blue</b> cat")
    with tab.answered():
        tab.press("Submit")
    shown, answer = [text.replace("\N{WORD JOINER}", "") for text in tab.messages()]
    assert shown == "a <b>blue</b> cat"
    assert answer == kosmos.generate("<image> a <b>blue</b> cat", str(picture), max_new_tokens=64)

    with tab.answered():
        tab.press("Retry")
    assert tab.messages()[-1] == answer
    tab.press("Undo")
    tab.page.wait_for_function("document.querySelector('[data-testid=textbox]').value != ''")
    assert tab.box.input_value() == "a <b>blue</b> cat"
    assert tab.page.get_by_role("button", name="Remove file").count() == 1
    tab.ask("what?")
    tab.page.get_by_role("button", name="Clear").click()
    tab.page.get_by_text("IQ matrix").wait_for()


def test_pictures_that_are_dropped_and_several_of_them(kosmos, tab, picture):
    data = list(picture.read_bytes())
    transfer = tab.page.evaluate_handle(
        """bytes => {
            const data = new DataTransfer();
            for (const name of ["a.png", "b.png"])
                data.items.add(new File([new Uint8Array(bytes)], name, {type: "image/png"}));
            return data;
        }""",
        data,
    )
    tab.box.dispatch_event("drop", {"dataTransfer": transfer})
    tab.page.get_by_role("button", name="Remove file").nth(1).wait_for()
    tab.ask("and")
    assert tab.messages()[-1] == kosmos.generate("<image> <image> and", [str(picture)] * 2, max_new_tokens=64)
    assert tab.page.locator("[role=log] img").count() == 2


def test_an_answer_is_seen_while_it_is_generated_and_stopped(server, tab, slow):
    cancelled = server.engine.counters.cancelled
    tab.box.fill("the")
    tab.box.press("Enter")
    tab.page.get_by_role("button", name="Stop").wait_for()
    wait_until(lambda: len(tab.messages()) == 2 and tab.page.wait_for_timeout(20) is None)
    before = tab.messages()[-1]
    tab.page.wait_for_function(
        "length => document.querySelector('[role=log]').innerText.length > length + 10", arg=len(before)
    )
    tab.page.get_by_role("button", name="Stop").click()
    server.wait_until_idle()
    assert server.engine.counters.cancelled == cancelled + 1
    tab.page.get_by_role("button", name="Stop").wait_for(state="detached")
    after = tab.messages()[-1]
    assert after.startswith(before) and len(after) > len(before)
    tab.ask("and on")
    assert len(tab.messages()) == 4 and tab.messages()[1] == after


def test_a_tab_that_is_closed_frees_its_place(chromium, server, slow):
    cancelled = server.engine.counters.cancelled
    tab = Tab(chromium, server)
    tab.box.fill("the")
    tab.box.press("Enter")
    tab.page.get_by_role("button", name="Stop").wait_for()
    wait_until(lambda: server.engine.unfinished == 1)
    tab.page.close()
    server.wait_until_idle()
    assert server.engine.counters.cancelled == cancelled + 1


def test_examples(kosmos, tab):
    with tab.answered():
        tab.page.get_by_text("Caption", exact=True).click()
    assert tab.messages()[0] == "An image of" and len(tab.messages()) == 2
    tab.page.get_by_role("button", name="Clear").click()
    with tab.answered():
        tab.page.get_by_text("Question", exact=True).click()
    assert tab.messages()[0] == "what color is the shape?"
    assert tab.page.get_by_label("question-answer").is_checked()
    tab.page.get_by_role("button", name="Clear").click()
    with tab.answered():
        tab.page.get_by_text("IQ matrix").click()
    assert tab.page.locator("[role=log] img").count() == 4


def test_where_it_looked(tab, picture):
    tab.page.get_by_text("Show it for the last answer").click()
    tab.page.get_by_text("There is no answer yet.").wait_for()
    tab.upload(picture)
    tab.ask("a cat")
    tab.page.get_by_text("Show it for the last answer").click()
    tab.page.locator(".maps img").wait_for()
    tokens = tab.page.locator(".tokens label")
    assert tokens.count() > 3
    first = tab.page.locator(".maps img").get_attribute("src")
    assert tab.page.evaluate("document.querySelector('.maps img').naturalWidth") == 448
    tokens.last.click()
    tab.page.wait_for_function("first => document.querySelector('.maps img').src != first", arg=first)
    tab.ask("and a dog")
    assert not tab.page.locator(".maps img").is_visible()


def test_tokens_are_shown_as_text(tab, picture, monkeypatch):
    async def look(looking, dialogue):
        return 0, [HTML]

    monkeypatch.setattr(Looking, "look", look)
    monkeypatch.setattr(Looking, "html", lambda *of_token: "")
    tab.upload(picture)
    tab.ask("a cat")
    tab.page.get_by_text("Show it for the last answer").click()
    tab.page.locator(".tokens label").wait_for()
    assert tab.page.locator(".tokens label").inner_text() == HTML
    assert tab.page.locator(".tokens :is(img, b, script)").count() == 0


def test_mistakes(tab, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")
    tab.upload(broken)
    tab.box.fill("what?")
    tab.box.press("Enter")
    tab.page.get_by_text("Image 1 cannot be read: image that cannot be decoded (unknown format)").wait_for()
    wait_until(lambda: tab.box.input_value() == "what?")  # the page takes the question, and gives it back
    assert tab.messages() == []
    tab.page.get_by_role("button", name="Remove file").click()
    tab.ask("a cat")
    assert len(tab.messages()) == 2
    tab.errors.clear()  # of the picture that the browser cannot show either


def test_what_is_written_is_shown_as_text(tab, monkeypatch):
    monkeypatch.setattr(TextStream, "add", lambda stream, token: HTML)
    tab.ask(HTML)
    asked, answer = [text.replace("\N{WORD JOINER}", "") for text in tab.messages()]
    assert asked == HTML and answer.startswith(HTML + HTML)
    assert tab.page.locator("[role=log] :is(img, b, strong, code, script, .katex)").count() == 0
    tab.page.get_by_text("Generation").click()
    tab.page.wait_for_timeout(500)  # Gradio sets the fields as it opens them
    tab.page.get_by_label("seed").fill(HTML[:30])
    tab.box.fill("a")
    tab.box.press("Enter")
    tab.page.get_by_text("seed must be a whole number, not '<img src=x onerror").wait_for()
    assert tab.page.evaluate("window.hacked") is None


def test_a_phone(chromium, server):
    tab = Tab(chromium, server, viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    tab.ask("a cat")
    assert tab.page.evaluate("document.documentElement.scrollWidth") == 390
    assert tab.page.get_by_text("Where it looked").is_visible()
    tab.page.close()


def test_the_dark_mode_of_the_system(chromium, server):
    tab = Tab(chromium, server, color_scheme="dark")
    color = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert all(int(part) < 50 for part in color.removeprefix("rgb(").removesuffix(")").split(","))
    tab.page.close()


def test_the_key_is_asked_for(kosmos, chromium, files):
    options = ServerOptions(template="plain", api_key=("the key",))
    with serving(kosmos, EngineOptions(), options, files) as served:
        page = chromium.new_page()
        page.goto(f"{served.url}/")
        page.get_by_text("The password is the API key of the server").wait_for()
        for key in ("wrong", "the key"):
            page.get_by_label("username").fill("someone")
            page.get_by_label("password").fill(key)
            page.get_by_role("button", name="Login").click()
            if key == "wrong":
                page.get_by_text("Incorrect").wait_for()
        box = page.get_by_placeholder("Ask something")
        box.fill("a cat")
        box.press("Enter")
        page.locator("[role=log] [data-testid=bot]").first.wait_for()
        page.close()
