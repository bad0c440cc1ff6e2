"""Sockets to listen on, of either IP family."""

import errno
import socket

ANY = "::"
"""The host that means all addresses of this machine, of both families."""

_WITHOUT_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT)


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet; port 0 takes a free one.

    `::` takes connections of both families, also on a machine without IPv6. Raises OSError, or
    UnicodeError for an invalid host name.
    """
    if host == ANY:
        try:
            return _bound(socket.AF_INET6, host, port)
        except OSError as error:
            if error.errno not in _WITHOUT_IPV6:
                raise
            return _bound(socket.AF_INET, "0.0.0.0", port)
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    families = {family for family, *_ in found}
    # A name of both families means IPv4, which an edge would try as well.
    chosen = socket.AF_INET if socket.AF_INET in families else socket.AF_INET6
    address = next(address for family, *_, address in found if family == chosen)
    return _bound(chosen, str(address[0]), port)


def joined(host: str, port: int) -> str:
    """`HOST:PORT` as in a URL: an IPv6 address has brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bound(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    made = socket.socket(family)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != ANY)
        made.bind((host, port))
    except OSError:
        made.close()
        raise
    return made
