"""The server's address. Free of torch, so that whoever starts a server can bind for it."""

import errno
import ipaddress
import socket

from splittracr.experiment.errors import InvalidInput
from splittracr.wire.messages import SESSION_PATH


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet; InvalidInput where the address cannot be had.

    Port 0 takes a free one. Until somebody listens, connections are refused.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, UnicodeError) as error:  # UnicodeError: no host name at all
        listener.close()
        raise _refused(host, port, error) from error
    return listener


def _refused(host: str, port: int, error: OSError | UnicodeError) -> InvalidInput:
    """Which of the two cannot be had, and why."""
    if isinstance(error, OSError) and error.errno in (errno.EADDRINUSE, errno.EACCES):
        expected = f"an address that is free here ({error.strerror})"
        return InvalidInput("spec.server.port", f"{host}:{port}", expected)
    reason = getattr(error, "strerror", None) or error
    return InvalidInput("spec.server.host", host, f"an address of this machine ({reason})")


def url(listener: socket.socket, *, tls: bool) -> str:
    """What an edge connects to."""
    host, port = listener.getsockname()[:2]
    return f"{'wss' if tls else 'ws'}://{f'[{host}]' if ':' in host else host}:{port}{SESSION_PATH}"


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine can connect."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback
