"""Records on disk and what is derived from them: tables, figures and the report.

The Python API has a function of the same name, `splittracr.results(path)`, so this package can be
called.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, path: Any) -> Any:
        return import_module("splittracr.api").results(path)


sys.modules[__name__].__class__ = _Callable
