"""What a profile says of times, and of what lossy codecs do to results."""

import time
from dataclasses import replace

import pytest

from splittracr.backends import measuring
from splittracr.data.postprocess.raw import Raw
from splittracr.edge.agreement import measure
from splittracr.edge.main import profiled
from splittracr.experiment.codec import Codec
from splittracr.experiment.profile import Profile
from splittracr.splitting.tape import Op
from tests.workers.pair import Tensors, proven, spec

CODECS = ["raw", "uint8", "uint4"]


def judged(percent: int | None, *, ranks: bool = True) -> Profile:
    adaptive = {"codecs": CODECS, "agreementPercent": percent, "pictureCodecs": ["png", "jpeg90"]}
    of = spec(partition={"mode": "Adaptive", "adaptive": adaptive})
    own = proven(of)
    if not ranks:
        own = replace(own, postprocessor=Raw(of.postprocess, ()))
    return profiled(own, of, Tensors())


def by_name(made: Profile) -> dict[str, float | None]:
    return {codec.codec: codec.agreement for codec in (*made.codecs, *made.picture_codecs)}


def test_agreement_is_measured_where_there_is_a_budget() -> None:
    own = proven(spec())
    found = by_name(judged(90))
    inputs = measuring.frames(own, 8, Tensors())
    for name in CODECS[1:]:
        cuts = [cut for k, cut in own.proof.offered().items() if 0 < k < own.proof.last]
        shares = [measure(own, cut, Codec.parse(name), inputs).top1 for cut in cuts]
        assert found[name] == pytest.approx(min(share for share in shares if share is not None))
    assert (found["raw"], found["png"]) == (1, 1)
    assert found["jpeg90"] is not None


def test_nothing_is_judged_without_a_budget() -> None:
    found = by_name(judged(None))
    assert found == {"raw": 1, "uint8": None, "uint4": None, "png": 1, "jpeg90": None}


def test_a_network_that_ranks_no_classes_keeps_to_lossless_codecs() -> None:
    assert by_name(judged(90, ranks=False)) == by_name(judged(None))


def test_waiting_is_no_part_of_an_operations_time() -> None:
    """An emulated slow edge multiplies busy time only, so that a prediction has to do the same."""
    own = proven(spec())
    first = own.tape.ops[0]

    def waiting(registers: list[object]) -> None:
        time.sleep(0.05)
        first.run(registers)

    own.tape.ops = (Op(first.name, first.target, first.source, waiting), *own.tape.ops[1:])
    made = measuring.measured(own, spec(), measuring.frames(own, 3))
    assert 0 < made.op_ms[0] < 50
