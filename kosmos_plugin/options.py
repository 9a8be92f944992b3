"""Options as dataclass fields: default, help text and choices in one place, from which command lines are made."""

import argparse
import dataclasses
import types
import typing
from collections.abc import Sequence
from typing import Any


def option(default: Any, help: str, choices: Sequence[str] = ()) -> Any:
    """A field of a dataclass of options.

    Args:
        default: The default value.
        help: What `--help` says, with the unit of a number.
        choices: The values that are allowed; empty: any of the field's type.
    """
    return dataclasses.field(default=default, metadata={"help": help, "choices": tuple(choices) or None})


def add_options(parser: argparse.ArgumentParser, options: type) -> None:
    """Add an argument for each field of the dataclass `options`: `max_images: int` becomes `--max-images N`."""
    hints = typing.get_type_hints(options)
    for field in dataclasses.fields(options):
        kind = hints[field.name]
        settings: dict[str, Any] = {}
        if typing.get_origin(kind) is types.UnionType:  # `int | None`
            kind = typing.get_args(kind)[0]
        if kind is bool:
            settings["action"] = argparse.BooleanOptionalAction
        elif typing.get_origin(kind) is tuple:  # `tuple[str, ...]`: any number of values
            settings |= {"type": typing.get_args(kind)[0], "nargs": "*"}
        else:
            settings |= {"type": kind, "choices": field.metadata["choices"]}
        default = field.default
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        stated = "" if default in (None, ()) or kind is bool else f" (default: {shown})"
        name = f"--{field.name.replace('_', '-')}"
        parser.add_argument(name, default=default, help=f"{field.metadata['help']}{stated}", **settings)


def parsed_options(args: argparse.Namespace, options: type) -> Any:
    """The dataclass `options`, filled from the parsed arguments."""
    values = {field.name: getattr(args, field.name) for field in dataclasses.fields(options)}
    return options(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
