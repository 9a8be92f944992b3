"""Common to all commands: fast `--help`, `--version` and usage errors, without fairseq and torch."""

import importlib
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import kosmos_plugin
from kosmos_plugin.errors import UserError

ROOT = Path(__file__).parents[1]
COMMANDS = ("chat", "convert", "evaluate", "finetune", "generate", "inspect", "prepare", "serve")
# Everything that is slow to import or belongs to an extra.
HEAVY = ("torch", "fairseq", "numpy", "datatrove", "transformers", "matplotlib", "PIL", "fastapi", "uvicorn")


def run(*arguments: str) -> tuple[int, str, str, float]:
    """Run a Python program; return exit status, standard output, standard error and CPU seconds."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=100)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.returncode, done.stdout, done.stderr, seconds


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("argument, status", [("--help", 0), ("--version", 0), ("--unknown", 2)])
def test_answers_quickly(command, argument, status):
    """At most 0.5 s of CPU, or in proportion to importing argparse if the machine or Python's start is slow."""

    def is_fast() -> bool:
        baseline = run("-c", "import argparse")[-1]
        code, output, errors, seconds = run("-m", f"fairseq_cli_ext.{command}", argument)
        assert code == status, errors
        assert bool(output) == (status == 0) and bool(errors) == (status != 0)
        return seconds <= max(0.5, 10 * baseline)

    # One undisturbed run in three is enough: other processes only add to it.
    assert any(is_fast() for _ in range(3))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_nothing_heavy(command):
    program = (
        f"import sys\nfrom fairseq_cli_ext.{command} import cli_main\n"
        "try:\n    cli_main(['--help'])\nfinally:\n"
        f"    print('imported:', *({HEAVY} & sys.modules.keys()), file=sys.stderr)\n"
    )
    code, _, errors, _ = run("-c", program.replace(str(HEAVY), str(set(HEAVY))))
    assert code == 0
    assert errors.strip() == "imported:"


@pytest.mark.parametrize("command", COMMANDS)
def test_version(command):
    code, output, errors, _ = run("-m", f"fairseq_cli_ext.{command}", "--version")
    assert (code, output, errors) == (0, f"kosmos-{command} {kosmos_plugin.__version__}\n", "")


def parsers(command: str) -> list:
    """The parser of a command and those of its sub-commands."""
    parser = importlib.import_module(f"fairseq_cli_ext.{command}").parser()
    choices = [action.choices for action in parser._actions if isinstance(action.choices, dict)]
    return [parser, *(choices[0].values() if choices else ())]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_and_every_default(command):
    for parser in parsers(command):
        text = parser.format_help()
        assert f"\n    {parser.prog} " in text or f"\n  {parser.prog} " in text, "no example"
        formatter = parser.formatter_class(parser.prog)
        for action in parser._actions:
            if action.option_strings and (action.nargs != 0 or "--no-" in "".join(action.option_strings)):
                stated = formatter._get_help_string(action)
                assert "default" in stated or "(required" in stated, action.option_strings


@pytest.mark.parametrize(
    "command, arguments, message",
    [
        ("generate", ["--path", "gone.pt"], "--path: gone.pt does not exist."),
        ("generate", ["--path", __file__, "--image", "gone.png"], "--image: gone.png does not exist."),
        ("evaluate", ["--path", __file__, "--benchmark", "coco", "--data", "gone"], "--data: gone does not exist."),
        ("convert", ["--to", "fairseq", "gone", "new.pt"], "SOURCE: gone does not exist."),
    ],
)
def test_a_missing_file_is_reported_before_anything_heavy_is_imported(command, arguments, message):
    module = importlib.import_module(f"fairseq_cli_ext.{command}")
    with pytest.raises(UserError, match=f"^{re.escape(message)} "):
        module.parser().parse_args(arguments)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fairseq_cli_ext.evaluate", "--list"],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (done.returncode, done.stderr) == (1, "error: No space left on device: standard output\n")


def test_a_misspelled_option_is_one_line():
    code, output, errors, _ = run("-m", "fairseq_cli_ext.generate", "--pth", "a.pt")
    assert (code, output) == (2, "")
    assert errors == "error: unknown option --pth. Did you mean '--path'? `kosmos-generate --help` lists the options.\n"
