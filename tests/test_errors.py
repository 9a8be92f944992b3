"""User errors: suggestions for misspelled names, and one line on the terminal."""

import subprocess
import sys

import pytest

from kosmos_plugin.errors import UserError, did_you_mean, require_file
from kosmos_plugin.generation.options import SearchOptions


@pytest.mark.parametrize(
    "name, suggestion",
    [
        ("captoins", " Did you mean 'captions'?"),
        ("txt", " Did you mean 'text'?"),
        ("quite different", ""),
        ("", ""),
        (7, ""),
    ],
)
def test_did_you_mean(name, suggestion):
    assert did_you_mean(name, ("text", "captions", "interleaved")) == suggestion


def test_require_file(tmp_path):
    (tmp_path / "a.txt").touch()
    require_file(tmp_path / "a.txt")
    with pytest.raises(UserError, match=r"^The image .*/b\.txt does not exist\.$"):
        require_file(tmp_path / "b.txt", "The image")
    with pytest.raises(UserError, match=f"^{tmp_path} is not a file\\.$"):
        require_file(str(tmp_path))


@pytest.mark.parametrize("error, plain", [("UserError", True), ("ValueError", False)])
def test_an_uncaught_user_error_is_one_line(error, plain):
    program = (
        "from kosmos_plugin.errors import UserError, print_user_errors_plainly\n"
        "print_user_errors_plainly(); print_user_errors_plainly()\n"
        f"raise {error}('the option is wrong')"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 1
    assert (run.stderr == "error: the option is wrong\n") is plain
    assert ("Traceback" in run.stderr) is not plain


@pytest.mark.parametrize("options", [{"num_beams": 0}, {"max_new_tokens": 0}, {"stop": "Question"}])
def test_search_options(options):
    with pytest.raises(UserError, match=f"^{next(iter(options))} must be "):
        SearchOptions(**options)


def test_a_command_whose_standard_output_is_closed():
    command = 'exec "$0" -m fairseq_cli_ext.evaluate --list >&-'
    run = subprocess.run(["sh", "-c", command, sys.executable], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
