"""The error for what a user can get wrong, and its one-line form on a terminal."""

import sys


class UserError(ValueError):
    """A wrong option, path, file or configuration. The message names it and says what to do."""


def print_user_errors_plainly() -> None:
    """From now on an uncaught UserError ends the program with its message alone, without a traceback."""
    previous = sys.excepthook
    if getattr(previous, "prints_user_errors", False):
        return

    def excepthook(kind, error, traceback):
        if issubclass(kind, UserError):
            print(f"error: {error}", file=sys.stderr)
        else:
            previous(kind, error, traceback)

    excepthook.prints_user_errors = True
    sys.excepthook = excepthook
