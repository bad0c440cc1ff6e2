"""A fence around the user's code, which may do more than raise errors: call sys.exit, for one."""

import threading
from asyncio import CancelledError
from collections.abc import Iterator
from contextlib import contextmanager

from splittracr.experiment.errors import LeftEarly


@contextmanager
def contained() -> Iterator[None]:
    """Turn what the code inside raises besides errors, such as SystemExit, into LeftEarly.

    The user's own code could otherwise end a thread or a process without a word. Ctrl-C reaches
    only the main thread and passes there.
    """
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        in_main = threading.current_thread() is threading.main_thread()
        if isinstance(error, KeyboardInterrupt | GeneratorExit | CancelledError) and in_main:
            raise
        raise left_early(error) from error


def left_early(error: BaseException) -> LeftEarly:
    """The error for an exception that is no Exception."""
    if isinstance(error, SystemExit):
        code = "" if error.code is None else repr(error.code)
        return LeftEarly(f"code of the network or the data set called sys.exit({code})")
    words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return LeftEarly(f"code of the network or the data set raised {words}")
