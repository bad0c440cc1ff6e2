"""Containment of the user's code, which may call sys.exit or raise other BaseExceptions."""

import threading
from asyncio import CancelledError
from contextlib import AbstractContextManager

from splittracr.experiment.errors import LeftEarly, reason


class _Contained:
    """A class and not a generator, because a frame enters it for every stage and sample."""

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
    """Turn exceptions that are no Exception, such as SystemExit, into LeftEarly.

    The user's own code could otherwise end a thread or a process without an error message. In the
    main thread KeyboardInterrupt passes.
    """
    return _CONTAINED


def left_early(error: BaseException) -> LeftEarly:
    """Return the error for an exception that is no Exception."""
    if isinstance(error, SystemExit):
        code = "" if error.code is None else repr(error.code)
        return LeftEarly(f"code of the model or the data set called sys.exit({code})")
    return LeftEarly(f"code of the model or the data set raised {reason(error)}")
