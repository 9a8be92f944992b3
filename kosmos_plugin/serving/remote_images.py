"""Images at http and https URLs, from public addresses only.

A request must not make the server read what only the server can reach: services of its own machine, of its network or
of its cloud's. So a name is resolved first, every address that it has must be public, and the connection goes to the
address that was checked, not to what the name may mean a moment later. The same holds for each redirect. No proxy is
used, as it would resolve the name itself. All of it together has a time limit.
"""

import asyncio
import ipaddress
import socket
import ssl
import urllib.parse
from typing import NamedTuple

import anyio
import h11

from kosmos_plugin.errors import UserError

MAX_REDIRECTS = 3
SECONDS = 10.0
READ = 2**16  # bytes
_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS = (("User-Agent", "kosmos_plugin"), ("Accept", "image/*"), ("Connection", "close"))
# Ways to write an IPv4 address as an IPv6 one, besides those that `ipaddress` knows: NAT64 (RFC 6052, RFC 8215).
_NAT64 = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48")))

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class _Target(NamedTuple):
    """What a URL says."""

    secure: bool
    host: str
    port: int
    path: str

    @property
    def header(self) -> str:
        """The value of the header Host."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"


async def fetch(url: str, max_bytes: int, seconds: float = SECONDS) -> bytes:
    """Read the image at a URL.

    Args:
        url: The URL.
        max_bytes: A larger image is an error.
        seconds: The time for all of it, redirects included.

    Raises:
        UserError: It is no http or https URL, an address is not public, or it cannot be read.
    """
    try:
        with anyio.fail_after(seconds):
            for _ in range(MAX_REDIRECTS + 1):
                target = _parse(url)
                location, data = await _get(target, await _public_address(target), max_bytes)
                if location is None:
                    return data
                url = urllib.parse.urljoin(url, location)
    except TimeoutError:
        raise UserError(f"The image was not fetched within {seconds:g} s.") from None
    except (OSError, ssl.SSLError, h11.RemoteProtocolError, h11.LocalProtocolError) as error:
        raise UserError(f"The image cannot be fetched: {type(error).__name__}.") from None
    raise UserError(f"The image is behind more than {MAX_REDIRECTS} redirects.")


def _parse(url: str) -> _Target:
    try:
        parts = urllib.parse.urlsplit(url.strip())
        scheme, host, port = parts.scheme.lower(), parts.hostname, parts.port
        path = urllib.parse.quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
        query = urllib.parse.quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
        host = host if host is None or ":" in host else host.encode("idna").decode()
    except ValueError:  # UnicodeError too
        raise UserError("The URL of the image is not valid.") from None
    if scheme not in ("http", "https"):
        raise UserError("An image is a data URI, or an http or https URL.")
    if not host or parts.username is not None or parts.password is not None:
        raise UserError("The URL of the image has no host, or has a user name.")
    secure = scheme == "https"
    return _Target(secure, host, port or (443 if secure else 80), f"{path}?{query}" if query else path)


async def _public_address(target: _Target) -> str:
    """An address of the host, all of whose addresses must be public."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    addresses = [str(address[4][0]) for address in found]
    if not addresses or not all(is_public(address) for address in addresses):
        raise UserError("The image is not at a public address; private ones are not read.")
    return addresses[0]


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet: not private, link-local, loopback, multicast or reserved."""
    try:
        ip: Address = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        if any(ip in network for network in _NAT64) or int(ip) < 2**32:  # ::127.0.0.1, too
            inner.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
        if not all(one is None or (one.is_global and not one.is_multicast) for one in inner):
            return False
        if ip.ipv4_mapped is not None:
            return True
        if ip.is_site_local:  # private before RFC 3879
            return False
    return ip.is_global and not ip.is_multicast


async def _get(target: _Target, address: str, max_bytes: int) -> tuple[str | None, bytes]:
    """One request: where it is redirected to, or the body."""
    tls = ssl.create_default_context() if target.secure else None
    reader, writer = await asyncio.open_connection(
        address, target.port, ssl=tls, server_hostname=target.host if target.secure else None
    )
    try:
        connection = h11.Connection(h11.CLIENT)
        request = h11.Request(method="GET", target=target.path, headers=[("Host", target.header), *_HEADERS])
        writer.write(connection.send(request) or b"")
        writer.write(connection.send(h11.EndOfMessage()) or b"")
        await writer.drain()
        body = bytearray()
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(READ))
            elif isinstance(event, h11.Response):
                headers = {bytes(name): bytes(value) for name, value in event.headers}
                if event.status_code in _REDIRECTS and b"location" in headers:
                    return headers[b"location"].decode("latin-1"), b""
                if event.status_code != 200:
                    raise UserError(f"The image cannot be fetched: status {event.status_code}.")
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > max_bytes:
                    raise UserError(f"The image is larger than {max_bytes:,} bytes.")
            elif isinstance(event, h11.EndOfMessage):
                return None, bytes(body)
            elif isinstance(event, h11.ConnectionClosed):
                raise UserError("The image cannot be fetched: the connection was closed.")
    finally:
        writer.transport.abort()
