"""Files on remote storage, read by ranges through fsspec: s3://, gs://, https://, hf://, and file:// for tests.

    read(url, begin, end)    requests of REQUEST_BYTES at most, each with a timeout; one that fails, or gives another
                             number of bytes than was asked for, is repeated with growing pauses for `retry_seconds`

Credentials come from the environment only (AWS_…, GOOGLE_APPLICATION_CREDENTIALS, HF_TOKEN, ~/.netrc): an address with
a password or a query, which may be a signature, is refused, and where storage names such a one in its errors, it is
left out. Each process makes the file systems for itself, as their threads do not survive a fork.
"""

import contextlib
import functools
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kosmos_plugin.atomic import atomic_path
from kosmos_plugin.data.daemon_threads import in_time
from kosmos_plugin.errors import UserError, missing_package

# Scheme → its file system's package, where neither fsspec nor the extra `remote` brings it.
SCHEMES = {"s3": "", "gs": "gcsfs", "http": "", "https": "", "hf": "", "file": ""}
REQUEST_BYTES = 8 << 20
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 30.0  # seconds
_CONNECT_SECONDS = 20.0
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(::|://)")
_PASSWORD = re.compile(r"(?<=://)[^/\s@'\"]*@")
_QUERY = re.compile(r"(://[^\s'\"?]*)\?[^\s'\")]*")

T = TypeVar("T")


@dataclass(frozen=True)
class RemoteOptions:
    """How remote corpora are read: the mapping `remote` of the data YAML."""

    cache_gib: float = 50.0  # most that the blocks in the cache folder take, in GiB
    timeout: float = 60.0  # seconds for one request
    retry_seconds: float = 300.0  # seconds for which a failing request is repeated
    unavailable: str = "fail"  # what a shard does that cannot be read: one of UNAVAILABLE


# End the training, or be skipped and counted, each of its records as a broken one.
UNAVAILABLE = ("fail", "skip")


class Unavailable(UserError):
    """A remote file that does not exist, may not be read, or could not be read for `retry_seconds`."""


@dataclass(frozen=True)
class RemoteInfo:
    """What the storage says of a file."""

    size: int  # bytes
    version: str  # an ETag, a time, or whatever else changes with the content; "" if there is none


def is_remote(path: str) -> bool:
    """Whether a path is an address such as s3://…, not one of this machine's files."""
    return _SCHEME.match(path) is not None


def redacted(text: str) -> str:
    """A text without the passwords and the queries (which may be signatures) of the addresses in it."""
    return _QUERY.sub(r"\1?…", _PASSWORD.sub("", text))


def check_address(url: str) -> None:
    """Raise UserError unless remote files of this scheme can be read, and the address holds no credentials."""
    scheme = url.partition("://")[0]
    if "::" in scheme:
        raise UserError(f"{redacted(url)}: chains of file systems (::) are not read.")
    if scheme not in SCHEMES:
        raise UserError(f"{redacted(url)} has the scheme {scheme}; known are {', '.join(SCHEMES)}.")
    if _PASSWORD.search(url):
        raise UserError(
            f"{redacted(url)} is given with a user or a password. Give credentials in the environment, as in "
            "AWS_ACCESS_KEY_ID or ~/.netrc."
        )
    if scheme.startswith("http") and "?" in url:
        raise UserError(
            f"{redacted(url)} is given with a query, which may be a signature: it would be written to files. Give "
            "credentials in the environment, or use the storage's own scheme."
        )


class RemoteFiles:
    """Reads remote files.

    Args:
        options: Timeouts and the like.

    Raises (of all methods):
        Unavailable: A file does not exist, may not be read, or could not be read for `retry_seconds`.
        UserError: A package is missing.
    """

    def __init__(self, options: RemoteOptions | None = None):
        self.options = options or RemoteOptions()

    def info(self, url: str, optional: bool = False) -> RemoteInfo | None:
        """Size and version of a file; None if it does not exist.

        Args:
            url: Its address.
            optional: Whether one that may not be read counts as missing: so say storages that hide what they have.
        """
        with contextlib.suppress(FileNotFoundError), _forbidden(url):
            try:
                return self._repeated(url, lambda: self._info(url))
            except PermissionError:
                if not optional:
                    raise
        return None

    def read(self, url: str, begin: int, end: int, patient: bool = True) -> bytes:
        """Bytes begin … end − 1 of a file.

        Args:
            url: Its address.
            begin: The first byte.
            end: The byte after the last one.
            patient: Whether a failing request is repeated.
        """
        parts = []
        try:
            with _forbidden(url):
                for first in range(begin, end, REQUEST_BYTES):
                    request = functools.partial(self._range, url, first, min(first + REQUEST_BYTES, end))
                    parts.append(self._repeated(url, request, patient))
        except FileNotFoundError:
            raise Unavailable(f"{redacted(url)} does not exist.") from None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def find(self, pattern: str) -> list[str]:
        """The addresses that match a pattern with wildcards, sorted."""
        scheme = pattern.partition("://")[0]
        if scheme in ("http", "https"):
            raise UserError(f"{redacted(pattern)}: a web server does not list its files; use braces: {{00000..00999}}.")

        def glob() -> list[str]:
            filesystem = self._filesystem(pattern)
            filesystem.invalidate_cache()
            return [filesystem.unstrip_protocol(path) for path in filesystem.glob(filesystem._strip_protocol(pattern))]

        with contextlib.suppress(FileNotFoundError), _forbidden(pattern):
            return sorted(self._repeated(pattern, lambda: in_time(self.options.retry_seconds, glob)))
        return []

    def copy(self, url: str, path: Path, size: int | None = None) -> None:
        """Copy a file to this machine, atomically and with a progress bar.

        Raises:
            OSError: It cannot be written.
        """
        from tqdm import tqdm

        if size is None:
            if (info := self.info(url)) is None:
                raise Unavailable(f"{redacted(url)} does not exist.")
            size = info.size
        name = redacted(url).rpartition("/")[2]
        with (
            atomic_path(path) as temporary,
            open(temporary, "wb") as file,
            tqdm(total=size, desc=f"copy {name}", unit="B", unit_scale=True, delay=2) as bar,
        ):
            for begin in range(0, size, REQUEST_BYTES):
                data = self.read(url, begin, min(begin + REQUEST_BYTES, size))
                file.write(data)
                bar.update(len(data))
            file.flush()
            os.fsync(file.fileno())

    def _repeated(self, url: str, request: Callable[[], T], patient: bool = True) -> T:
        """What `request` gives; it is repeated while it fails, but not for FileNotFoundError and PermissionError."""
        begin, pause = time.monotonic(), _FIRST_PAUSE
        while True:
            try:
                return request()
            except (UserError, FileNotFoundError, PermissionError):
                raise
            except Exception as error:  # each storage has its own
                if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
                    raise Unavailable(f"{redacted(url)}: there are no credentials in the environment.") from None
                passed = time.monotonic() - begin
                if not patient or passed + pause > self.options.retry_seconds:
                    tried = f", and for {passed:,.0f} seconds before" if passed > 1 else ""
                    raise Unavailable(f"{redacted(url)} cannot be read: {_shown(error)}{tried}.") from None
                time.sleep(pause * random.Random().uniform(0.5, 1.0))  # its own: not the training's numbers
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _range(self, url: str, begin: int, end: int) -> bytes:
        filesystem, path = self._opened(url)
        if url.startswith("http"):
            data, _ = self._sync(filesystem, _http_range, filesystem, path, begin, end)
        elif filesystem.async_impl:
            data = self._sync(filesystem, filesystem._cat_file, path, start=begin, end=end)
        else:
            exactly = {"cache_type": "none"} if url.startswith("hf://") else {}  # by default it reads megabytes ahead
            data = in_time(self.options.timeout, lambda: filesystem.cat_file(path, begin, end, **exactly))
        if len(data) != end - begin:
            raise OSError(f"{len(data):,} bytes instead of the {end - begin:,} from byte {begin:,}")
        return data

    def _info(self, url: str) -> RemoteInfo:
        filesystem, path = self._opened(url)
        if url.startswith("http"):
            _, headers = self._sync(filesystem, _http_range, filesystem, path, 0, 1)
            size = int(headers["Content-Range"].rpartition("/")[2])
            return RemoteInfo(size, headers.get("ETag") or headers.get("Last-Modified") or "")
        if filesystem.async_impl:
            filesystem.invalidate_cache()
            found = self._sync(filesystem, filesystem._info, path)
        else:
            found = in_time(self.options.timeout, lambda: filesystem.info(path))
        if found["type"] != "file":
            raise FileNotFoundError(path)
        keys = ("ETag", "etag", "md5Hash", "blob_id", "LastModified", "mtime")
        version = next((str(found[key]) for key in keys if found.get(key)), "")
        return RemoteInfo(int(found["size"]), version)

    def _sync(self, filesystem: Any, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        from fsspec.asyn import sync

        return sync(filesystem.loop, function, *args, timeout=self.options.timeout, **kwargs)

    def _opened(self, url: str) -> tuple[Any, str]:
        filesystem = self._filesystem(url)
        return filesystem, filesystem._strip_protocol(url)

    def _filesystem(self, url: str) -> Any:
        """The file system of an address; fsspec keeps it for this process."""
        scheme = url.partition("://")[0]
        try:
            import fsspec

            if scheme == "s3":
                timeout = self.options.timeout
                seconds = {"connect_timeout": min(_CONNECT_SECONDS, timeout), "read_timeout": timeout}
                filesystem = fsspec.filesystem("s3", config_kwargs={**seconds, "retries": {"max_attempts": 0}})
                filesystem.retries = 1  # requests are repeated here
                return filesystem
            if scheme in ("http", "https"):
                import aiohttp

                limits = aiohttp.ClientTimeout(total=self.options.timeout, connect=_CONNECT_SECONDS)
                return fsspec.filesystem(scheme, client_kwargs={"timeout": limits, "trust_env": True})
            return fsspec.filesystem(scheme)
        except ImportError as error:
            if package := SCHEMES.get(scheme):
                raise UserError(f"{scheme}:// needs the package {package}: pip install {package}") from None
            error.name = error.name or ("s3fs" if scheme == "s3" else "fsspec")
            raise missing_package(f"{scheme}://", error, "remote") from None


@contextlib.contextmanager
def _forbidden(url: str) -> Iterator[None]:
    """Turn PermissionError into Unavailable."""
    try:
        yield
    except PermissionError as error:
        raise Unavailable(f"{redacted(url)} may not be read ({_shown(error)}).") from None


async def _http_range(filesystem: Any, url: str, begin: int, end: int) -> tuple[bytes, Any]:
    """Bytes of a file, and the answer's headers. fsspec would read the whole file from a server without ranges."""
    session = await filesystem.set_session()
    headers = {"Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity"}
    async with session.get(filesystem.encode_url(url), headers=headers) as answer:
        if answer.status in (404, 410):
            raise FileNotFoundError(url)
        if answer.status in (401, 403):
            raise PermissionError(f"HTTP status {answer.status}")
        if answer.status >= 400:
            raise OSError(f"HTTP status {answer.status}")
        if answer.status != 206:
            raise UserError(f"{redacted(url)}: the server does not answer requests for ranges of a file.")
        return await answer.read(), answer.headers


def _shown(error: Exception) -> str:
    text = redacted(str(error)).partition("\n")[0][:200]
    name = "no answer in time" if "Timeout" in type(error).__name__ else type(error).__name__
    return f"{name}: {text}" if text else name
