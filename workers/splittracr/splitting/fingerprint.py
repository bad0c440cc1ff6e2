"""Digests that two machines compare before they share a network: of its graph and its weights."""

import hashlib
from collections.abc import Iterator

from torch import Tensor, nn

from splittracr.splitting.canonical import canonical
from splittracr.splitting.live import as_buffer, raw_bytes
from splittracr.splitting.tape import Tape


def graph_fingerprint(tape: Tape) -> str:
    """SHA-256 of every operation's name, target, generated source and constants, of the tensors
    that are neither parameters nor buffers, and of the output's structure, as `sha256:<hex>`.
    """
    digest = hashlib.sha256()
    for op in tape.ops:
        digest.update(f"{op.name}\0{op.target}\0{op.source}\0".encode())
        digest.update(f"{canonical(op.constants)}\0".encode())
    for name, value in sorted(tape.constants.items()):
        digest.update(f"{name}\0{canonical(value)}\0".encode())
    digest.update(f"{tape.output_source}\0{canonical(tape.output_constants)}\0".encode())
    return f"sha256:{digest.hexdigest()}"


def weights_digest(module: nn.Module) -> str:
    """SHA-256 of all parameters and buffers, by name, with dtype, shape and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(_state(module), key=lambda item: item[0]):
        digest.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        digest.update(as_buffer(raw_bytes(tensor)))
    return f"sha256:{digest.hexdigest()}"


def _state(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()  # buffers that are not persistent shape the output too
