"""kosmos-serve as a program: it says where it is, answers, and ends with one line."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import httpx2
import pytest

from fairseq_cli_ext.serve import parser, run
from kosmos_plugin.checkpoints.fairseq_checkpoint import new_checkpoint, write_fairseq
from kosmos_plugin.errors import UserError
from kosmos_plugin.serving.listening import listening_socket


@pytest.fixture(scope="module")
def checkpoint(kosmos, data, tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "caption-model.pt"
    vocabulary = str(data.parent / "vocabulary")
    write_fairseq(new_checkpoint("kosmos_tiny", kosmos.model.config, kosmos.model.state_dict(), vocabulary), path)
    return path


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


def test_without_the_extra():
    """One line that says what to install."""
    code = (
        "import sys; sys.modules['fastapi'] = None\n"
        "from fairseq_cli_ext.serve import cli_main\n"
        f"cli_main(['--path', {__file__!r}])"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, env=os.environ)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == (
        'error: kosmos-serve needs the package fastapi: pip install "kosmos-plugin[serve]"'
    )
