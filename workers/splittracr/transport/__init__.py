"""Between the session and the socket: emulated links."""
