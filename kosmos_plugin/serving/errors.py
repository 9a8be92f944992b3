"""Errors in OpenAI's form: {"error": {"message": …, "type": …, "param": …, "code": …}}."""

import json
from typing import Any

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class ApiError(Exception):
    """What a request is answered with in place of a result.

    Args:
        status: The HTTP status.
        message: What is wrong, and what to do.
        param: The field of the request that it is about.
        code: A name for programs.
    """

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code

    def body(self) -> dict[str, Any]:
        """The body of the answer."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def busy() -> ApiError:
    """The answer while too many requests wait."""
    return ApiError(429, "The server is busy: try again later.", code="rate_limit_exceeded")


def json_bytes(value: Any) -> bytes:
    """JSON in ASCII: messages may quote half a character, which UTF-8 does not have."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
