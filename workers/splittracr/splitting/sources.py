"""The user's source files that a network runs, and the libraries that it uses, with versions.

Files are found from the classes and functions of the network and of the post-processor, and from
there by what their modules import. The names of files do not depend on the folder they are in.
"""

import contextlib
import hashlib
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from splittracr.splitting.behaviour import script_name, type_name
from splittracr.splitting.tape import Tape

_MAX_FILES = 512
_LIBRARIES = ("torch", "torchvision", "ultralytics", "timm", "transformers")
_OURS = "splittracr"


def modules_of(network: nn.Module, tape: Tape, others: Iterable[Any]) -> list[ModuleType]:
    """The Python modules that define the parts of a network, its operations, and `others`."""
    names = {_module_of(type_name(part)) for part in network.modules()}
    called = [op.called for op in tape.ops if op.called is not None]
    return _existing(names.union(*map(_names, (*called, *others))))


def modules_behind(*things: Any) -> list[ModuleType]:
    """The Python modules that define classes, functions, or the classes of objects."""
    return _existing(set().union(*map(_names, things)))


def _existing(names: Iterable[str]) -> list[ModuleType]:
    return [sys.modules[name] for name in sorted(names) if name in sys.modules]


def _names(thing: Any) -> set[str]:
    if isinstance(thing, nn.Module):
        return {_module_of(type_name(part)) for part in thing.modules()} | set(_hooks(thing))
    if isinstance(thing, torch.jit.ScriptFunction | torch.ScriptObject):
        return {_module_of(script_name(thing))}
    return {_defined_in(thing)}


def files(roots: Iterable[ModuleType]) -> dict[str, str]:
    """Return SHA-256 by name of the source files of `roots` and the user's files they import.

    A file counts as imported if a module of `roots` names what is in it, directly or through
    others. So does one that was imported from the folder of one of `roots`, as in a function.
    Libraries that are imported are left out: their versions stand for them. A name is that of the
    file below the folder of its top-level package.
    """
    found: dict[str, str] = {}
    waiting = [module for module in roots if _top(module) not in (*_LIBRARIES, _OURS)]
    waiting += _beside(waiting)
    seen = {id(module) for module in waiting}
    while waiting and len(found) < _MAX_FILES:
        module = waiting.pop()
        path = _file(module)
        if path is None or _is_standard(path):
            continue
        with contextlib.suppress(OSError):  # for example a module of an archive
            found[_name(module, path)] = _digest(path)
        for other in _imported(module):
            if id(other) not in seen and _is_users(other):
                seen.add(id(other))
                waiting.append(other)
    return dict(sorted(found.items()))


def libraries(roots: Iterable[ModuleType]) -> dict[str, str]:
    """Versions by name of torch and the libraries that `roots` are from or import from.

    Without the build, such as `+cpu`: the two ends often have another one.
    """
    names = {"torch"}
    for module in roots:
        path = _file(module)
        if path is not None and _is_installed(path):
            names.add(_top(module))
        if _top(module) == _OURS:
            names |= {_top(other) for other in _imported(module)} & set(_LIBRARIES)
    versions = {name: _version(name) for name in sorted(names - {_OURS})}
    return {name: version for name, version in versions.items() if version is not None}


def _version(name: str) -> str | None:
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        found = str(getattr(sys.modules.get(name), "__version__", ""))
    return found.partition("+")[0] or None


def _module_of(qualified: str) -> str:
    """The module of a class or function by the longest prefix of its name that is a module."""
    name = qualified
    while name and name not in sys.modules:
        name = name.rpartition(".")[0]
    return name


def _defined_in(thing: Any) -> str:
    inner = getattr(thing, "func", thing)  # of functools.partial
    return str(getattr(inner, "__module__", None) or type(inner).__module__)


def _hooks(module: nn.Module) -> Iterator[str]:
    for part in module.modules():
        hung = [*part._forward_hooks.values(), *part._forward_pre_hooks.values()]
        yield from map(_defined_in, [*hung, vars(part).get("forward", part)])


def _imported(module: ModuleType) -> Iterator[ModuleType]:
    """Modules that a module refers to, itself or by a class or function of them."""
    for value in list(vars(module).values()):
        if isinstance(value, ModuleType):
            yield value
        elif hasattr(value, "__qualname__"):
            other = sys.modules.get(str(getattr(value, "__module__", "")))
            if other is not None:
                yield other


def _beside(modules: Iterable[ModuleType]) -> list[ModuleType]:
    """Other modules that were imported from the folders, or packages, of the user's `modules`."""
    folders = {folder for one in modules if _is_users(one) and (folder := _folder(one))}
    if not folders:
        return []
    known = {id(one) for one in modules}
    loaded: list[object] = [*sys.modules.values()]  # programs put other things there, too
    modules_loaded = (one for one in loaded if isinstance(one, ModuleType))
    others = (one for one in modules_loaded if id(one) not in known and one.__name__ != "__main__")
    return [one for one in others if _folder(one) in folders and _is_users(one)]


def _folder(module: ModuleType) -> Path | None:
    """The folder that a module's top-level package or file lies in."""
    path = _file(module)
    if path is None:
        return None
    depth = module.__name__.count(".") + (path.stem == "__init__")
    return path.parents[depth] if depth < len(path.parents) else None


def _is_users(module: ModuleType) -> bool:
    """Whether a module is neither this project's nor the standard library's nor installed."""
    path = _file(module)
    if path is None or _top(module) == _OURS:
        return False
    return not (_is_standard(path) or _is_installed(path))


def _file(module: ModuleType) -> Path | None:
    path = getattr(module, "__file__", None)
    return Path(path) if isinstance(path, str) else None


def _top(module: ModuleType) -> str:
    return module.__name__.partition(".")[0]


def _name(module: ModuleType, path: Path) -> str:
    depth = module.__name__.count(".") + 1 + (path.stem == "__init__")
    return "/".join(path.parts[-depth:])


def _digest(path: Path) -> str:
    text = path.read_bytes().replace(b"\r\n", b"\n")  # as some tools check files out
    return f"sha256:{hashlib.sha256(text).hexdigest()[:16]}"


@cache
def _places(*names: str) -> tuple[Path, ...]:
    return tuple(Path(sysconfig.get_path(name)) for name in names)


def _is_installed(path: Path) -> bool:
    within = any(path.is_relative_to(place) for place in _places("purelib", "platlib"))
    return within or "site-packages" in path.parts or "dist-packages" in path.parts


def _is_standard(path: Path) -> bool:
    standard = any(path.is_relative_to(place) for place in _places("stdlib", "platstdlib"))
    return standard and not _is_installed(path)
