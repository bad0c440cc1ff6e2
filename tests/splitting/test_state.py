"""A network that keeps state between frames is refused by the name of what it keeps."""

import functools
import itertools
import random
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from splittracr.experiment.errors import CaptureError
from splittracr.splitting.capture import capture
from splittracr.splitting.compare import same_plain
from splittracr.splitting.state import separate
from tests.splitting.networks import EXACT

CALLS = [0]
NUMBERS = itertools.count(1)


class Slots:
    """An object without a `__dict__`."""

    __slots__ = ("n",)

    def __init__(self) -> None:
        self.n = 0


class Counter:
    """An object that is called."""

    def __init__(self) -> None:
        self.n = 0

    def count(self, by: int = 1) -> int:
        self.n += by
        return self.n

    __call__ = count


def counting() -> Callable[[], int]:
    n = 0

    def count() -> int:
        nonlocal n
        n += 1
        return n

    return count


class Holder(nn.Module):
    """Something that a frame may change, in a module with a part of its own."""

    seen: ClassVar[list[int]] = []
    n: Tensor

    def __init__(self, step: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)
        self.register_buffer("n", torch.zeros(2))
        self.count, self.first = 0, True
        self.last: Any = None
        self.seen_here: list[float] = []
        self.queue: deque[int] = deque([1], maxlen=3)
        self.table: dict[str, Tensor] = {}
        self.box = SimpleNamespace(inner=SimpleNamespace(total=0.0))
        self.draw, self.numpy = random.Random(0), np.random.default_rng(0)
        self.torch = torch.Generator().manual_seed(0)
        self.cycle, self.numbers = itertools.cycle([1.0, 2.0, 3.0]), itertools.count()
        self.pairs = zip([1.0, 1.0, 1.0, 2.0], itertools.count(), strict=False)
        self.listed = iter([1.0] * 9)
        self.slots, self.method, self.called = Slots(), Counter().count, Counter()
        self.partial, self.closure = functools.partial(Counter(), by=2), counting()
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.step(self, self.conv(x))
        return made


def buffer(own: Any, x: Tensor) -> Any:
    own.n.mul_(0.9).add_(x.mean() * 0.1)
    return x - own.n.view(1, 2, 1, 1)


def buffer_replaced(own: Any, x: Tensor) -> Any:
    own.n = own.n + 1
    return x + own.n.view(1, 2, 1, 1)


def parameter(own: Any, x: Tensor) -> Any:
    own.conv.weight.data.add_(0.125)
    return x * 1.0


def count(own: Any, x: Tensor) -> Any:
    own.count += 1
    return x * own.count


def count_that_acts_later(own: Any, x: Tensor) -> Any:
    own.count += 1
    return x * 2.0 if own.count > 50 else x * 1.0


def last(own: Any, x: Tensor) -> Any:
    before, own.last = own.last, x
    return x * 1.0 if before is None else x + before


def first(own: Any, x: Tensor) -> Any:
    was, own.first = own.first, False
    return x * 2.0 if was else x * 3.0


def listed(own: Any, x: Tensor) -> Any:
    own.seen_here.append(1.0)
    return x + len(own.seen_here)


def queued(own: Any, x: Tensor) -> Any:
    own.queue.append(own.queue[-1] + 1)
    return x * sum(own.queue)


def mapped(own: Any, x: Tensor) -> Any:
    own.table["sum"] = own.table.get("sum", torch.zeros(())) + 1.0
    return x + own.table["sum"]


def boxed(own: Any, x: Tensor) -> Any:
    own.box.inner.total += 0.5
    return x + own.box.inner.total


def of_the_class(own: Any, x: Tensor) -> Any:
    Holder.seen.append(1)
    return x + len(Holder.seen)


def drawn(own: Any, x: Tensor) -> Any:
    return x + own.draw.random()


def drawn_by_numpy(own: Any, x: Tensor) -> Any:
    return x + float(own.numpy.random())


def drawn_by_torch(own: Any, x: Tensor) -> Any:
    return x + torch.rand(1, generator=own.torch)


def batch_statistics(own: Any, x: Tensor) -> Any:
    return nn.functional.batch_norm(x, own.n, own.n + 1.0, training=True)


def cycled(own: Any, x: Tensor) -> Any:
    return x * next(own.cycle)


