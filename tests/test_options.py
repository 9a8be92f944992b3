"""Dataclasses as options of a command."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from fairseq_cli_ext.parser import CommandParser
from kosmos_plugin.errors import UserError
from kosmos_plugin.options import REQUIRED, add_options, argument, option, parsed_options


@dataclass(frozen=True)
class Convert:
    to: str = option(REQUIRED, "format of the target", ("fairseq", "safetensors"))
    source: Path = argument("the checkpoint", "SOURCE")
    batch_size: int = option(16, "rows of 100% of the data", minimum=1)
    share: float = option(0.5, "share of the rows", minimum=0.0)
    limit: int | None = option(None, "maximum number of rows (default: all)")
    name: str | None = option(None, "name of the run", metavar="NAME")
    shots: tuple[int, ...] = option((0, 2), "numbers of demonstrations")
    stop: tuple[str, ...] = option((), "text that ends generation", repeated=True)
    strict: bool = option(True, "whether to check the source")


@dataclass(frozen=True)
class Inputs:
    inputs: tuple[Path, ...] = argument("files", "INPUT")


def parse(options: type, *arguments: str):
    parser = CommandParser("convert")
    add_options(parser, options)
    return parsed_options(parser.parse_args(arguments), options)


def test_defaults_are_the_dataclass_own():
    assert parse(Convert, "a.pt", "--to", "fairseq") == Convert(to="fairseq", source=Path("a.pt"))


def test_values_have_the_fields_types():
    given = "a.pt --to safetensors --batch-size 3 --share 0.25 --limit 7 --name x --shots 1 5 --stop . --stop ?"
    parsed = parse(Convert, *given.split(), "--no-strict")
    assert parsed == Convert(
        to="safetensors",
        source=Path("a.pt"),
        batch_size=3,
        share=0.25,
        limit=7,
        name="x",
        shots=(1, 5),
        stop=(".", "?"),
        strict=False,
    )


def test_positional_arguments():
    assert parse(Inputs, "a", "b").inputs == (Path("a"), Path("b"))
    with pytest.raises(UserError, match="required: INPUT"):
        parse(Inputs)


def test_help_shows_every_default():
    parser = CommandParser("convert")
    add_options(parser, Convert)
    text = " ".join(parser.format_help().split())
    for words in (
        "--to {fairseq,safetensors} format of the target (required)",
        "--batch-size N rows of 100% of the data (default: 16)",
        "--share X share of the rows (default: 0.5)",
        "--limit N maximum number of rows (default: all)",
        "--name NAME name of the run (default: none)",
        "numbers of demonstrations (default: 0 2)",
        "--stop TEXT text that ends generation (default: none)",
        "--strict, --no-strict whether to check the source (default: --strict)",
    ):
        assert words in text, words


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("--to fairseq", "required: SOURCE"),
        ("a.pt", "required: --to"),
        ("a.pt --to fairsec", "--to must be one of fairseq, safetensors, not 'fairsec'. Did you mean 'fairseq'?"),
        ("a.pt --to fairseq --batch_size 3", "unknown option --batch_size. Did you mean '--batch-size'?"),
        ("a.pt --sahre=3", "unknown option --sahre. Did you mean '--share'?"),
        ("a.pt --to fairseq --xyzxyz", "unknown option --xyzxyz. `convert --help` lists the options."),
        ("a.pt b.pt --to fairseq", "unexpected argument 'b.pt'"),
        ("a.pt --to fairseq --batch-size 0", "--batch-size must be at least 1, not 0"),
        ("a.pt --to fairseq --batch-size 1.5", "--batch-size must be a whole number, not '1.5'"),
        ("a.pt --to fairseq --share x", "--share must be a number, not 'x'"),
        ("a.pt --to fairseq --share nan", "--share must be at least 0.0, not nan"),
        ("a.pt --to", "--to: expected one argument"),
        ("a.pt --to fairseq --s 3", "ambiguous option: --s could match"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, message):
    with pytest.raises(UserError) as error:
        parse(Convert, *arguments.split())
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unambiguous_prefix_is_enough():
    assert parse(Convert, "a.pt", "--to", "fairseq", "--batch", "3").batch_size == 3


def test_arguments_after_two_dashes_are_not_options():
    assert parse(Inputs, "--", "--a").inputs == (Path("--a"),)


def test_sub_commands():
    parser = CommandParser("prepare")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_options(commands.add_parser("captions", epilog="example:\n  prepare captions a"), Inputs)
    assert parser.parse_args(["captions", "a"]).inputs == [Path("a")]
    with pytest.raises(UserError, match=r"COMMAND must be one of captions, not 'caption'\. Did you mean 'captions'\?"):
        parser.parse_args(["caption", "a"])
    with pytest.raises(
        UserError, match=r"unknown option --verson\. Did you mean '--version'\? `prepare captions --help`"
    ):
        parser.parse_args(["captions", "a", "--verson"])
    with pytest.raises(UserError, match=r"unknown option --verson\. Did you mean '--version'\? `prepare --help`"):
        parser.parse_args(["--verson"])
    with pytest.raises(UserError, match="required: COMMAND"):
        parser.parse_args([])
    assert "example:\n  prepare captions a" in commands.choices["captions"].format_help()
