"""The linear tape: a network as straight-line operations that can stop and start anywhere.

Each operation is one generated function over a list of registers; a register is cleared after
its last use, so memory is what eager execution needs. A cut is an integer: operations `[0, k)`
are the head, `[k, n)` the tail, and both are the same functions.
"""

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn
from torch.utils._pytree import tree_unflatten

from splittracr.experiment.contracts import INPUT, OUTPUT
from splittracr.experiment.errors import Abandoned, InvalidInput
from splittracr.splitting.names import modules, names, target_name

Registers = list[Any]

Run = Callable[["Tape", Registers, int, int], None]
"""Runs operations `[start, stop)` of a tape, as `Tape.run` does."""


@dataclass(frozen=True)
class Op:
    """One operation: its stable name, its callable, and the source of its generated body.

    `constants` are the objects that the source refers to by name, a called module among them.
    `called` is the module or function that runs; None if it is the method of a tensor. `modules`
    are the paths of the modules in whose calls it is, the outermost first, by where they are
    registered; `path` is that of the innermost, by the calls. `parameters` counts the elements of
    those that it uses.
    """

    name: str
    target: str
    source: str
    run: Callable[[Registers], None]
    constants: tuple[Any, ...] = ()
    called: Any = None
    modules: tuple[str, ...] = ()
    path: str = ""
    parameters: int = 0


class Tape:
    """A captured network. Cuts go from 0 (nothing on the edge) to `len(tape)` (everything).

    `registered` names the parameters and buffers of the module that was captured. `root` is that
    module, if `graph` does not hold all of it. `former_names` are those of cuts in the version
    before, if they have another name now.
    """

    def __init__(
        self,
        graph: fx.GraphModule,
        fixed_shape: tuple[int, ...] | None = None,
        registered: Collection[str] = (),
        root: nn.Module | None = None,
    ) -> None:
        self.module = graph
        self.fixed_shape = fixed_shape
        nodes = list(graph.graph.nodes)
        self._slot = {node: i for i, node in enumerate(nodes)}
        self._inputs = [n for n in nodes if n.op == "placeholder" and n.users]
        self._output = next(n for n in nodes if n.op == "output")
        constants = {n: _attribute(graph, n.target) for n in nodes if n.op == "get_attr"}
        self.constants = {
            str(n.target): value for n, value in constants.items() if n.target not in registered
        }
        self._blank: Registers = [constants.get(n) for n in nodes]
        calls = [n for n in nodes if n.op.startswith("call_")]
        self._made = [self._slot[node] for node in calls]
        last = _last_uses(calls, self._output)
        self.live = _live_sets(self._inputs, calls, last)
        found = names(calls, graph if root is None else root)
        compiler = _Compiler(graph, self._slot, last, constants)
        self.ops = tuple(
            compiler.compile(node, name, path, i)
            for i, (node, name, path) in enumerate(zip(calls, found.now, found.paths, strict=True))
        )
        self.cut_names = (INPUT, *found.now[:-1], OUTPUT)
        former = {name: k for k, name in enumerate(found.before[:-1], start=1)}
        self.former_names = {n: k for n, k in former.items() if n not in self.cut_names}
        self._live_names = dict(zip(calls, found.now, strict=True))
        scope: dict[str, Any] = {}
        self.output_source = compiler.expression(self._output.args[0], scope)
        self.output_constants = tuple(scope.values())

    def __len__(self) -> int:
        return len(self.ops)

    def live_names(self, cut: int) -> list[str]:
        """Names of the values alive at `cut`, in the order `head` returns them."""
        return [self._live_names.get(node, INPUT) for node in self.live[cut]]

    def begin(self, batch: Tensor) -> Registers:
        """Registers that hold the input and the constants, before the first operation."""
        if self.fixed_shape is not None and tuple(batch.shape) != self.fixed_shape:
            raise InvalidInput("input", tuple(batch.shape), f"the shape {self.fixed_shape}")
        return self.resume(0, [batch])

    def resume(self, cut: int, live: Sequence[Any]) -> Registers:
        """Registers as they stand at `cut`. The tail may write into `live`: decode afresh."""
        registers = list(self._blank)
        for node, value in zip(self.live[cut], live, strict=True):
            registers[self._slot[node]] = value
        return registers

    def run(self, registers: Registers, start: int, stop: int) -> None:
        """Run operations `[start, stop)` in place."""
        for op in self.ops[start:stop]:
            op.run(registers)

    def alive(self, registers: Registers, cut: int) -> list[Any]:
        """The values alive at `cut`."""
        return [registers[self._slot[node]] for node in self.live[cut]]

    def made(self, registers: Registers, k: int) -> Any:
        """What operation `k` has just made; None if nothing uses it."""
        return registers[self._made[k]]

    def result(self, registers: Registers) -> Any:
        """The network's output, after the last operation."""
        output = self._filled(self._output.args[0], registers)
        codegen = self.module.graph._codegen
        spec = getattr(getattr(codegen, "pytree_info", None), "out_spec", None)
        return output if spec is None else tree_unflatten(list(output), spec)

    def head(self, cut: int, batch: Tensor, run: Run | None = None) -> list[Any]:
        """The live values at `cut` for an input batch; `run` runs the operations."""
        registers = self.begin(batch)
        (run or Tape.run)(self, registers, 0, cut)
        return self.alive(registers, cut)

    def tail(
        self,
        cut: int,
        live: Sequence[Any],
        abandon: threading.Event | None = None,
        run: Run | None = None,
    ) -> Any:
        """The network's output from the live values at `cut`; consumes them. `run` runs the
        operations.

        Raises Abandoned between two operations once `abandon` is set, without `run`.
        """
        registers = self.resume(cut, live)
        if abandon is None or run is not None:
            (run or Tape.run)(self, registers, cut, len(self))
            return self.result(registers)
        for k in range(cut, len(self)):
            if abandon.is_set():
                raise Abandoned("the other end has the answer")
            self.run(registers, k, k + 1)
        return self.result(registers)

    def between(self, start: int, live: Sequence[Any], stop: int) -> list[Any]:
        """The live values at cut `stop` from those at cut `start`; consumes them."""
        registers = self.resume(start, live)
        self.run(registers, start, stop)
        return self.alive(registers, stop)

    def __call__(self, batch: Tensor) -> Any:
        """The output of the uncut network for an input batch."""
        registers = self.begin(batch)
        self.run(registers, 0, len(self))
        return self.result(registers)

    def _filled(self, template: Any, registers: Registers) -> Any:
        """The output's structure, in plain collections, with values for its nodes."""
        match template:
            case fx.Node():
                return registers[self._slot[template]]
            case dict():
                return {k: self._filled(v, registers) for k, v in template.items()}
            case list():
                return [self._filled(v, registers) for v in template]
            case tuple():
                return tuple(self._filled(v, registers) for v in template)
            case _:
                return template


