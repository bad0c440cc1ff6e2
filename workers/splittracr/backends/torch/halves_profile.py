"""Times of heads and tails as wholes, for runtimes whose halves are not the sum of operations."""

from collections.abc import Sequence
from statistics import median

from torch import Tensor

from splittracr.backends.torch.proven import ProvenNetwork
from splittracr.experiment.profile import Profile
from splittracr.measure.stopwatch import Busy


def with_halves(made: Profile, own: ProvenNetwork, batches: Sequence[Tensor]) -> Profile:
    """The profile with the times of head and tail at every cut that `own` offers."""
    heads, tails = [], []
    for cut in own.proof.cuts:
        offered = cut.name not in own.proof.refused
        head, tail = _measured(own, cut.index, batches) if offered else (0.0, 0.0)
        heads.append(head)
        tails.append(tail)
    halves = {"runtime": own.runtime, "heads_ms": heads, "tails_ms": tails}
    return Profile.model_validate(made.model_dump() | halves)


def _measured(own: ProvenNetwork, cut: int, batches: Sequence[Tensor]) -> tuple[float, float]:
    """Milliseconds of the head and of the tail; the first batch also warms up."""
    own.make_ready("head", cut)
    own.make_ready("tail", cut)
    times: list[tuple[float, float]] = []
    for batch in [batches[0], *batches]:
        busy = Busy(own.device)
        made = own.head(cut, batch)
        head = busy.seconds()
        live = own.unpack(own.pack(made))  # as the server has them
        busy = Busy(own.device)
        own.tail(cut, live)
        times.append((head * 1e3, busy.seconds() * 1e3))
    heads, tails = zip(*times[1:], strict=True)
    return round(median(heads), 4), round(median(tails), 4)
