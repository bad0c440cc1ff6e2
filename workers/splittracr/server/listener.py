"""The server's address. Free of torch, so that the parent process can bind for the server."""

import errno
import ipaddress
import socket

from splittracr.experiment.errors import InvalidInput, why
from splittracr.measure import listening
from splittracr.measure.listening import joined
from splittracr.wire.messages import SESSION_PATH


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet; InvalidInput if the address cannot be bound.

    Port 0 takes a free one. Until a server listens, connections are refused.
    """
    try:
        return listening.bind(host, port)
    except (OSError, UnicodeError) as error:  # UnicodeError: no host name at all
        raise _refused(host, port, error) from error


def _refused(host: str, port: int, error: OSError | UnicodeError) -> InvalidInput:
    """Which of the two cannot be bound, and why."""
    if isinstance(error, OSError) and error.errno in (errno.EADDRINUSE, errno.EACCES):
        expected = f"an address that is free here ({why(error)})"
        return InvalidInput("spec.server.port", joined(host, port), expected)
    return InvalidInput("spec.server.host", host, f"an address of this machine ({why(error)})")


def url(listener: socket.socket, *, tls: bool) -> str:
    """The URL of the server's session for edges."""
    host, port = listener.getsockname()[:2]
    return f"{'wss' if tls else 'ws'}://{joined(host, port)}{SESSION_PATH}"


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine can connect."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback
