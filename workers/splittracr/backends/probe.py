"""Whether a runtime can be imported here, tried in a process of its own.

A wheel may have instructions that an older board does not know. The process that imports it then
dies without a word, and a worker would do so again after every restart.
"""

import importlib.util
import os
import signal
import subprocess
import sys

from splittracr.experiment.contracts import Runtime
from splittracr.experiment.errors import InvalidInput

_MODULES = {Runtime.ONNX_RUNTIME: ("numpy", "onnx", "onnxruntime")}
_SECONDS = 300  # an import takes a minute from a slow card


def check(runtime: Runtime, field: str) -> None:
    """Raise InvalidInput that names `field` if a package of `runtime` cannot be imported here.

    Packages that are missing are left to the runtime, which says how to install them.
    """
    for module in _MODULES.get(runtime, ()):
        if not _is_installed(module):
            continue
        why = _failure(module)
        if why is not None:
            expected = f"Torch, or packages made for this processor (`import {module}` {why})"
            raise InvalidInput(field, runtime.value, expected)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _failure(module: str) -> str | None:
    """Why a module cannot be imported; None if it can."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", f"import {module}"],
            env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},  # as in backends/onnx
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"takes more than {_SECONDS} s"
    if done.returncode < 0:
        return f"is ended by {signal.Signals(-done.returncode).name}"
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"ends with status {done.returncode}"]
        return f"fails: {lines[-1][:300]}"
    return None
