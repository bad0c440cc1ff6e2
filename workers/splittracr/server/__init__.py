"""The server worker: tails for many edges."""
