"""Module to graph: torch.fx if it can, else torch.export."""

import contextlib
import io
import linecache
import logging
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, fx, nn

from splittracr.experiment.errors import CaptureError
from splittracr.splitting.compare import same_plain
from splittracr.splitting.state import kept, separate
from splittracr.splitting.tape import Tape

_RUNS = 3  # of the module that have to be equal
_NOT_TO_BLAME = frozenset({"torch", "splittracr", *sys.stdlib_module_names})


class _UnsteadyError(CaptureError):
    """The module is not the same twice, and would not be under the other front end."""


class _Unsized(fx.Proxy):
    """A proxy that can be iterated: `list()` asks for a length first and accepts TypeError as
    "unknown", but not the error that `fx.Proxy` raises.
    """

    def __len__(self) -> int:
        raise TypeError("the length of a traced value is not known")


class _Tracer(fx.Tracer):
    """torch.fx's tracer, with our choice of leaves, and unpacking of `chunk` and `split`."""

    def __init__(self, leaves: tuple[type[nn.Module], ...]) -> None:
        super().__init__()
        self._leaves = leaves
        self._open: nn.Module | None = None  # torch's own, whose layers are traced

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, self._leaves):
            return True
        return m is not self._open and super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        if isinstance(m, nn.TransformerEncoder) and _is_plain(m, args, kwargs):
            self._open, forward = m, partial(_encoded, m)
        return super().call_module(m, forward, args, kwargs)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Unsized(node, self)

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        count = _unpacked_length(obj.node)
        if count is None:
            return super().iter(obj)
        return iter([obj[i] for i in range(count)])  # type: ignore[index]


