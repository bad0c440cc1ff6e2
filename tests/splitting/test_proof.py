"""A cut is found by name or number, and an unknown or refused one is named."""

import pytest

from splittracr.experiment.errors import CutRefused, InvalidInput
from splittracr.experiment.types import Cut
from splittracr.splitting.proof import Proof

NAMES = ("input", "first", "relu", "second", "relu_1", "output")
PROOF = Proof(
    cuts=tuple(Cut(index=i, name=name, live=(), bytes=0, work=0) for i, name in enumerate(NAMES)),
    refused={"second": "it is odd"},
    op_ms=(1.0,) * 5,
)


def test_cuts_are_found_by_name_and_by_number() -> None:
    assert PROOF.last == 5
    for index, cut in PROOF.offered().items():
        assert PROOF.cut(cut.name) == PROOF.cut(index) == PROOF.cuts[index]


def test_a_refused_cut_is_not_offered_and_named_with_the_reason() -> None:
    assert list(PROOF.offered()) == [0, 1, 2, 4, 5]
    with pytest.raises(CutRefused, match=r"^cut second is refused: it is odd$"):
        PROOF.cut("second")


@pytest.mark.parametrize("cut", [-1, 6, "relu_9", "layer1.relu"])
def test_an_unknown_cut_is_named_with_what_was_expected(cut: int | str) -> None:
    with pytest.raises(InvalidInput, match=r"spec\.edge\.x: got .* a cut of this model, 0 to 5"):
        PROOF.cut(cut, "spec.edge.x")


def test_a_misspelt_cut_gets_the_nearest_names() -> None:
    with pytest.raises(InvalidInput, match=r"0 to 5 or .*relu_1"):
        PROOF.cut("relu_2")


def test_a_cut_far_from_any_name_gets_none() -> None:
    with pytest.raises(InvalidInput, match=r", 0 to 5 or a name that `splittracr cuts` lists$"):
        PROOF.cut("zzzzzzzzz")
