"""Objects that a manifest names as `package.module:Name`. Runs the user's code, nothing else."""

import logging
import os
from importlib import import_module
from typing import Any

from PIL import Image

from splittracr.experiment.errors import InvalidInput, SplittracrError


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


def import_ultralytics(module: str) -> Any:
    """A module of ultralytics; SplittracrError names the extra where it is not installed.

    Importing it replaces Pillow's `Image.open` by one that tries to install a package whenever a
    file is no picture, in the middle of a study: that is undone, and installing switched off.
    """
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")
    opener = Image.open
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        raise SplittracrError(
            f"Networks of ultralytics need the optional extra splittracr[ultralytics] ({error}). "
            "It is not installed by default because of its licence, AGPL-3.0."
        ) from error
    finally:
        Image.open = opener
    logging.getLogger("ultralytics").setLevel(logging.ERROR)  # it prints every layer it builds
    return found
