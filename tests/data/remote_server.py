"""Storage on loopback: a web server of a folder that answers ranges, and moto's S3, both with faults on demand."""

import contextlib
import http.client
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml
from s3fs import S3FileSystem


@dataclass
class Faults:
    """What goes wrong, from now on. Rates are fractions of the requests for content, by a seeded generator."""

    failing: float = 0.0  # answered with status 500, or the connection is closed
    truncated: float = 0.0  # half of the answer, then the connection is closed
    short: float = 0.0  # half of the answer, as if that were all
    delay: float = 0.0  # seconds before each answer
    hanging: float = 0.0  # no answer for a minute
    away: tuple[str, ...] = ()  # files whose requests fail always, by the ends of their paths
    ignores_ranges: bool = False
    hides: bool = False  # that a file is missing: it may not be read
    draw: random.Random = field(default_factory=lambda: random.Random(0))


class Server:
    """A web server. Counts requests for content, and the bytes of the answers.

    Args:
        folder: Whose files it serves, or the port of the server to which it hands on requests.
    """

    def __init__(self, folder: Path | int, port: int = 0):
        self.folder = folder
        self.faults = Faults()
        self.lock = threading.Lock()
        self.requests: list[tuple[str, int]] = []  # path and bytes of each answer with content
        self.failed = 0
        self.port = port or free_port()
        handler = type("Handler", (_Handler,), {"owner": self})
        self.http = _Http(("127.0.0.1", self.port), handler)
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def bytes_of(self, end: str = ".tar") -> int:
        """Bytes of the answers about paths that end so, since `forget`."""
        return sum(size for path, size in self.requests if path.endswith(end))

    def forget(self) -> None:
        self.requests.clear()
        self.failed = 0


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def handle_error(self, request, address) -> None:
        pass  # broken connections are intended


class _Handler(BaseHTTPRequestHandler):
    owner: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        self.answer()

    do_HEAD = do_PUT = do_POST = do_GET

    def answer(self) -> None:
        owner = self.owner
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if isinstance(owner.folder, int):
            status, headers, content = self.handed_on(owner.folder, body)
        else:
            status, headers, content = self.of_file(owner.folder / path.lstrip("/"))
        faults, fault, cut = owner.faults, "", 0.0
        if self.command == "GET" and status in (200, 206):
            with owner.lock:
                for name in ("failing", "truncated", "short", "hanging"):
                    if faults.draw.random() < getattr(faults, name):
                        fault = name
                cut = faults.draw.random()
        if path.endswith(faults.away):
            fault = "failing"
        if faults.delay:
            time.sleep(faults.delay)
        owner.failed += bool(fault)
        if fault == "failing" and cut < 0.5:
            status, content, headers = 500, b"it was asked to fail", {}
        elif fault == "failing":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        elif fault == "hanging":
            time.sleep(60)
        elif fault == "short":
            content = content[: len(content) // 2]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        length = (
            headers.get("Content-Length-Of-Head", str(len(content))) if self.command == "HEAD" else str(len(content))
        )
        self.send_header("Content-Length", length)
        self.end_headers()
        if fault == "truncated":
            content = content[: len(content) // 2]
            self.close_connection = True
        if self.command != "HEAD":
            if status in (200, 206):  # noted first: who has the answer may look at once
                with owner.lock:
                    owner.requests.append((path, len(content)))
            self.wfile.write(content)

    def of_file(self, path: Path) -> tuple[int, dict[str, str], bytes]:
        if not path.is_file():
            return 403 if self.owner.faults.hides else 404, {}, b""
        size = path.stat().st_size
        headers = {"ETag": f'"{size}-{path.stat().st_mtime_ns}"'}
        wanted = self.headers.get("Range")
        if wanted is None or self.owner.faults.ignores_ranges:
            return 200, headers, path.read_bytes()
        first, last = (int(number) for number in wanted.removeprefix("bytes=").split("-"))
        last = min(last, size - 1)
        with open(path, "rb") as file:
            file.seek(first)
            content = file.read(last - first + 1)
        return 206, {**headers, "Content-Range": f"bytes {first}-{last}/{size}"}, content

    def handed_on(self, port: int, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        kept = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP}
        if self.command == "HEAD":
            kept["Content-Length-Of-Head"] = answer.getheader("Content-Length") or "0"
        connection.close()
        return answer.status, kept, content


_HOP_BY_HOP = {"content-length", "connection", "transfer-encoding", "date", "server"}


def free_port() -> int:
    with socket.socket() as a_socket:
        a_socket.bind(("127.0.0.1", 0))
        return a_socket.getsockname()[1]


@contextlib.contextmanager
def web_server(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    try:
        yield server
    finally:
        server.stop()


class ServerProcess:
    """A web server in a process of its own, which can be killed."""

    def __init__(self, folder: Path, delay: float = 0.0):
        self.folder = folder
        self.delay = delay
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.data.remote_server", str(self.folder), str(self.port), str(self.delay)]
        self.process = subprocess.Popen(command, cwd=Path(__file__).parents[2])
        wait_for(self.port)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def wait_for(port: int) -> None:
    """Wait until something listens at a port."""
    for _ in range(600):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise TimeoutError(f"nothing listens at port {port}")


@contextlib.contextmanager
def s3_server(monkeypatch) -> Iterator[Server]:
    """moto's S3 server in a process of its own, behind a server that counts and has faults; `AWS_…` name it."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    server = Server(port)
    try:
        wait_for(port)
        for name, value in {
            "AWS_ENDPOINT_URL": server.url,
            "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            # else an upload is signed in chunks, which the server in front does not take apart
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        }.items():
            monkeypatch.setenv(name, value)
        S3FileSystem.clear_instance_cache()  # those that it has made know the addresses of other servers
        yield server
    finally:
        server.stop()
        process.kill()
        process.wait()


def upload(folder: Path, bucket: str, port: int) -> None:
    """Put all files below `folder` into a new bucket of the S3 server at `port`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Authorization": "AWS4-HMAC-SHA256 Credential=someone/20260101/us-east-1/s3/aws4_request"}
    for path in ["", *sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())]:
        connection.request("PUT", f"/{bucket}/{path}", (folder / path).read_bytes() if path else b"", headers)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, (path, answer.status)
    connection.close()


def remote_yaml(data: Path, folder: Path, address: str, block: int | None = None, **remote: object) -> Path:
    """The data YAML `data` in a new folder, its files at an address ("": as they are) and its cache beside it."""
    config = yaml.safe_load(data.read_text())
    config["vocabulary"] = str(data.parent / "vocabulary")
    for stream in config["streams"].values():
        for corpus in stream["corpora"]:
            for split in ("train", "valid"):
                corpus[split] = f"{address or data.parent}/{corpus[split]}"
            if block is not None and stream["kind"] != "text":
                corpus["shuffle_block"] = block
    config["cache"] = str(folder / "cache")
    if address:
        config["remote"] = {"timeout": 10, "retry_seconds": 60, **remote}
    folder.mkdir(parents=True)
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump(config))
    shutil.copy(data.parent / "clip.json", folder)
    return path


if __name__ == "__main__":
    Server(Path(sys.argv[1]), int(sys.argv[2])).faults.delay = float(sys.argv[3])
    threading.Event().wait()
