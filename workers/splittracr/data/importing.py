"""Objects that a manifest names as `package.module:Name`. Runs the user's code, nothing else."""

from importlib import import_module
from typing import Any

from splittracr.experiment.errors import InvalidInput


def import_object(path: str, field: str) -> Any:
    """The object at `path`, written `package.module:Name` in the manifest's `field`.

    Raises InvalidInput where the path has another form, where the module cannot be imported,
    whatever the reason, or where it has no such name.
    """
    module_name, colon, name = path.partition(":")
    if not (module_name and colon and name):
        raise InvalidInput(field, path, "package.module:Class")
    try:
        module = import_module(module_name)
    except Exception as error:  # the user's module may raise anything
        raise InvalidInput(
            field, path, f"a module that can be imported ({type(error).__name__}: {error})"
        ) from error
    try:
        return getattr(module, name)
    except AttributeError as error:
        raise InvalidInput(field, path, f"a name that {module_name} has") from error
