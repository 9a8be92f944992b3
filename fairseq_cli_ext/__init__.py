"""The commands: each parses its options, calls the package and prints.

A command is a module with `parser()`, `run(args)` and `cli_main`, which hands both to `run_command`. The module
imports only what its options need; `run` imports the rest, after the options have been parsed.
"""

import argparse
import errno
import logging
import os
import sys
from collections.abc import Callable

from fairseq_cli_ext.stopping import Stopping
from kosmos_plugin.errors import UserError


def run_command(
    parser: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace], None],
    arguments: list[str] | None,
    resumes: Callable[[argparse.Namespace], bool] = lambda args: False,
) -> None:
    """Parse the options, import the plugin and run the command.

    A UserError ends the program with one line on standard error and exit status 2, Ctrl-C with one and status 130.

    Args:
        parser: The command's parser, a CommandParser.
        run: Runs the command with the parsed arguments.
        arguments: The command line without the command's name; None: this process's.
        resumes: Whether the same command, given again, goes on where this one was stopped.
    """
    with Stopping() as stopping:
        _run(parser, run, arguments, resumes, stopping)


def _run(
    parser: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace], None],
    arguments: list[str] | None,
    resumes: Callable[[argparse.Namespace], bool],
    stopping: Stopping,
) -> None:
    if sys.stdout is None:  # closed (`>&-`)
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the process ends
    try:
        args = parser.parse_args(arguments)
        if resumes(args):
            stopping.message = "Stopped; the same command goes on."
        import_quietly()
        run(args)
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # e.g. `| head` has read enough
        _write_no_more()
        sys.exit(1)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _write_no_more()
        sys.exit(f"error: {error.strerror}: {error.filename or 'standard output'}")


def _write_no_more() -> None:
    """Let Python's flush of standard output at exit succeed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def import_quietly() -> None:
    """Import the plugin and fairseq. From then on only warnings and errors are logged."""
    logging.basicConfig(level=logging.WARNING)
    import kosmos_plugin

    try:
        kosmos_plugin.register()
    except ImportError as error:  # its message says what to install
        sys.exit(f"error: {error}")
