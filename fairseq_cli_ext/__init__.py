"""The commands: each parses its options, calls the package and prints."""

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable


def main_of_command(run: Callable[[list[str] | None], None], arguments: list[str] | None) -> None:
    """Run a command; what a user got wrong ends it with one line on standard error and exit status 2."""
    try:
        import_quietly()
    except ImportError as error:  # without fairseq it says what to install
        sys.exit(f"error: {error}")
    from kosmos_plugin.errors import UserError

    try:
        run(arguments)
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # `| head` has read enough; what is left must not be written at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def import_quietly() -> None:
    """Import the plugin, and with it fairseq, without the messages that they have then."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="fairscale")
    logging.basicConfig(level=logging.WARNING)  # before fairseq asks for more
    logging.disable(logging.INFO)  # fairseq talks while it is imported
    import kosmos_plugin

    kosmos_plugin.register()
    logging.disable(logging.NOTSET)


def require_positive(args: argparse.Namespace, names: Iterable[str]) -> None:
    """UserError for the first of the options `names` that is below 1."""
    from kosmos_plugin.errors import UserError

    for name in names:
        if getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(args, name)}.")
