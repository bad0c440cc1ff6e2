"""Module to graph: torch.fx where it can, torch.export where it cannot."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from splittracr.experiment.errors import CaptureError, reason
from splittracr.splitting.compare import same_plain
from splittracr.splitting.state import kept, separate
from splittracr.splitting.tape import Tape

_RUNS = 3  # that have to be equal for a graph to count as the same each time


class _FixedError(CaptureError):
    """A value that the module computes anew for each frame is a constant of the graph."""


class _Unsized(fx.Proxy):
    """A proxy that can be iterated: `list()` asks for a length first and accepts TypeError as
    "unknown", but not the error that `fx.Proxy` raises.
    """

    def __len__(self) -> int:
        raise TypeError("the length of a traced value is not known")


class _Tracer(fx.Tracer):
    """torch.fx's tracer, with leaves of our choice and unpacking of `chunk` and `split`."""

    def __init__(self, leaves: tuple[type[nn.Module], ...]) -> None:
        super().__init__()
        self._leaves = leaves

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, self._leaves) or super().is_leaf_module(m, module_qualified_name)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Unsized(node, self)

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        count = _unpacked_length(obj.node)
        if count is None:
            return super().iter(obj)
        return iter([obj[i] for i in range(count)])  # type: ignore[index]


def _unpacked_length(node: fx.Node) -> int | None:
    """How many parts a `chunk` or `split` yields, where the call says so by itself."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    parts = node.args[1] if len(node.args) > 1 else None
    if name == "chunk" and isinstance(parts, int):
        return parts
    if name in ("split", "split_with_sizes") and isinstance(parts, (list, tuple)):
        return len(parts)
    return None


def capture(module: nn.Module, example: Tensor, leaves: Sequence[type[nn.Module]] = ()) -> Tape:
    """The tape of `module`, which must be in eval mode, for inputs like `example`.

    An instance of a class in `leaves` stays one operation. A tape is returned only after it gave
    what the module itself gives for `example`. `module` itself is left as it is.

    Raises CaptureError if the module keeps state between frames, and, with what both front ends
    said, when neither can capture it.
    """
    state = kept(module, example, _seeded)
    if state is not None:
        raise CaptureError(
            f"{type(module).__name__} keeps state between frames: {state}. Its answer for "
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
        tape = Tape(fx.GraphModule(tracer.root, graph), registered=registered)
        _check(tape, reference, example)
        return tape
    except _FixedError:
        raise
    except Exception as error:  # noqa: BLE001 - the network's own code runs: anything can come out
        traced = error
    try:
        with torch.no_grad():
            exported = torch.export.export(subject, (example,), strict=False)
        # The guards would repeat on every call what the tape checks once: the input's shape.
        graph_module = exported.module(check_guards=False)
        tape = Tape(graph_module, fixed_shape=tuple(example.shape), registered=registered)
        _check(tape, reference, example)
        return tape
    except _FixedError:
        raise
    except Exception as error:
        raise CaptureError(
            f"{type(module).__name__} cannot be split: torch.fx says {_brief(traced)}; "
            f"torch.export says {_brief(error)}. Modules with control flow that depends on data "
            "can be named as leaves, so that each is one operation."
        ) from error


def _check(tape: Tape, module: nn.Module, example: Tensor) -> None:
    """Raise CaptureError where the tape does not compute what the module computes.

    A branch on the type of a value, say, is resolved for the tracer's stand-in and not for a
    tensor. Both run with the same random numbers of torch. If the module still is not the same
    twice and the tape is, the trace has made a constant of a counter or of random numbers. If
    neither is, an operation is random, and `prove` finds the cuts that this spoils.
    """
    if same_plain(_seeded(module, example), _seeded(tape, example)):
        return
    if not _repeatable(tape, example):
        return
    if _repeatable(module, example):
        raise CaptureError("the captured graph does not compute what the module computes")
    raise _FixedError(
        f"{type(module).__name__} keeps state between frames that is no attribute of it: the same "
        "input gave several outputs. Look for a counter outside of the module, the clock, or "
        "random numbers of Python or numpy; a function under torch.fx.wrap may use them."
    )


def _repeatable(run: Callable[[Tensor], Any], example: Tensor) -> bool:
    first, *others = (_seeded(run, example) for _ in range(_RUNS))
    return all(same_plain(first, other) for other in others)


def _seeded(run: Callable[[Tensor], Any], example: Tensor) -> Any:
    # Outside inference mode: what a module remembers of this run has to be of use anywhere.
    devices = [example.device] if example.is_cuda else []
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        torch.random.fork_rng(devices=devices),
    ):
        torch.manual_seed(0)
        return run(example.clone())


def _brief(error: Exception) -> str:
    return reason(error)[:200]