def cycled_and_the_same(own: Any, x: Tensor) -> Any:
    next(own.cycle)
    return x * 2.0


def numbered(own: Any, x: Tensor) -> Any:
    return x + next(own.numbers)


def paired(own: Any, x: Tensor) -> Any:
    return x * next(own.pairs)[0]


def from_a_list(own: Any, x: Tensor) -> Any:
    return x * next(own.listed)


def in_slots(own: Any, x: Tensor) -> Any:
    own.slots.n += 1
    return x * own.slots.n


def by_a_method(own: Any, x: Tensor) -> Any:
    return x * own.method()


def by_a_call(own: Any, x: Tensor) -> Any:
    return x * own.called()


def by_a_partial(own: Any, x: Tensor) -> Any:
    return x * own.partial()


def by_a_function(own: Any, x: Tensor) -> Any:
    return x * own.closure()


STATES = [
    (buffer, "buffer n"),
    (buffer_replaced, "buffer n"),
    (parameter, "parameter conv.weight"),
    (count, "attribute count"),
    (count_that_acts_later, "attribute count"),
    (last, "attribute last"),
    (first, "attribute first"),
    (listed, "attribute seen_here"),
    (queued, "attribute queue"),
    (mapped, "attribute table"),
    (boxed, "attribute box"),
    (of_the_class, "class attribute Holder.seen"),
    (drawn, "attribute draw"),
    (drawn_by_numpy, "attribute numpy"),
    (drawn_by_torch, "attribute torch"),
    (batch_statistics, "buffer n"),
    (cycled, "attribute cycle"),
    (cycled_and_the_same, "attribute cycle"),
    (numbered, "attribute numbers"),
    (paired, "attribute pairs"),
    (from_a_list, "attribute listed"),
    (in_slots, "attribute slots"),
    (by_a_method, "attribute method"),
    (by_a_call, "attribute called"),
    (by_a_partial, "attribute partial"),
    (by_a_function, "attribute closure"),
]


