"""Imports objects that a manifest names as `package.module:Name`.

A file beside the manifest has priority over other modules of the same name. `test:Net` is in the
`test.py` there, not in the standard library. Such a module gets another name in `sys.modules`, so
that a `queue.py` beside the manifest does not break libraries.
"""

import logging
import os
import sys
from importlib import import_module, util
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image

from splittracr.data.containment import contained
from splittracr.experiment.errors import InvalidInput, SplittracrError, reason

_PREFIX = "beside_the_manifest_"
"""The prefix of a module whose name is that of another module."""

_folders: list[Path] = []


def look_in(folder: Path) -> None:
    """Let manifests name modules in `folder`, an absolute path, and let those import each other."""
    if folder not in _folders:
        _folders.append(folder)
        sys.path.append(str(folder))  # at the end, after all libraries


def import_object(path: str, field: str) -> Any:
    """Import the object at `path`, written `package.module:Name` in the manifest's `field`.

    Modules in folders of `look_in` have priority. Raises InvalidInput if the path has another form,
    if the module cannot be imported for any reason, or if it has no such name.
    """
    return import_with_module(path, field)[1]


def import_with_module(path: str, field: str) -> tuple[ModuleType, Any]:
    """As `import_object`, with the module that the object was found in."""
    module_name, colon, name = path.partition(":")
    if not (module_name and colon and name):
        raise InvalidInput(field, path, "package.module:Class")
    try:
        with contained():
            module = _import(module_name)
    except Exception as error:  # the user's module may raise anything
        file = _file(module_name)
        where = f"{file}: " if file else ""
        expected = f"a module that can be imported ({where}{reason(error)})"
        raise InvalidInput(field, path, expected) from error
    try:
        return module, getattr(module, name)
    except AttributeError as error:
        where = getattr(module, "__file__", None) or module_name
        raise InvalidInput(field, path, f"a name that {where} has") from error


def is_there(path: str) -> bool:
    """Whether there is a module for `package.module:Name`; nothing is imported."""
    module = path.partition(":")[0]
    try:
        return _file(module) is not None or util.find_spec(module.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False


def _import(name: str) -> ModuleType:
    """Import the module `name`, from a folder of `look_in` if one has such a file."""
    file = _file(name)
    top = name.partition(".")[0]
    if file is None or _is_ours(top):
        return import_module(name)
    alias = _PREFIX + top
    if alias not in sys.modules:
        _load(alias, next(folder for folder in _folders if file.is_relative_to(folder)) / top)
    return import_module(_PREFIX + name)


def _file(name: str) -> Path | None:
    """Return the file of the module `name` in a folder of `look_in`."""
    for folder in _folders:
        path = folder.joinpath(*name.split("."))
        for file in (path / "__init__.py", path.with_name(f"{path.name}.py")):
            if file.is_file():
                return file
    return None


def _is_ours(top: str) -> bool:
    """Whether Python itself finds the package or module `top` in a folder of `look_in`."""
    try:
        spec = util.find_spec(top)
    except (ImportError, ValueError):  # ValueError: a module without a spec, such as __main__
        return False
    if spec is None:
        return False
    places = [spec.origin] if spec.has_location else list(spec.submodule_search_locations or ())
    return any(Path(place).is_relative_to(f) for place in places if place for f in _folders)


def _load(alias: str, path: Path) -> None:
    """Load the package or module at `path`, without a suffix, under the name `alias`."""
    package = path / "__init__.py"
    if package.is_file():
        spec = util.spec_from_file_location(alias, package, submodule_search_locations=[str(path)])
    elif path.with_name(f"{path.name}.py").is_file():
        spec = util.spec_from_file_location(alias, path.with_name(f"{path.name}.py"))
    else:  # a folder without __init__.py
        spec = ModuleSpec(alias, None, is_package=True)
        spec.submodule_search_locations = [str(path)]
    assert spec is not None
    module = sys.modules[alias] = util.module_from_spec(spec)
    try:
        if spec.loader is not None:
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[alias]
        raise


def import_ultralytics(module: str) -> Any:
    """Import a module of ultralytics. SplittracrError names the extra if it is not installed.

    Importing it replaces Pillow's `Image.open` by a function that tries to install a package if a
    file is no picture. This is undone, and installing is switched off.
    """
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")
    opener = Image.open
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        raise SplittracrError(
            f"Models of ultralytics need the optional extra splittracr[ultralytics] ({error}). "
            "It is not installed by default because of its licence, AGPL-3.0."
        ) from error
    finally:
        Image.open = opener
    logging.getLogger("ultralytics").setLevel(logging.ERROR)  # it prints every layer it builds
    return found


def import_extra(module: str, extra: str) -> Any:
    """Import a module of the library `extra`. SplittracrError names the extra if it is missing."""
    try:
        return import_module(module)
    except ImportError as error:
        raise SplittracrError(
            f"Models of {extra} need an optional extra: pip install 'splittracr[{extra}]' "
            f"({reason(error)})."
        ) from error
