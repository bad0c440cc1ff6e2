"""A fence around the user's code, which may do more than raise errors: call sys.exit, for one."""

import threading
from asyncio import CancelledError
from contextlib import AbstractContextManager

from splittracr.experiment.errors import LeftEarly, reason


class _Contained:
    """A class, not a generator: a frame enters it for every stage and every sample."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, Exception):
            return
        in_main = threading.current_thread() is threading.main_thread()
        if isinstance(error, KeyboardInterrupt | GeneratorExit | CancelledError) and in_main:
            return
        raise left_early(error) from error


_CONTAINED = _Contained()


def contained() -> AbstractContextManager[None]:
    """Turn what the code inside raises besides errors, such as SystemExit, into LeftEarly.

    The user's own code could otherwise end a thread or a process without a word. Ctrl-C reaches
    only the main thread and passes there.
    """
    return _CONTAINED


def left_early(error: BaseException) -> LeftEarly:
    """The error for an exception that is no Exception."""
    if isinstance(error, SystemExit):
        code = "" if error.code is None else repr(error.code)
        return LeftEarly(f"code of the network or the data set called sys.exit({code})")
    return LeftEarly(f"code of the network or the data set raised {reason(error)}")