class Whole(nn.Module):
    """The holder as a part."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x) * 2.0  # type: ignore[no-any-return]


@pytest.mark.parametrize(("step", "name"), STATES, ids=[step.__name__ for step, _ in STATES])
@pytest.mark.parametrize("leaf", [False, True])
def test_state_is_refused_by_name(
    step: Callable[[Any, Tensor], Any], name: str, leaf: bool
) -> None:
    torch.manual_seed(0)
    module = Whole(Holder(step)).eval()
    kind, _, place = name.rpartition(" ")
    where = name if kind.startswith("class") else f"{kind} part.{place}"
    leaves = (Holder,) if leaf else ()
    with pytest.raises(CaptureError, match=rf"^Whole keeps state between frames: .*{where}"):
        capture(module, torch.rand(1, 3, 4, 4), leaves)


class Global(nn.Module):
    """Counts its frames outside of itself."""

    def forward(self, x: Tensor) -> Tensor:
        CALLS[0] += 1
        return x * CALLS[0]


class Yields(nn.Module):
    """Holds a generator, which cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = (float(n // 50 + 1) for n in range(1000))

    def forward(self, x: Tensor) -> Tensor:
        return x * next(self.numbers)


@pytest.mark.parametrize("leaf", [False, True])
def test_a_generator_is_state_though_it_yields_the_same_for_long(leaf: bool) -> None:
    leaves = (Yields,) if leaf else ()
    with pytest.raises(CaptureError, match=r"keeps state between frames: attribute part\.numbers"):
        capture(Whole(Yields()).eval(), torch.rand(1, 3, 4, 4), leaves)


def test_names_start_at_the_users_network() -> None:
    module = Whole(Holder(cycled)).eval()
    with pytest.raises(
        CaptureError, match=r"^Holder keeps state between frames: attribute cycle\."
    ):
        capture(module, torch.rand(1, 3, 4, 4), within="part")


def test_state_beside_the_module_is_refused_by_name() -> None:
    with pytest.raises(CaptureError, match=rf"keeps state between frames: global {__name__}.CALLS"):
        capture(Global().eval(), torch.rand(1, 3, 4, 4))


def by_a_closure() -> Callable[[nn.Module, Tensor], Tensor]:
    calls = [0]

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        calls[0] += 1
        return x * calls[0]

    return forward


def by_a_later_closure() -> Callable[[nn.Module, Tensor], Tensor]:
    calls = 0

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return x * 2.0 if calls > 50 else x * 1.0

    return forward


def by_a_default(self: nn.Module, x: Tensor, calls: list[int] = []) -> Tensor:  # noqa: B006
    calls.append(1)
    return x * len(calls)


def by_an_iterator() -> Callable[[nn.Module, Tensor], Tensor]:
    numbers = itertools.count(1)
    return lambda self, x: x * next(numbers)


def by_a_global_iterator(self: nn.Module, x: Tensor) -> Tensor:
    return x * next(NUMBERS)


def by_an_object() -> Callable[[nn.Module, Tensor], Tensor]:
    box = SimpleNamespace(calls=0)

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        box.calls += 1
        return x * int(box.calls)

    return forward


def by_python(self: nn.Module, x: Tensor) -> Tensor:
    return x + random.random()


def by_the_clock(self: nn.Module, x: Tensor) -> Tensor:
    return x + time.perf_counter_ns() % 1_000_003


def by_numpy(self: nn.Module, x: Tensor) -> Tensor:
    return x + float(np.random.rand())  # noqa: NPY002 - its state is what matters here


def by_torch(self: nn.Module, x: Tensor) -> Tensor:
    return x + float(torch.rand(()))


OUT_OF_SIGHT = "that is no attribute of it: the same input gave several outputs"


@pytest.mark.parametrize(
    ("forward", "name"),
    [
        (by_a_closure(), r"variable calls around Holds\.forward"),
        (by_a_later_closure(), r"variable calls around Holds\.forward"),
        (by_a_default, r"default argument of Holds\.forward"),
        (by_an_iterator(), r"variable numbers around Holds\.forward"),
        (by_a_global_iterator, rf"global {__name__}.NUMBERS"),
        (by_an_object(), OUT_OF_SIGHT),
        (by_python, OUT_OF_SIGHT),
        (by_the_clock, OUT_OF_SIGHT),
        (by_numpy, OUT_OF_SIGHT),
        (by_torch, OUT_OF_SIGHT),
    ],
)
def test_state_that_is_no_attribute_is_refused(forward: Callable[..., Tensor], name: str) -> None:
    kind = type("Holds", (nn.Module,), {"forward": forward})
    torch.manual_seed(0)  # as the check does: a trace must not draw what the check expects
    with pytest.raises(CaptureError, match=rf"^Whole keeps state between frames[ :]+{name}"):
        capture(Whole(kind()).eval(), torch.rand(1, 3, 4, 4))


def answered_once(own: Any, x: Tensor) -> Any:
    """The first answer for all inputs of this shape."""
    return own.table.setdefault(str(tuple(x.shape)), x * 2.0)


def scaled_by_the_first(own: Any, x: Tensor) -> Any:
    if own.last is None:
        own.last = x.max()
    return x / own.last


def last_for_a_dark_frame(own: Any, x: Tensor) -> Any:
    if float(x.abs().mean()) < 0.05 and own.last is not None:
        return own.last
    own.last = x.clone()
    return x


@pytest.mark.parametrize(
    ("step", "name"), [(answered_once, "table"), (scaled_by_the_first, "last")]
)
def test_what_the_first_frame_leaves_to_all_others_is_refused(
    step: Callable[[Any, Tensor], Any], name: str
) -> None:
    torch.manual_seed(0)
    with pytest.raises(CaptureError, match=rf"keeps state between frames: attribute part\.{name}"):
        capture(Whole(Holder(step)).eval(), torch.rand(1, 3, 4, 4))


class Direct(Holder):
    """The step sees the input itself."""

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.step(self, x)
        return made


def test_what_only_a_dark_frame_reads_is_refused() -> None:
    with pytest.raises(CaptureError, match=r"keeps state between frames: attribute part\.last"):
        capture(Whole(Direct(last_for_a_dark_frame)).eval(), torch.rand(1, 3, 4, 4), (Direct,))


def cached(own: Any, x: Tensor) -> Any:
    if own.last is None:
        own.last = torch.arange(x.shape[-1] * 1.0)
    return x + own.last


def remembered(own: Any, x: Tensor) -> Any:
    own.last = x  # for a picture of it, say: nothing here reads it
    return x * 2.0


def by_library(own: Any, x: Tensor) -> Any:
    own.last = torch.nn.functional  # a Python module, and everything that it imports
    own.table["relu"] = torch.ops.aten.relu
    return own.table["relu"](own.last.relu(x)) * 2.0


def reset(own: Any, x: Tensor) -> Any:
    own.count, own.table = 0, {}
    own.count += 3
    own.table["x"] = x
    return own.table["x"] * own.count


def plain(own: Any, x: Tensor) -> Any:
    return x * 2.0


@pytest.mark.parametrize("step", [plain, cached, remembered, by_library, reset])
def test_what_is_not_read_in_the_next_frame_is_no_state(
    step: Callable[[Any, Tensor], Any],
) -> None:
    module, x = Holder(step).eval(), torch.rand(1, 3, 4, 4)
    attributes = dict(vars(module))
    tape = capture(module, x)
    assert vars(module) == attributes, "neither a trace nor a run has touched it"
    other = torch.rand(1, 3, 4, 4)
    with torch.no_grad():
        assert same_plain(tape(other), Holder.forward(module, other))


class Inner(nn.Module):
    """Is random or keeps state where no attribute shows it."""

    def __init__(self, forward: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.compute = [forward]

    def forward(self, x: Tensor) -> Tensor:
        return self.compute[0](self, x)


def noise(self: nn.Module, x: Tensor) -> Tensor:
    return x + torch.randn_like(x)


def dropout(self: nn.Module, x: Tensor) -> Tensor:
    return nn.functional.dropout(x, 0.5)  # `training` is True here in both modes of the module


def noise_without_effect(self: nn.Module, x: Tensor) -> Tensor:
    return x + (torch.rand_like(x) > 2.0)


DRAWS = "draws random numbers. "
DIFFERS = "gave two outputs for one input, so it draws random numbers, keeps state"


@pytest.mark.parametrize(
    ("forward", "operation", "what"),
    [
        (noise, "randn_like", DRAWS),
        (dropout, "dropout", DRAWS),
        (noise_without_effect, "rand_like", DRAWS),
    ],
)
def test_a_random_operation_is_refused_by_name(
    forward: Callable[..., Tensor], operation: str, what: str
) -> None:
    with pytest.raises(CaptureError) as raised:
        capture(Whole(Inner(forward)).eval(), torch.rand(1, 3, 4, 4))
    assert str(raised.value).startswith(
        f"Whole is not the same twice: the operation part.{operation} {what}"
    )


@pytest.mark.parametrize(
    ("forward", "what"),
    [
        (noise, DRAWS),
        (dropout, DRAWS),
        (by_torch, DRAWS),
        (by_python, DIFFERS),
        (by_numpy, DIFFERS),
        (by_the_clock, DIFFERS),
    ],
)
def test_a_leaf_that_is_not_the_same_twice_is_refused_by_name(
    forward: Callable[..., Tensor], what: str
) -> None:
    with pytest.raises(CaptureError) as raised:
        capture(Whole(Inner(forward)).eval(), torch.rand(1, 3, 4, 4), (Inner,))
    assert str(raised.value).startswith(f"Whole is not the same twice: the operation part {what}")


@pytest.mark.parametrize("network", EXACT)
def test_networks_without_state_are_not_refused(network: type[nn.Module]) -> None:
    x = torch.rand(1, 3, 8, 8)
    capture(network().eval(), x)


def test_a_buffer_is_as_it_was_after_a_refusal() -> None:
    module = Holder(buffer).eval()
    with pytest.raises(CaptureError, match="buffer n"):
        capture(module, torch.rand(1, 3, 4, 4))
    assert module.n.tolist() == [0.0, 0.0]


def test_a_separate_module_shares_weights_and_nothing_else() -> None:
    module = Holder(count)
    copy = separate(module)
    assert isinstance(copy, Holder)
    assert copy.conv.weight is module.conv.weight
    assert copy.n is module.n
    copy.count = 7
    copy.table["a"] = torch.ones(1)
    assert (module.count, module.table) == (0, {})


def test_what_cannot_be_copied_is_captured_all_the_same() -> None:
    module = nn.Sequential(OrderedDict(a=nn.Conv2d(3, 2, 1)))
    module.lock = __import__("threading").Lock()
    assert separate(module) is module
    capture(module.eval(), torch.rand(1, 3, 4, 4))