class _Compiler:
    """Generates the functions of the operations of a graph.

    `slot` has the register of each value, and `last` the position of its last use.
    """

    def __init__(
        self,
        graph: fx.GraphModule,
        slot: Mapping[fx.Node, int],
        last: Mapping[fx.Node, int],
        constants: Mapping[fx.Node, Any],
    ) -> None:
        self._graph, self._slot, self._last, self._constants = graph, slot, last, constants

    def compile(self, node: fx.Node, name: str, path: str, position: int) -> Op:
        """The operation of a node, the one at `position` in order, as a generated function."""
        constants, last = self._constants, self._last
        scope: dict[str, Any] = {}
        args = [self.expression(a, scope) for a in node.args]
        keywords = [f"{k}={self.expression(v, scope)}" for k, v in node.kwargs.items()]
        if node.op == "call_method":
            call = f"{args[0]}.{node.target}({', '.join(args[1:] + keywords)})"
        else:
            scope["call"] = (
                self._graph.get_submodule(str(node.target))
                if node.op == "call_module"
                else node.target
            )
            call = f"call({', '.join(args + keywords)})"
        dead = [n for n in node.all_input_nodes if last[n] == position and n not in constants]
        lines = [f"R[{self._slot[node]}] = {call}"]
        lines += [f"R[{self._slot[n]}] = None" for n in dead]
        if node not in last:  # run for its effect, or never used: do not keep it
            lines.append(f"R[{self._slot[node]}] = None")
        source = "def run(R):\n" + "".join(f"    {line}\n" for line in lines)
        used = tuple(v for k, v in scope.items() if k != "call" or node.op == "call_module")
        exec(compile(source, f"<{name}>", "exec"), scope)  # built from the graph, not from input
        called = scope.get("call") if node.op != "call_method" else _owner(node, constants)
        target = target_name(self._graph, node)
        weights = [constants[n] for n in node.all_input_nodes if n in constants]
        parameters = _parameters([called, *weights])
        return Op(name, target, source, scope["run"], used, called, modules(node), path, parameters)

    def expression(self, value: Any, scope: dict[str, Any]) -> str:
        """Python source of an argument; values without a literal go into `scope` by name."""
        match value:
            case fx.Node():
                return f"R[{self._slot[value]}]"
            case slice():
                parts = (value.start, value.stop, value.step)
                return f"slice({', '.join(self.expression(p, scope) for p in parts)})"
            case tuple() if type(value) is tuple:
                return "(" + "".join(self.expression(v, scope) + ", " for v in value) + ")"
            case list():
                return "[" + ", ".join(self.expression(v, scope) for v in value) + "]"
            case dict():
                items = (f"{k!r}: {self.expression(v, scope)}" for k, v in value.items())
                return "{" + ", ".join(items) + "}"
            case None | bool() | str():
                return repr(value)
            case int() if type(value) is int:
                return repr(value)
            case _:
                key = f"c{len(scope)}"
                scope[key] = value
                return key


def _owner(node: fx.Node, constants: Mapping[fx.Node, Any]) -> Any:
    """The object whose method is called, if the network holds it, such as a scripted module."""
    owner = constants.get(node.args[0]) if isinstance(node.args[0], fx.Node) else None
    return None if isinstance(owner, Tensor) else owner


def _parameters(used: Sequence[Any]) -> int:
    """Elements of the parameters in modules and tensors, each counted once."""
    found = [p for one in used if isinstance(one, nn.Module) for p in one.parameters()]
    found += [one for one in used if isinstance(one, nn.Parameter)]
    return sum(parameter.numel() for parameter in {id(p): p for p in found}.values())


def _attribute(module: Any, path: Any) -> Any:
    for part in str(path).split("."):
        module = getattr(module, part)
    return module


def _last_uses(calls: Sequence[fx.Node], output: fx.Node) -> dict[fx.Node, int]:
    """Position of each value's last use; values of the output live to the end."""
    last = {used: i for i, node in enumerate(calls) for used in node.all_input_nodes}
    return last | {used: len(calls) for used in output.all_input_nodes}


def _live_sets(
    inputs: Sequence[fx.Node], calls: Sequence[fx.Node], last: dict[fx.Node, int]
) -> list[list[fx.Node]]:
    """For every cut, the values made before it and used after it, in order of creation."""
    alive = list(inputs)
    sets = [list(alive)]
    for i, node in enumerate(calls):
        alive = [v for v in [*alive, node] if last.get(v, -1) > i]
        sets.append(alive)
    return sets
