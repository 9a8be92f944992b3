"""The socket that the server listens on."""

import socket

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
