"""Networks of the user: registered in code, by another package's entry point, or by path.

    @register("my_net", shape=(3, 32, 32), task=Task.CLASSIFY)
    class MyNet(nn.Module): ...

A manifest then has `name: my_net`, or `name: package.module:MyNet` without registration.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from splittracr.data.containment import contained
from splittracr.data.importing import import_object
from splittracr.experiment.errors import InvalidInput, SplittracrError, nearest
from splittracr.experiment.spec import ModelSpec, Source
from splittracr.models import timm_config, weights
from splittracr.models.network import Network, Task
from splittracr.models.random_weights import randomise

GROUP = "splittracr.models"
"""Entry-point group in which another package names its networks."""

ARGS = "spec.model.args"
NAME = "spec.model.name"

Builder = Callable[..., nn.Module]
B = TypeVar("B", bound=Builder)

_POSTPROCESSORS = {Task.CLASSIFY: "classification", Task.SEGMENT: "semantic-segmentation"}


@dataclass(frozen=True)
class Registration:
    """The builder of a network and its properties. `shape` has no batch dimension.

    With `input_dtype` uint8 the input is pictures `[3, H, W]`. The network then gets values
    (pixel / 255 - mean) / std, or the pixels themselves if `normalise` is false. With another
    `input_dtype` it gets tensors of that type and `shape` from the user's own data set.

    `exits` maps names of cuts to the network's own modules, by path. Such a module is called with
    the live tensors of the cut and returns logits `[N, classes]`.
    """

    builder: Builder
    shape: tuple[int, ...] = (3, 224, 224)
    task: Task = Task.CLASSIFY
    postprocessor: str | None = None
    classes: tuple[str, ...] = ()
    input_dtype: torch.dtype = torch.uint8
    normalise: bool = True
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    prepare: Callable[[Image.Image], Tensor] | None = None
    leaves: tuple[type[nn.Module], ...] = ()
    variable_shape: bool = False
    exits: Mapping[str, str] = field(default_factory=dict)


_registered: dict[str, Registration] = {}


def register(name: str, **options: Any) -> Callable[[B], B]:
    """Register a module class, or a function that returns a module, as `name`; a decorator.

    `options` are the fields of `Registration`. The builder is called with the manifest's
    `spec.model.args`, and with `num_classes` if the manifest has `numClasses`. Raises ValueError if
    the name is taken by another builder or has a colon.
    """

    def remember(builder: B) -> B:
        known = _registered.get(name)
        if ":" in name or (known is not None and _path(known.builder) != _path(builder)):
            raise ValueError(f"{name!r} cannot be registered: it is taken, or has a colon")
        _registered[name] = Registration(builder, **options)
        return builder

    return remember


def names() -> list[str]:
    """Return the names of registered networks and of entry points, without loading the latter."""
    return sorted({*_registered, *entry_points(group=GROUP).names})


def build(spec: ModelSpec, base: Path) -> Network:
    """Build the network of `spec`; a relative weights file starts at the folder `base`.

    Weights `official` are those of the builder, with torch seeded by `spec.seed`. Raises
    InvalidInput if there is no such network or it cannot be built, and SplittracrError if an entry
    point cannot be loaded.
    """
    found = _find(spec.name)
    if spec.input is not None:
        shape, dtype = spec.input.shape, getattr(torch, spec.input.dtype.value)
        found = replace(found, shape=shape, input_dtype=dtype, variable_shape=False)
    if spec.weights not in (weights.OFFICIAL, weights.NONE):
        expected = f"{weights.OFFICIAL} (as its builder makes it) or {weights.NONE}"
        raise InvalidInput("spec.model.weights", spec.weights, expected)
    path = weights.file_path(spec, base)
    net = _construct(spec, found)
    if spec.input_size is None and found == Registration(found.builder):  # nothing is declared
        found = replace(found, **timm_config.description(net))
    _materialise(spec, found, net)
    label = _load(spec, net, path)
    return _network(spec, found, net, label)


def _find(name: str) -> Registration:
    if name not in _registered and ":" not in name:
        for entry in entry_points(group=GROUP, name=name):
            _load_entry(entry)
    if name in _registered:
        return _registered[name]
    if ":" not in name:
        expected = f"a registered model, {nearest(name, names())}, or package.module:Class"
        raise InvalidInput(NAME, name, expected)
    found = import_object(name, NAME)
    if not callable(found):
        raise InvalidInput(NAME, name, "a module class, or a function that returns a module")
    registered = [r for r in _registered.values() if r.builder is found]
    return registered[0] if registered else Registration(found)


def _load_entry(entry: EntryPoint) -> None:
    where = f"The entry point {entry.name} = {entry.value} of group {GROUP}"
    try:
        with contained():
            found = entry.load()
    except Exception as error:  # another package's code may raise anything
        raise SplittracrError(f"{where} cannot be loaded ({weights.brief(error)}).") from error
    if entry.name not in _registered:
        if not callable(found):
            raise SplittracrError(f"{where} is no model's builder and registers none.")
        _registered[entry.name] = Registration(found)


def _construct(spec: ModelSpec, found: Registration) -> nn.Module:
    arguments = dict(spec.args)
    if spec.num_classes is not None:
        arguments["num_classes"] = spec.num_classes
    try:
        inspect.signature(found.builder).bind(**arguments)
    except TypeError as error:
        expected = f"arguments that {_path(found.builder)} takes ({error})"
        raise InvalidInput(ARGS, arguments, expected) from error
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(spec.seed)
        try:
            with contained():
                net = found.builder(**arguments)
        except Exception as error:  # the user's code may raise anything
            expected = f"a model that can be built ({weights.brief(error)})"
            raise InvalidInput(NAME, spec.name, expected) from error
    if not isinstance(net, nn.Module):
        raise InvalidInput(
            NAME, spec.name, f"a builder of modules (it made a {type(net).__name__})"
        )
    return net


def _materialise(spec: ModelSpec, found: Registration, net: nn.Module) -> None:
    """Run a network with lazy modules once, so that their parameters get shapes and values."""
    values: list[Any] = [*net.parameters(), *net.buffers()]
    if not any(map(is_lazy, values)):
        return
    pixels = found.input_dtype is torch.uint8 and found.normalise
    dtype = torch.get_default_dtype() if pixels else found.input_dtype
    example = torch.zeros(1, *_shape(spec, found), dtype=dtype)
    training = net.training
    with torch.random.fork_rng(devices=()), torch.no_grad():
        torch.manual_seed(spec.seed)
        try:
            with contained():
                net.eval()(example)
        except Exception as error:  # the user's code may raise anything
            expected = (
                f"a model with lazy modules that takes the input {list(example.shape)} "
                f"({weights.brief(error)})"
            )
            raise InvalidInput(NAME, spec.name, expected) from error
    named: list[tuple[str, Any]] = list(net.named_parameters())
    left = [name for name, value in named if is_lazy(value)]
    if left:
        expected = f"a model whose forward uses {left[0]}, which otherwise has no shape"
        raise InvalidInput(NAME, spec.name, expected)
    net.train(training)


def _load(spec: ModelSpec, net: nn.Module, path: Path | None) -> str:
    """Load the weights into `net`; returns their label."""
    if path is not None:
        state, label = weights.read_for(net, path)
        return weights.load_state(net, state, spec, label)
    if spec.weights == weights.NONE:
        randomise(net, spec.seed)
        return weights.none_label(spec)
    return f"as built (seed {spec.seed})"


def _network(spec: ModelSpec, found: Registration, net: nn.Module, label: str) -> Network:
    # Imported here, because registering must not need torchvision.
    from splittracr.models.pictures import FromPixels, Pixels, ResizeAndCrop

    dtype: torch.dtype = getattr(torch, spec.dtype.value)
    shape = _shape(spec, found)
    module, leaves, within = weights.cast(net, spec), found.leaves, ""
    if found.input_dtype is torch.uint8 and found.normalise:
        module = FromPixels(Pixels(found.mean, found.std, dtype), module)
        leaves, within = (*leaves, Pixels), "net"
    return Network(
        name=spec.name,
        source=Source.CUSTOM,
        task=found.task,
        module=module.eval(),
        prepare=found.prepare or ResizeAndCrop(shape[-2:]),
        shape=shape,
        postprocessor=found.postprocessor or _POSTPROCESSORS.get(found.task, "raw"),
        weights=label,
        classes=found.classes if spec.num_classes in (None, len(found.classes)) else (),
        input_dtype=found.input_dtype,
        leaves=leaves,
        variable_shape=found.variable_shape,
        within=within,
        exits=_exits(spec, found, net),
    )


def _exits(spec: ModelSpec, found: Registration, net: nn.Module) -> dict[str, nn.Module]:
    modules = dict(net.named_modules())
    for cut, path in found.exits.items():
        if path not in modules:
            expected = f"a model with the module {path!r}, which is declared as the exit at {cut}"
            raise InvalidInput(NAME, spec.name, expected)
    return {cut: modules[path] for cut, path in found.exits.items()}


def _shape(spec: ModelSpec, found: Registration) -> tuple[int, ...]:
    if spec.input_size is None:
        return found.shape
    if len(found.shape) != 3:
        expected = f"nothing, the input of {spec.name} is no picture but {list(found.shape)}"
        raise InvalidInput("spec.model.inputSize", list(spec.input_size), expected)
    return (found.shape[0], *spec.input_size)


def _path(builder: Builder) -> str:
    return f"{builder.__module__}:{getattr(builder, '__qualname__', repr(builder))}"
