"""Names of operations: the path by which the network calls a module, and the function it runs.

A graph names a module by the first place at which it is registered. One activation that a whole
network shares would have the name of its first layer everywhere, so paths here follow the calls.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from splittracr.experiment.contracts import INPUT, OUTPUT

_INNER = "net"
"""The network as its library builds it, where it is a part of the captured one."""


@dataclass(frozen=True)
class Names:
    """The `now` unique names of a graph's calls and the `paths` of the modules that they run in, in
    order. `before` are the names that they had in the version before.
    """

    now: tuple[str, ...]
    before: tuple[str, ...]
    paths: tuple[str, ...]


def names(calls: Sequence[fx.Node], root: nn.Module) -> Names:
    """Name the calls of a graph of `root`.

    A module has its path. A function has the path of the module that calls it and its own name. If
    the network itself calls a function several times, its name begins with the part that ran
    before. A second call of the same thing gets `_1`, as torchvision's feature extraction does it,
    or the next number that is free.
    """
    stacks = [modules(node) for node in calls]
    paths = [_inner(_called_path(root, stack)) for stack in stacks]
    own = Counter(
        _function_name(node.target)
        for node, path in zip(calls, paths, strict=True)
        if not path and node.op != "call_module"
    )
    bases, part = [], ""
    for node, stack, path in zip(calls, stacks, paths, strict=True):
        function = "" if node.op == "call_module" else _function_name(node.target)
        if path:
            part = _part(root, stack)
        elif part and own[function] > 1:
            function = f"after_{part}.{function}"
        bases.append(".".join(filter(None, (path, function))))
    before = [_inner(_registered(node, stack)) for node, stack in zip(calls, stacks, strict=True)]
    return Names(_unique(bases), _unique(before), tuple(paths))


def modules(node: fx.Node) -> tuple[str, ...]:
    """The modules in whose calls a node is, the outermost first, by where they are registered."""
    stack = node.meta.get("nn_module_stack") or {}
    return tuple(str(entry[0] if isinstance(entry, tuple) else entry) for entry in stack.values())


def target_name(module: fx.GraphModule, node: fx.Node) -> str:
    """What the operation calls, with a module's settings: part of the fingerprint."""
    if node.op != "call_module":
        return _function_name(node.target)
    called = module.get_submodule(str(node.target))
    return f"{type(called).__name__}({called.extra_repr()})"


def _unique(bases: Sequence[str]) -> tuple[str, ...]:
    seen: dict[str, int] = {}
    issued = {INPUT, OUTPUT}
    unique = []
    for base in bases:
        count = seen.get(base, 0)
        while (name := f"{base}_{count}" if count else base) in issued:
            count += 1
        seen[base] = count + 1
        issued.add(name)
        unique.append(name)
    return tuple(unique)


def _registered(node: fx.Node, stack: Sequence[str]) -> str:
    """The name by the place where the module is registered."""
    if node.op == "call_module":
        return str(node.target)
    path = stack[-1] if stack else ""
    return ".".join(filter(None, (path, _function_name(node.target))))


def _called_path(root: nn.Module, stack: Sequence[str]) -> str:
    """The path of the innermost of nested calls, from each module to the one that it calls."""
    caller, at, path = root, "", ""
    for registered in filter(None, stack):
        module = _submodule(root, registered)
        within = f"{at}." if at else ""
        if registered.startswith(within) and registered != at:
            below = registered.removeprefix(within)
        else:
            below = _below(caller, module) or registered.rpartition(".")[2]
        caller, at, path = module or caller, registered, ".".join(filter(None, (path, below)))
    return path


def _submodule(root: nn.Module, path: str) -> nn.Module | None:
    try:
        return root.get_submodule(path)
    except AttributeError:  # torch.export names modules that it has made
        return None


def _below(caller: nn.Module, module: nn.Module | None) -> str:
    """The path of a module below its caller; empty if it is not below."""
    found = (path for path, one in caller.named_modules(remove_duplicate=False) if one is module)
    return next(found, "")


def _part(root: nn.Module, stack: Sequence[str]) -> str:
    """The outermost module that the network itself calls, of nested calls."""
    below = [path for path in stack if path not in ("", _INNER)]
    return _inner(_called_path(root, below[:1]))


def _inner(path: str) -> str:
    return "" if path == _INNER else path.removeprefix(f"{_INNER}.")


def _function_name(target: Any) -> str:
    if isinstance(target, str):
        return target
    if isinstance(target, torch._ops.OpOverload):
        return str(target.overloadpacket.__name__)
    return str(getattr(target, "__name__", target))
