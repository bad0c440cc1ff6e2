"""What SIGTERM and Ctrl-C do where no event loop watches for them."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from splittracr.experiment.errors import Stopped


@contextmanager
def stopping(words: str) -> Iterator[None]:
    """Both signals end the work inside at once, as a Stopped that says `words`."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(words) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
