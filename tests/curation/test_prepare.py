"""The command line of kosmos-prepare: --help needs no library, and a missing one is named with its installation."""

import shlex
import subprocess
import sys

import pytest

from fairseq_cli_ext import prepare
from kosmos_plugin.curation import options
from kosmos_plugin.curation.readers import captions, web_pages
from kosmos_plugin.curation.recipes.registry import RECIPES, TOOLS
from kosmos_plugin.errors import UserError

HEAVY = ("datatrove", "fairseq", "torch", "numpy", "pyarrow")


@pytest.mark.parametrize("arguments", [["--help"], ["pages", "--help"], ["txet", "a"], ["text", "a", "--ot", "b"]])
def test_help_and_usage_errors_import_no_library(arguments):
    code = f"""
import sys
from fairseq_cli_ext.prepare import cli_main
try:
    cli_main({arguments})
finally:
    print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == (0 if "--help" in arguments else 2), done.stderr
    assert done.stderr.splitlines()[-2:][0] == "[]" or done.stderr.splitlines()[-1] == "[]", done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", [*RECIPES, *TOOLS])
def test_every_command_has_an_example_that_parses(name):
    example = {**RECIPES, **TOOLS}[name].example
    words = shlex.split(example)
    assert words[:2] == ["kosmos-prepare", name]
    assert prepare.parser().parse_args(words[1:]).command == name
    done = subprocess.run(
        [sys.executable, "-m", "fairseq_cli_ext.prepare", name, "--help"], capture_output=True, text=True
    )
    assert example in done.stdout


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_stages(name):
    assert callable(RECIPES[name].stages)


def test_the_formats_of_options_and_readers_agree():
    assert tuple(captions.FORMATS) == options.CAPTION_FORMATS
    assert tuple(web_pages.FORMATS) == options.PAGE_FORMATS


@pytest.mark.parametrize(
    "missing", ["datatrove", *(pytest.param(name, marks=pytest.mark.slow) for name in ("tokenizers", "resiliparse"))]
)
def test_a_missing_library_is_one_line_that_says_what_to_install(tmp_path, missing):
    (tmp_path / "page.html").write_text("<p>text</p>")
    arguments = ["pages", str(tmp_path / "page.html"), "--out", str(tmp_path / "out")]
    code = f"""
import sys
sys.modules[{missing!r}] = None  # as if it were not installed
from fairseq_cli_ext.prepare import cli_main
cli_main({arguments})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    install = 'Install it with `pip install "kosmos-plugin[curation]"`.'
    assert line == f"error: kosmos-prepare pages needs the package {missing}. {install}"
    assert not (tmp_path / "out").exists()


def test_a_wrong_number_is_one_clear_error(tmp_path):
    with pytest.raises(UserError, match="--max-images must be at least 1, not 0"):
        prepare.parser().parse_args(["pages", "a", "--out", "b", "--max-images", "0"])
