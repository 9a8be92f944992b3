"""User errors: suggestions for misspelled names, and one line on the terminal."""

import subprocess
import sys

import pytest

from kosmos_plugin.errors import did_you_mean


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
