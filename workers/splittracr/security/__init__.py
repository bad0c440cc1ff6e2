"""Certificates, tokens and TLS settings of a study: made here, nowhere else asked for.

Each study has an authority of its own that signs one certificate for the server and one for its
edges. Who holds a certificate of the authority is let in, and so is who brings the token. Free
of torch, since the operator mints the same for pods.
"""

from splittracr.security.minting import (
    AUTHORITY,
    EDGE,
    SERVER,
    TOKEN,
    Credentials,
    Pair,
    bears,
    mint,
    new_token,
    server_pair,
    standing_authority,
    write,
)
from splittracr.security.tls import (
    NotYetValid,
    TlsFiles,
    begins,
    client_context,
    edge_tls,
    explain,
    server_context,
    server_tls,
    store_context,
    throw_away,
    token_in,
    trusting,
    when_valid,
)

__all__ = [
    "AUTHORITY",
    "EDGE",
    "SERVER",
    "TOKEN",
    "Credentials",
    "NotYetValid",
    "Pair",
    "TlsFiles",
    "bears",
    "begins",
    "client_context",
    "edge_tls",
    "explain",
    "mint",
    "new_token",
    "server_context",
    "server_pair",
    "server_tls",
    "standing_authority",
    "store_context",
    "throw_away",
    "token_in",
    "trusting",
    "when_valid",
    "write",
]
