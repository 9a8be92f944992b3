"""A command's options as a dataclass, and the arguments of the command line made from it."""

import argparse
import dataclasses
import types
import typing

from kosmos_plugin.errors import UserError


def option(default, help: str, choices: tuple = ()):
    """A field of a dataclass of options; `help` is what --help says, with its unit."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices or None})


def add_options(parser: argparse.ArgumentParser, options: type) -> None:
    """One argument for each field of the dataclass `options`: `max_images: int` becomes --max-images N."""
    hints = typing.get_type_hints(options)
    for field in dataclasses.fields(options):
        kind, settings = hints[field.name], {}
        if typing.get_origin(kind) is types.UnionType:  # `int | None`
            kind = typing.get_args(kind)[0]
        if kind is bool:
            settings["action"] = argparse.BooleanOptionalAction
        elif typing.get_origin(kind) is tuple:  # `tuple[str, ...]`: any number of them
            settings |= {"type": typing.get_args(kind)[0], "nargs": "*"}
        else:
            settings |= {"type": kind, "choices": field.metadata["choices"]}
        default = field.default
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        stated = "" if default in (None, ()) or kind is bool else f" (default: {shown})"
        name = f"--{field.name.replace('_', '-')}"
        parser.add_argument(name, default=default, help=f"{field.metadata['help']}{stated}", **settings)


def parsed_options(args: argparse.Namespace, options: type):
    """The dataclass `options`, filled from the parsed arguments."""
    values = {field.name: getattr(args, field.name) for field in dataclasses.fields(options)}
    return options(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def require(condition: bool, message: str) -> None:
    """UserError with `message` unless `condition`."""
    if not condition:
        raise UserError(message)


def require_valid_share(share: float) -> None:
    """UserError unless a part of the documents, and not all, is held out by `share`."""
    require(0 <= share < 1, f"--valid-share must be 0 … 1, not {share}.")
