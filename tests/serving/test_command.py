"""kosmos-serve as a program: it says where it is, answers, and ends with one line."""

import re
import signal
import socket
import subprocess
import sys
import time

import httpx2
import pytest

from fairseq_cli_ext.serve import cli_main, parser, run
from kosmos_plugin.errors import UserError
from kosmos_plugin.serving.listening import listening_socket


def test_from_start_to_ctrl_c(kosmos, checkpoint):
    """In the middle of a stream, too: within two seconds, without a traceback. A folder has its checkpoint's name."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "fairseq_cli_ext.serve",
        "--path",
        checkpoint.parent,
        "--port",
        "0",
    ]
    command += ["--template", "plain"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        line = next(line for line in process.stderr if line.startswith("Serving"))
        [url] = re.findall(r"^Serving caption-model at (http://127\.0\.0\.1:\d+)/v1$", line)
        chat = {"messages": [{"role": "user", "content": "a cat"}], "max_tokens": 8}
        answer = httpx2.post(f"{url}/v1/chat/completions", json=chat, timeout=60).json()
        assert answer["model"] == "caption-model"
        assert answer["choices"][0]["message"]["content"] == kosmos.generate("a cat", max_new_tokens=8)
        long = {**chat, "max_tokens": 250, "n": 16, "temperature": 3, "stream": True}
        with httpx2.stream("POST", f"{url}/v1/chat/completions", json=long, timeout=60) as stream:
            next(stream.iter_lines())
            process.send_signal(signal.SIGINT)
            begin = time.monotonic()
            assert process.wait(60) == 130
            assert time.monotonic() - begin < 20  # two on a machine that is not busy
        assert [line for line in process.stderr if line.strip()] == ["Stopped.\n"]


def test_a_port_in_use_is_one_line_before_the_model_is_loaded():
    with listening_socket("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"^--host 127.0.0.1 --port {port} cannot be listened on: Address already"):
            run(parser().parse_args(["--path", __file__, "--port", str(port)]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "no such host"], r"^--host 'no such host' is not an address: "),
        (["--host", "203.0.113.1"], r"^--host 203\.0\.113\.1 --port 8000 cannot be listened on: "),
        (["--template", "questoin-answer"], r"^The template 'questoin-answer' is neither .*Did you mean"),
        (["--port", "99999"], r"^--port must be at most 65535, not 99999\.$"),
    ],
)
def test_wrong_addresses(options, message):
    with pytest.raises(UserError, match=message):
        run(parser().parse_args(["--path", __file__, *options]))


@pytest.mark.skipif(not socket.has_ipv6, reason="there is no IPv6")
def test_ipv6():
    try:
        with listening_socket("::1", 0) as listening:
            assert listening.family == socket.AF_INET6
    except UserError:
        pytest.skip("there is no ::1")


def test_without_the_extra(monkeypatch, capsys):
    """One line that says what to install."""
    monkeypatch.setitem(sys.modules, "fastapi", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "kosmos_plugin.serving.app", raising=False)
    with pytest.raises(SystemExit) as end:
        cli_main(["--path", __file__])
    assert end.value.code == 2
    line = 'error: kosmos-serve needs the package fastapi: pip install "kosmos-plugin[serve]"'
    assert capsys.readouterr().err.splitlines()[-1] == line
