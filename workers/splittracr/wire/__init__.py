"""The wire: messages, the payload they carry, and the session as a state machine. No I/O."""
