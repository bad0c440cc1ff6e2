"""A worker as a process: allocator, event loop, SIGTERM, and events for the parent process.

A worker writes one JSON object a line to standard output (`{"event": "progress", ...}`). Log
messages and the output of the user's own code go to standard error.
"""

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ParamSpec, TextIO, TypeVar, cast

from splittracr.data.containment import left_early
from splittracr.experiment.contracts import TERMINATION_FILE, ExitCode, Role
from splittracr.experiment.errors import SplittracrError, Stopped, of_system, reason
from splittracr.experiment.report import Phase, WorkerReport, termination_message
from splittracr.experiment.spec import LogLevel
from splittracr.results.visible import visible

log = logging.getLogger("splittracr")

T = TypeVar("T")
P = ParamSpec("P")

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory instead of returning it to the kernel.

    Otherwise every large temporary is mapped, faulted in page by page and unmapped again, which
    costs more than sending it. All threads share one arena: they free what others allocate, and
    separate arenas grow by some hundred bytes a frame for ever. Does nothing if the C library has
    no mallopt.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**30)
        libc.mallopt(_M_TOP_PAD, 2**26)


def release_freed_memory() -> None:
    """Return freed memory to the kernel once, as after a start that took more than frames will."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


_events: ContextVar[TextIO] = ContextVar("events")


def emit(event: str, **content: Any) -> None:
    """Write one event for the process that started this one."""
    line = json.dumps({"event": event, "at": round(time.time(), 3), **content})
    print(line, file=_events.get(sys.stdout), flush=True)


@contextlib.contextmanager
def _events_on(stream: TextIO) -> Iterator[None]:
    token = _events.set(stream)
    try:
        yield
    finally:
        _events.reset(token)


def run_worker(
    role: str,
    main: Callable[[asyncio.Event], Coroutine[Any, Any, None]],
    level: LogLevel = LogLevel.INFO,
    log_file: "LogFile | None" = None,
) -> int:
    """Run `main(stop)` until it returns; SIGTERM and SIGINT set `stop`. Returns the exit code.

    An expected error becomes a `failed` event and one paragraph on standard error. What is logged
    from `level` on also goes to `log_file`.
    """
    keep_freed_memory()
    with (
        _logging_to(role, level, log_file),
        _events_on(sys.stdout),
        contextlib.redirect_stdout(sys.stderr),
    ):
        try:
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                runner.run(_until_stopped(main))
        except SplittracrError as error:
            return _failed(role, str(error), error.exit_code)
        except OSError as error:
            return _failed(role, f"{role}: {of_system(error)}", ExitCode.FAILED)
        except Exception as error:
            log.exception("this should not have happened")
            return _failed(role, f"{role}: {reason(error)}", ExitCode.FAILED)
        except SystemExit as error:  # of the user's code: this project's never exits here
            return _failed(role, str(left_early(error)), ExitCode.FAILED)
    return ExitCode.OK


class LogFile(logging.FileHandler):
    """A log in the results folder.

    It is written once the journal exists: a study that fails before leaves no files. Earlier
    records are kept until then.
    """

    def __init__(self, file: Path, journal: Path) -> None:
        super().__init__(file, encoding="utf-8", delay=True)
        self._file, self._journal = file, journal
        self._early: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, and those that waited, if the journal exists."""
        self._early.append(record)
        if not self._journal.exists():
            return
        waiting, self._early = self._early, []
        with contextlib.suppress(OSError):  # a full disk costs no result
            self._file.parent.mkdir(exist_ok=True)
            for kept in waiting:
                super().emit(kept)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Ignore a record that cannot be written: a full disk costs no result."""


@contextlib.contextmanager
def _logging_to(role: str, level: LogLevel, file: LogFile | None) -> Iterator[None]:
    words = f"{role} %(levelname)s %(message)s"
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setFormatter(_Visible(words))
    wanted = level.upper()
    # Libraries log too much below Info.
    logging.basicConfig(level=max(logging.INFO, getattr(logging, wanted)), handlers=[terminal])
    logging.getLogger("splittracr").setLevel(wanted)
    if file is None:
        yield
        return
    file.setFormatter(_Visible(f"%(asctime)s {words}"))
    logging.getLogger().addHandler(file)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(file)
        file.close()


class _Visible(logging.Formatter):
    """Shows control characters, which file names may have, as symbols."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def _failed(role: str, reason: str, code: int) -> int:
    if not _events.get(sys.stdout).isatty():  # a person has the log, which says the same
        emit("failed", error=reason, exit_code=code)
    if (path := os.environ.get(TERMINATION_FILE)) is not None:
        _leave(Path(path), WorkerReport(role=Role(role), error=reason, exit_code=code))
    log.error("%s", reason)
    return code


def _leave(words: Path, report: WorkerReport) -> None:
    """Write the termination message, unless the worker has written a better one."""
    if not (words.is_file() and words.stat().st_size):
        words.write_bytes(termination_message(report.model_copy(update={"phase": Phase.FAILED})))


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of `work` in its own thread, which does not delay the exit of the process.

    `asyncio.to_thread` would: the loop joins its threads, and a proof can take many seconds.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(cast(T, result))

    def run() -> None:
        result: T | None = None
        caught: BaseException | None = None
        try:
            result = work(*args, **kwargs)
        except StopIteration as error:  # which no future can hold
            caught = RuntimeError(repr(error))
        except Exception as error:  # noqa: BLE001 - handed to the task that waits
            caught = error
        except BaseException as error:  # noqa: BLE001 - it would end the event loop
            caught = left_early(error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: no task waits any more
            loop.call_soon_threadsafe(settle, result, caught)

    threading.Thread(target=run, daemon=True).start()
    return await future


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, if it is installed; None is asyncio's own."""
    try:
        import uvloop
    except ImportError:  # not built for this platform: asyncio's own loop does
        return None
    return uvloop.new_event_loop


async def _until_stopped(main: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await main(stop)


async def unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, or Stopped as soon as `stop` is set."""
    working = asyncio.ensure_future(work)
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([working, stopped], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Stopped("stopped before the first frame")
        return working.result()
    finally:
        working.cancel()
        stopped.cancel()


def stop_with_parent() -> None:
    """Send this process SIGTERM when its standard input closes, because the parent has ended."""

    def watch() -> None:
        # Not sys.stdin: its lock, held by a daemon thread, would abort the interpreter's exit.
        while os.read(0, 4096):
            pass
        signal.raise_signal(signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