def _is_plain(
    encoder: nn.TransformerEncoder, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> bool:
    """Whether a call only calls its layers, one after the other.

    With a mask it may compute on nested tensors, which cross no cut.
    """
    own = type(encoder).forward is nn.TransformerEncoder.forward and "forward" not in vars(encoder)
    hooked = encoder._forward_hooks or encoder._forward_pre_hooks
    masks = [*args[1:], *kwargs.values()]
    return own and not hooked and len(args) > 0 and not any(m is not None for m in masks)


def _encoded(encoder: nn.TransformerEncoder, values: Any, *_: None, **__: None) -> Any:
    """The encoder's `forward` without masks.

    The original reads properties of the values that a trace does not have. The check of the tape
    shows whether they matter.
    """
    for layer in encoder.layers:
        values = layer(values, src_mask=None, is_causal=False, src_key_padding_mask=None)
    return values if encoder.norm is None else encoder.norm(values)


def _unpacked_length(node: fx.Node) -> int | None:
    """The number of parts of a `chunk` or `split`, if the call itself determines it."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    parts = node.args[1] if len(node.args) > 1 else None
    if name == "chunk" and isinstance(parts, int):
        return parts
    if name in ("split", "split_with_sizes") and isinstance(parts, (list, tuple)):
        return len(parts)
    return None


def capture(
    module: nn.Module,
    example: Tensor,
    leaves: Sequence[type[nn.Module]] = (),
    within: str = "",
) -> Tape:
    """The tape of `module`, which must be in eval mode, for inputs like `example`.

    An instance of a class in `leaves` stays one operation. A tape is returned only after it gave
    the module's own output for `example` in several calls. `module` itself is not changed. Errors
    name the part of it at the path `within`.

    Raises CaptureError if the module keeps state between frames or is random, and, with the errors
    of both front ends, if neither can capture it.
    """
    own = type(module.get_submodule(within)).__name__
    state = kept(module, example, _seeded, within)
    if state is not None:
        raise CaptureError(
            f"{own} keeps state between frames: {state}. Its answer for "
            "a frame must not depend on others; reset the state at the start of `forward`."
        )
    subject, reference = separate(module), separate(module)
    registered = frozenset(
        name
        for named in (module.named_parameters, module.named_buffers)
        for name, _ in named(remove_duplicate=False)
    )
    try:
        tracer = _Tracer(tuple(leaves))
        graph = tracer.trace(subject)
        tape = Tape(fx.GraphModule(tracer.root, graph), registered=registered, root=subject)
        _check(tape, reference, example, own)
        return tape
    except _UnsteadyError:
        raise
    except Exception as error:  # noqa: BLE001 - the network's own code runs: anything can come out
        traced = error
    try:
        with torch.no_grad(), _quiet():
            exported = torch.export.export(subject, (example,), strict=False)
        # The guards would repeat on every call what the tape checks once: the input's shape.
        graph_module = exported.module(check_guards=False)
        shape = tuple(example.shape)
        tape = Tape(graph_module, fixed_shape=shape, registered=registered, root=subject)
        _check(tape, reference, example, own)
        return tape
    except _UnsteadyError:
        raise
    except Exception as error:
        raise CaptureError(
            f"{own} cannot be split: {_cause(error, traced)}. Modules with control flow that "
            "depends on data can be named as leaves, so that each is one operation. "
            f"torch.fx says {_brief(traced)}; torch.export says {_brief(error)}"
        ) from error


def _check(tape: Tape, module: nn.Module, example: Tensor, own: str) -> None:
    """Raise CaptureError unless the tape computes the same as the module, in every call.

    For example, a branch on the type of a value is resolved for the tracer's stand-in and not for a
    tensor. A counter or a random number becomes a constant of a trace: later calls of the module,
    with other random numbers of torch, show it.
    """
    first, *later = (_seeded(module, example, seed) for seed in range(_RUNS))
    steady = all(same_plain(first, other) for other in later)
    if steady and not same_plain(first, _seeded(tape, example)):
        raise CaptureError("the captured graph does not compute what the module computes")
    unsteady = _seeded(lambda batch: _unsteady(tape, batch), example)
    if unsteady is not None:
        raise _UnsteadyError(
            f"{own} is not the same twice: {unsteady}. Its answer for a frame must not change "
            "from run to run, or cuts could not be compared."
        )
    if not steady:
        raise _UnsteadyError(
            f"{own} keeps state between frames that is no attribute of it: the same input gave "
            "several outputs. Look for a counter outside of the module, the clock, or random "
            "numbers."
        )


def _unsteady(tape: Tape, example: Tensor) -> str | None:
    """The first operation that differs between two runs, in words; None if none does.

    An operation that advances torch's generator is random even if the outputs agree by chance.
    Another one counts only if the outputs differ: memory that is not filled yet may differ, too.
    """
    one, other = (tape.begin(example.clone()) for _ in range(2))
    parted = None
    for k, op in enumerate(tape.ops):
        before = _generator(example)
        tape.run(one, k, k + 1)
        if not torch.equal(before, _generator(example)):
            return f"the operation {op.name} draws random numbers"
        tape.run(other, k, k + 1)
        if parted is None and not same_plain(tape.alive(one, k + 1), tape.alive(other, k + 1)):
            parted = op.name
    if parted is None or same_plain(tape.result(one), tape.result(other)):
        return None
    return (
        f"the operation {parted} gave two outputs for one input, so it draws random numbers, keeps "
        "state between frames, or is not deterministic on this device"
    )


def _generator(example: Tensor) -> Tensor:
    """The state of torch's generator on the device of `example`."""
    if example.is_cuda:
        return torch.cuda.get_rng_state(example.device)
    return torch.random.get_rng_state()


def _seeded(run: Callable[[Tensor], Any], example: Tensor, seed: int = 0) -> Any:
    # Outside inference mode: tensors that a module keeps from this run must be usable anywhere.
    devices = [example.device] if example.is_cuda else []
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        torch.random.fork_rng(devices=devices),
    ):
        torch.manual_seed(seed)
        return run(example.clone())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the output of torch.export before it raises: the graph so far."""
    log = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    disabled, log.disabled = log.disabled, True
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        log.disabled = disabled


def _cause(exported: Exception, traced: Exception) -> str:
    """Why neither front end can capture a network, and the responsible line of its code."""
    # Imported here: it needs sympy, which torch.export has imported by now.
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

    place = _place(exported) or _place(traced)
    if isinstance(exported, GuardOnDataDependentSymNode):
        cause = "its control flow depends on the values of a tensor"
        return f"{cause} in {place}" if place else cause
    return f"torch cannot follow {place}" if place else "torch cannot follow it"


def _place(error: Exception) -> str | None:
    """The innermost line of code that is not torch's, Python's or this project's."""
    found = None
    for frame, number in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if package not in _NOT_TO_BLAME and not file.startswith("<"):
            found = f"{file}, line {number}: `{linecache.getline(file, number).strip()}`"
    return found


def _brief(error: Exception) -> str:
    """The first paragraph of an error."""
    paragraph = str(error).strip().partition("\n\n")[0]
    return shorten(f"{type(error).__name__}: {paragraph}", 300, placeholder=" …")
