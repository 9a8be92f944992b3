"""What a browser may do with the page. It passes the server's Guard like all requests, and only this is let through.

Gradio serves more than the page needs: it fetches URLs, reads files that a request names, and edits its own program. So
its paths are listed here, a request names no file but one that was uploaded or made for it, and nothing of the page
comes from another server, or goes there.
"""

import json
import re
import urllib.parse
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import Message

from kosmos_plugin.serving.errors import ApiError
from kosmos_plugin.serving.page.files import PageFiles

ROOT = "/chat"
_API = f"{ROOT}/gradio_api"
_FILE = f"{_API}/file="
_OPEN = re.compile(
    rf"/(favicon\.ico)?|{ROOT}(/|/login|/config|/theme\.css|/favicon\.ico|/manifest\.json|/(assets|static)/.*"
    r"|/gradio_api/(startup-events|app_id|info|upload|upload_progress|cancel|reset|queue/(join|data)|heartbeat/\w+))?"
)
_FORMS = {
    f"{_API}/upload": ("multipart/form-data",),
    f"{ROOT}/login": ("multipart/form-data", "application/x-www-form-urlencoded"),
}
# The browser itself then loads nothing from elsewhere, whatever the page says. Gradio has scripts in the page, makes
# functions of texts, and shows pictures before they are uploaded.
_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'self'; form-action 'self'; base-uri 'self'; object-src 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class PageAccess:
    """Which requests the page is for, and which of them are allowed.

    Args:
        files: What was uploaded, or made for the page; no other file is read or served.
        origins: Other web origins that may use the server, * for all.
    """

    def __init__(self, files: PageFiles, origins: Sequence[str]):
        self.files = files
        self.origins = origins

    def covers(self, path: str) -> bool:
        """Whether a path belongs to the page."""
        return path in ("/", "/favicon.ico", ROOT) or path.startswith(f"{ROOT}/")

    def check(self, path: str, headers: Headers) -> None:
        """Raise ApiError for a path that the page does not need, a file of the server, or a page of another origin."""
        if path.startswith(_FILE):
            if not self.files.has(path.removeprefix(_FILE)):
                raise ApiError(404, "There is no such file.")
        elif not _OPEN.fullmatch(path):
            raise ApiError(404, f"There is no such path; the page is at {ROOT}.")
        origin = headers.get("origin")
        if origin is not None and not self._may_use(origin, headers.get("host", "")):
            raise ApiError(403, "The page is not for other web sites: see --cors-origin.")

    def form_types(self, path: str) -> tuple[str, ...]:
        """The types of a form that is sent to a path; none: it takes JSON."""
        return _FORMS.get(path.rstrip("/"), ())

    def check_body(self, body: bytes) -> None:
        """Raise ApiError for JSON that names a file of the server, or a URL in place of one."""
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            raise ApiError(400, "The body is not valid JSON.") from None
        waiting = [value]
        while waiting:
            value = waiting.pop()
            if isinstance(value, dict):
                if "path" in value and not (isinstance(value["path"], str) and self.files.has(value["path"])):
                    raise ApiError(400, "A file must be uploaded before it is used.")
                waiting += value.values()
            elif isinstance(value, list):
                waiting += value

    def add_headers(self, message: Message) -> None:
        """Add what the browser has to know to the start of an answer."""
        message["headers"] = [
            *message.get("headers", ()),
            *((name.encode(), value.encode()) for name, value in _HEADERS.items()),
        ]

    def _may_use(self, origin: str, host: str) -> bool:
        return "*" in self.origins or origin in self.origins or urllib.parse.urlsplit(origin).netloc == host
