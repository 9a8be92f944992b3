"""What every request passes first: the key, the size of its body, that of all bodies, and the time it takes to come.

An ASGI application around another one. It reads the body, at most as much as is allowed, and hands it on whole.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kosmos_plugin.serving.errors import ApiError, busy, json_bytes
from kosmos_plugin.serving.keys import is_key

if TYPE_CHECKING:
    from kosmos_plugin.serving.page.access import PageAccess

BODY_SECONDS = 60.0
BODIES = 8  # as many of the largest size are held in memory at the same time
OPEN_PATHS = ("/health",)  # without a key
KNOWN_PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/models", "/health", "/metrics")
JSON = ("application/json",)


class Guard:
    """Refuses what is not allowed, in OpenAI's form.

    Args:
        app: The application.
        api_keys: The keys that are accepted; none: no key is needed.
        max_body: Bytes of a body.
        answers: Counts answers by path and status.
        page: What is allowed to the page, which asks for the key itself; None: there is no page.
    """

    def __init__(
        self,
        app: ASGIApp,
        api_keys: Sequence[str],
        max_body: int,
        answers: Counter[tuple[str, int]],
        page: "PageAccess | None" = None,
    ):
        self.app = app
        self.keys = [key.encode() for key in api_keys]
        self.max_body = max_body
        self.answers = answers
        self.page = page
        self.held = 0  # bytes of the bodies of requests in progress

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in KNOWN_PATHS else "other"
        page = self.page if self.page is not None and self.page.covers(scope["path"]) else None
        form_types = page.form_types(scope["path"]) if page is not None else ()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.answers["page" if page else path, message["status"]] += 1
                if page is not None:
                    page.add_headers(message)
            await send(message)

        body = bytearray()
        try:
            headers = dict(scope["headers"])
            if page is None:
                self._check_key(scope["path"], headers)
            else:
                page.check(scope["path"], Headers(scope=scope))
            if scope["method"] in ("POST", "PUT", "PATCH"):
                self._check_headers(headers, form_types or JSON)
                await self._read(receive, body)
                if page is not None and form_types:
                    await anyio.to_thread.run_sync(page.files.make_room, len(body))
                elif page is not None:
                    page.check_body(bytes(body))
                receive = _after(bytes(body), receive)
            await self.app(scope, receive, counted)
        except _Disconnected:
            pass
        except ApiError as error:
            await refuse(counted, error)
        finally:
            self.held -= len(body)

    def _check_key(self, path: str, headers: dict[bytes, bytes]) -> None:
        if not self.keys or path in OPEN_PATHS:
            return
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not is_key(given.strip(), self.keys):
            message = "The API key is missing or wrong: send the header Authorization: Bearer KEY."
            raise ApiError(401, message, code="invalid_api_key")

    def _check_headers(self, headers: dict[bytes, bytes], kinds: Sequence[str]) -> None:
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.max_body:
            raise self._too_large()
        # Of another type, a page of any site could send it from a browser without asking.
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind.decode("latin-1") not in kinds:
            what = "JSON" if kinds == JSON else "a form"
            raise ApiError(400, f"The body must be {what}: send the header Content-Type: {kinds[0]}.")

    async def _read(self, receive: Receive, body: bytearray) -> None:
        """Append what comes to `body`."""
        with anyio.move_on_after(BODY_SECONDS) as time:
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _Disconnected
                part = message.get("body", b"")
                if len(body) + len(part) > self.max_body:
                    raise self._too_large()
                if self.held + len(part) > BODIES * self.max_body:
                    raise busy()
                body += part
                self.held += len(part)
                more = message.get("more_body", False)
        if time.cancelled_caught:
            raise ApiError(408, f"The body did not arrive within {BODY_SECONDS:g} s.")

    def _too_large(self) -> ApiError:
        return ApiError(413, f"The request is larger than {self.max_body / 2**20:,.4g} MiB.", code="request_too_large")


def _after(body: bytes, receive: Receive) -> Receive:
    """The body, then what `receive` still gives: that the client has gone."""
    parts: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return parts.pop() if parts else await receive()

    return replay


class _Disconnected(Exception):
    """The client has gone before its request was complete."""


async def refuse(send: Send, error: ApiError) -> None:
    """Answer with an error."""
    body = json_bytes(error.body())
    headers: list[Any] = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.status == 429:
        headers.append((b"retry-after", b"1"))
    if error.status in (408, 413, 429):  # the rest of the body may not have been read
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
