"""The errors for a user's mistake and for training data that cannot be used; the former in one line on a terminal."""

import difflib
import os
import sys
from collections.abc import Iterable
from types import TracebackType


class UserError(ValueError):
    """A wrong option, path, file or configuration. The message names it and says what to do."""


class UnusableData(ValueError):
    """Training data that cannot be used: a record, a document or an image. It is skipped and counted.

    Attributes:
        reason: Why, as one of a few phrases, so that reports can count it.
        detail: More about this case, or "".
    """

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason} ({self.detail})" if self.detail else self.reason


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Suggest the known name closest to a misspelled one, for the end of an error message.

    Returns:
        " Did you mean 'captions'?", or "" if none is close.
    """
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def missing_package(what: str, error: ImportError, extra: str) -> UserError:
    """The error for `what` needing a package that is not installed, and that the extra `extra` installs."""
    return UserError(f'{what} needs the package {error.name}: pip install "kosmos-plugin[{extra}]"')


def require_file(path: str | os.PathLike[str], what: str = "") -> None:
    """Raise a UserError, which calls the file `what`, unless there is a file at `path`."""
    if not os.path.isfile(path):
        problem = "is not a file" if os.path.exists(path) else "does not exist"
        raise UserError(f"{what} {os.fspath(path)} {problem}.".lstrip())


def print_user_errors_plainly() -> None:
    """Make an uncaught UserError end the program with its message only, without a traceback."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # otherwise Hydra prints its own traceback
    previous = sys.excepthook
    if getattr(previous, "prints_user_errors", False):
        return

    def excepthook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if issubclass(kind, UserError):
            print(f"error: {error}", file=sys.stderr)
        else:
            previous(kind, error, traceback)

    excepthook.prints_user_errors = True  # type: ignore[attr-defined]  # marks the hook as ours
    sys.excepthook = excepthook
