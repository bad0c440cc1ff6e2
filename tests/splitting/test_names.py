"""A name says which module calls an operation, also if modules are shared."""

import logging

import pytest
import torch
from torch import Tensor, nn

from splittracr.experiment.types import Cut
from splittracr.splitting.capture import capture
from splittracr.splitting.proof import Proof
from splittracr.splitting.tape import Tape


class Block(nn.Module):
    shared = nn.SiLU()

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.act = Block.shared

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.fc(x))  # type: ignore[no-any-return]


class Shared(nn.Module):
    """One activation in every block, one block in two places, and functions of the network."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Block()
        self.blocks = nn.ModuleList([Block(), nn.Sequential(Block(), Block())])
        self.again = self.blocks[0]

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        x = torch.relu(self.again(x) + 1)
        return x.flatten(1)


class Outside(nn.Module):
    """A module that is called by one which does not hold it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.user = Borrower([self.norm])

    def forward(self, x: Tensor) -> Tensor:
        return self.user(self.norm(x))  # type: ignore[no-any-return]


class Borrower(nn.Module):
    def __init__(self, others: list[nn.Module]) -> None:
        super().__init__()
        self.others = others  # a plain list: they are registered elsewhere

    def forward(self, x: Tensor) -> Tensor:
        return self.others[0](x)  # type: ignore[no-any-return]


class Depends(Shared):
    """One that only torch.export can capture."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] == 1:
            x = x + 1
        return super().forward(x)


def tape_of(module: nn.Module) -> Tape:
    return capture(module.eval(), torch.rand(1, 4))


def test_a_shared_module_has_the_name_of_its_caller() -> None:
    tape = tape_of(Shared())
    assert [op.name for op in tape.ops] == [
        "stem.fc",
        "stem.act",
        "after_stem.relu",
        "blocks.0.fc",
        "blocks.0.act",
        "blocks.1.0.fc",
        "blocks.1.0.act",
        "blocks.1.1.fc",
        "blocks.1.1.act",
        "blocks.0.fc_1",
        "blocks.0.act_1",
        "add",
        "after_blocks.0.relu",
        "flatten",
    ]
    assert tape.ops[1].path == "stem.act"
    assert tape.ops[2].path == ""


def test_a_module_that_its_caller_does_not_hold_keeps_its_last_name() -> None:
    assert [op.name for op in tape_of(Outside()).ops] == ["norm", "user.norm"]


def test_both_front_ends_name_callers() -> None:
    tape = tape_of(Depends())
    assert tape.fixed_shape == (1, 4)
    names = [op.name for op in tape.ops]
    assert {"stem.act.silu", "blocks.0.act.silu", "blocks.1.1.act.silu"} <= set(names)


def test_names_of_the_version_before_lead_to_the_same_cuts() -> None:
    tape = tape_of(Shared())
    former = {name: tape.cut_names[cut] for name, cut in tape.former_names.items()}
    assert former["stem.act_2"] == "blocks.1.0.act"
    assert former["relu"] == "after_stem.relu"
    assert former["relu_1"] == "after_blocks.0.relu"
    assert not tape.former_names.keys() & set(tape.cut_names)


def test_a_former_name_is_accepted_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    names = ("input", "model.1.act", "output")
    proof = Proof(
        cuts=tuple(
            Cut(index=i, name=name, live=(), bytes=0, work=0) for i, name in enumerate(names)
        ),
        refused={},
        op_ms=(1.0, 1.0),
        former_names={"model.0.act_1": 1},
    )
    with caplog.at_level(logging.WARNING):
        assert proof.cut("model.0.act_1", "spec.partition.cuts[0]").index == 1
    assert caplog.messages == [
        "spec.partition.cuts[0]: the cut model.0.act_1 is called model.1.act now; its old name is "
        "accepted until the next version"
    ]
