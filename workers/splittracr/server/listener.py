"""The server's address. Free of torch, so that whoever starts a server can bind for it."""

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
    except OSError as error:
        listener.close()
        expected = f"an address that is free here ({error.strerror or error})"
        raise InvalidInput("spec.server.port", f"{host}:{port}", expected) from error
    return listener


def url(listener: socket.socket) -> str:
    """What an edge connects to."""
    host, port = listener.getsockname()[:2]
    return f"ws://{f'[{host}]' if ':' in host else host}:{port}{SESSION_PATH}"


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine can connect."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback
