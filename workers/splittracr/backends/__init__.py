"""The runtimes that compute heads and tails, behind the protocol `Backend`."""
