"""The argument parser of the commands: `--version`, defaults in `--help`, errors that suggest the nearest name."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import kosmos_plugin
from kosmos_plugin.errors import UserError, did_you_mean
from kosmos_plugin.options import help_with_default


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the layout of descriptions, and shows the default of every option."""

    def _get_help_string(self, action: argparse.Action) -> str:
        help = action.help or ""
        takes_no_value = action.nargs == 0 and not isinstance(action, argparse.BooleanOptionalAction)
        if not action.option_strings or takes_no_value:
            return help
        return help_with_default(help, action.default, action.required)


class CommandParser(argparse.ArgumentParser):
    """An ArgumentParser for a command, or a sub-command (`add_subparsers().add_parser(…)`).

    Args:
        prog: The command's name.
        description: What it does, with an example: the module's docstring.
        **settings: Further arguments of argparse.ArgumentParser.

    Raises:
        UserError: In `parse_args`, where argparse would print its usage and exit.
    """

    def __init__(self, prog: str, description: str | None = None, **settings: Any):
        settings.setdefault("formatter_class", HelpFormatter)
        super().__init__(prog, description=description, **settings)
        version = f"{prog.split()[0]} {kosmos_plugin.__version__}"
        self.add_argument("--version", action="version", version=version, help="show the version and exit")

    def parse_known_args(  # type: ignore[override]  # its overloads differ in the namespace only
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse the options; unknown arguments are an error, here and in sub-commands."""
        args = sys.argv[1:] if args is None else list(args)
        self._check_names(args)  # before a misspelled option is reported as a missing one
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unexpected argument {unknown[0]!r}")
        return known, unknown

    def _check_names(self, args: Sequence[str]) -> None:
        options = list(self._option_string_actions)
        for arg in args:
            name = arg.partition("=")[0]
            if name == "--" or (self._subparsers and not name.startswith("-")):  # the rest is not for this parser
                return
            if name.startswith("--") and not any(option.startswith(name) for option in options):
                self.error(f"unknown option {name}.{did_you_mean(name, options)}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            message = f"must be one of {', '.join(known)}, not {value!r}.{did_you_mean(value, known)}"
            raise argparse.ArgumentError(action, message)

    def error(self, message: str) -> NoReturn:
        """Raise argparse's error message as a UserError."""
        message = message.removeprefix("argument ").replace(": must be", " must be")
        message = message if message.endswith(("?", ".")) else f"{message}."
        raise UserError(f"{message} `{self.prog} --help` lists the options.")
