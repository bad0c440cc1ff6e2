"""Split computing, run for real and measured honestly.

    import splittracr as st

    model = st.load("resnet18", weights="none")
    head, tail = model.split("layer2")

The names come from `splittracr.api`, which is imported when one of them is used: this module alone
brings neither torch nor pandas nor matplotlib.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from splittracr.api import Model as Model
    from splittracr.api import Plan as Plan
    from splittracr.api import Results as Results
    from splittracr.api import Split as Split
    from splittracr.api import load as load
    from splittracr.api import results as results
    from splittracr.api import run as run

__version__ = "0.1.0"

_API = ("Model", "Plan", "Results", "Split", "load", "results", "run")


def __getattr__(name: str) -> Any:
    if name in _API:
        # By name, for import-linter: a layer that imports this package does not import the API.
        from importlib import import_module

        return getattr(import_module("splittracr.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_API})
