"""The socket that the server listens on, and the names by which it is called there."""

import ipaddress
import socket
from collections.abc import Sequence

from kosmos_plugin.errors import UserError


def listening_socket(host: str, port: int) -> socket.socket:
    """Open the socket of a host and a port; port 0 is any that is free.

    Raises:
        UserError: The host is not an address of this machine, or the port is in use or not allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        opened = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host {host!r} is not an address: {error}") from None
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
    except OSError as error:
        opened.close()
        raise UserError(f"--host {host} --port {port} cannot be listened on: {error.strerror}.") from None
    return opened


def allowed_hosts(host: str, given: Sequence[str]) -> list[str]:
    """The Host headers that a server listening on `host` accepts, with "*" for any.

    A web site can let its own name point to a loopback address (DNS rebinding). A browser then sends what the site's
    scripts ask for to a server on this machine, as to the site itself, but under the site's name.

    Args:
        host: An address of this machine, or a name of one.
        given: Names that are accepted in any case.

    Raises:
        UserError: A name is not of the form of a Host header.
    """
    for name in given:
        if "*" in name[1:] or (name.startswith("*") and name != "*" and not name.startswith("*.")) or "/" in name:
            raise UserError(f"--allowed-host {name!r} must be a name, *.NAME or *.")
    if given or _is_loopback(host):
        names = [host, *given, "localhost", "127.0.0.1", "::1"]
        return [f"[{name}]" if ":" in name and not name.startswith("[") else name for name in names]
    return ["*"]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(socket.getaddrinfo(host, None)[0][4][0]).is_loopback
    except (OSError, UnicodeError, ValueError):  # what cannot be listened on
        return False
