"""Between the session and the socket: links emulated on the sender's side."""
