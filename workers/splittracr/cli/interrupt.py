"""Handling of SIGTERM and Ctrl-C without an event loop."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from splittracr.experiment.errors import Stopped


@contextmanager
def stopping(words: str) -> Iterator[None]:
    """Both signals raise Stopped with the text `words` in the body."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(words) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
