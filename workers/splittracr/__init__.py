"""Split computing, run for real and measured honestly."""

__version__ = "0.1.0"
