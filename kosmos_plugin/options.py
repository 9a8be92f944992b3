"""Options of a command as the fields of a dataclass, from which its command line is made.

    @dataclass(frozen=True)
    class ConvertOptions:
        source: Path = argument("the checkpoint", metavar="SOURCE")
        to: str = option(REQUIRED, "format of the target", choices=("fairseq", "safetensors"))
        workers: int = option(1, "processes", minimum=1)

    add_options(parser, ConvertOptions)                         SOURCE --to {fairseq,safetensors} [--workers N]
    options = parsed_options(parser.parse_args(), ConvertOptions)

An option's type, default, help text and limits are defined only there. Modules that define options import
neither fairseq nor torch, so that a command answers `--help` and usage errors before it imports them.
"""

import argparse
import dataclasses
import os
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

REQUIRED = dataclasses.MISSING

Options = TypeVar("Options")
_METAVARS = {int: "N", float: "X", Path: "PATH"}


def option(
    default: Any,
    help: str,
    choices: Sequence[str] = (),
    *,
    metavar: str | None = None,
    minimum: float | None = None,
    repeated: bool = False,
    must_exist: bool = False,
) -> Any:
    """Define a dataclass field as the option `--name-of-the-field`.

    Args:
        default: The default value, or REQUIRED.
        help: The text for `--help`, with the unit of a number. The default is appended unless the text mentions one.
        choices: The allowed values; empty for any value of the field's type.
        metavar: Name of the value in `--help` (default: from the field's type).
        minimum: The smallest allowed number.
        repeated: For a `tuple` field: the option is given once per value (otherwise once, with all values).
        must_exist: The value is the path of an existing file or folder.
    """
    metadata = {
        "help": help,
        "choices": tuple(choices) or None,
        "metavar": metavar,
        "minimum": minimum,
        "repeated": repeated,
        "must_exist": must_exist,
    }
    return _field(default, metadata)


def argument(help: str, metavar: str, *, must_exist: bool = False) -> Any:
    """Define a dataclass field as a required positional argument; a `tuple` field takes one or more values."""
    return _field(REQUIRED, {"help": help, "metavar": metavar, "positional": True, "must_exist": must_exist})


def _field(default: Any, metadata: dict[str, Any]) -> Any:
    # keyword-only fields may have defaults in any order
    return dataclasses.field(default=default, metadata=metadata, kw_only=default is REQUIRED)


def add_options(parser: "argparse.ArgumentParser | argparse._ArgumentGroup", options: type) -> list[argparse.Action]:
    """Add an argument to `parser`, or to one of its groups, for each field of the dataclass `options`.

    Returns:
        argparse's actions, in the order of the fields.
    """
    hints = typing.get_type_hints(options)
    return [_add(parser, field, hints[field.name]) for field in dataclasses.fields(options)]


def _add(
    parser: "argparse.ArgumentParser | argparse._ArgumentGroup", field: "dataclasses.Field[Any]", kind: Any
) -> argparse.Action:
    metadata = field.metadata
    required = field.default is REQUIRED
    default: Any = None if required else field.default
    described = metadata["help"].replace("%", "%%")  # argparse formats help texts
    settings: dict[str, Any] = {"help": help_with_default(described, default, required)}
    several = typing.get_origin(kind) is tuple  # `tuple[str, ...]`
    if several:
        kind = typing.get_args(kind)[0]
    if isinstance(kind, types.UnionType):  # `int | None`
        kind = typing.get_args(kind)[0]
    if kind is bool:
        settings["action"] = argparse.BooleanOptionalAction
        settings["help"] = help_with_default(described, f"--{'' if default else 'no-'}{_dashed(field.name)}")
    else:
        settings["type"] = _existing(kind) if metadata.get("must_exist") else _converter(kind, metadata.get("minimum"))
        settings["choices"] = metadata.get("choices")
        if not metadata.get("choices"):
            settings["metavar"] = metadata.get("metavar") or _METAVARS.get(kind, "TEXT")
    if metadata.get("positional"):
        if several:
            settings["nargs"] = "+"
        return parser.add_argument(field.name, **settings)
    if several and metadata.get("repeated"):
        settings["action"] = "append"
        default = list(default or ())
    elif several:
        settings["nargs"] = "*"
    return parser.add_argument(f"--{_dashed(field.name)}", default=default, required=required, **settings)


def parsed_options(args: argparse.Namespace, options: type[Options]) -> Options:
    """Fill the dataclass `options` from the parsed arguments."""
    values = {field.name: getattr(args, field.name) for field in dataclasses.fields(options)}  # type: ignore[arg-type]  # a dataclass
    return options(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def help_with_default(help: str, default: Any, required: bool = False) -> str:
    """An option's help text with its default at the end, unless the text mentions a default itself."""
    if "default" in help or "(required" in help or default == argparse.SUPPRESS:
        return help
    if required:
        return f"{help} (required)"
    shown = " ".join(map(str, default)) if isinstance(default, list | tuple) else default
    return f"{help} (default: {'none' if shown in (None, '') else shown})"


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _existing(kind: type) -> Callable[[str], Any]:
    """As `_converter`, for the path of a file or folder that must exist."""

    def convert(text: str) -> Any:
        if not os.path.exists(text):
            raise argparse.ArgumentTypeError(f"{text} does not exist")
        return kind(text)

    return convert


def _converter(kind: type, minimum: float | None) -> Callable[[str], Any]:
    """The function that converts an option's text to its value."""
    names = {int: "a whole number", float: "a number"}
    if kind not in names:
        return kind

    def convert(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be {names[kind]}, not {text!r}") from None
        if minimum is not None and not value >= minimum:
            raise argparse.ArgumentTypeError(f"must be at least {minimum}, not {text}")
        return value

    return convert
