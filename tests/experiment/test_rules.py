from typing import Any

import pytest

from splittracr.experiment.rules import (
    All,
    AnyItem,
    Either,
    ExactlyOne,
    Has,
    Is,
    Multiple,
    Not,
    Positive,
    Predicate,
    Product,
    Rule,
    Same,
    Some,
    Within,
)
from splittracr.experiment.types import SpecModel
from tests.experiment.apiserver import holds


class Item(SpecModel):
    """One of a list."""

    rate: int = 0


class Thing(SpecModel):
    """An object with a key of each kind."""

    first_name: str | None = None
    kind: str = "a"
    many: int | None = None
    step: int = 2
    items: tuple[Item, ...] = ()
    part: Item | None = None


MANY: list[dict[str, Any]] = [
    {"kind": "a", "step": 2, "part": {"rate": 0}},
    {"kind": "b", "step": 2, "firstName": "x", "part": {"rate": 1}},
    {"kind": "c", "step": 3, "many": 6, "items": [{"rate": 0}]},
    {"kind": "c", "step": 3, "many": 7, "items": [{"rate": 0}, {"rate": 2}]},
    {"kind": "a", "step": 1, "many": 0, "firstName": "", "items": []},
]
PREDICATES: list[tuple[Predicate, list[bool]]] = [
    (Has("firstName"), [False, True, False, False, True]),
    (Some("items"), [False, False, True, True, False]),
    (Is("kind", ["b"]), [False, True, False, False, False]),
    (Is("kind", ["b", "c"]), [False, True, True, True, False]),
    (Positive("step"), [True] * 5),
    (Multiple("many", of="step"), [True, True, True, False, True]),
    (All([Has("many"), Product("many", "step", 18)]), [False, False, True, True, False]),
    (Not(Has("many")), [True, True, False, False, False]),
    (All([Has("many"), Some("items")]), [False, False, True, True, False]),
    (Either([Has("firstName"), Some("items")]), [False, True, True, True, True]),
    (ExactlyOne([Has("firstName"), Has("many")]), [False, True, True, True, False]),
    (Same(Has("firstName"), Is("kind", ["b"])), [True, True, True, True, False]),
    (Within("part", Positive("rate")), [False, True, True, True, True]),
    (
        All([Some("items"), AnyItem("items", Positive("rate"))]),
        [False, False, False, True, False],
    ),
    (
        Not(Either([Is("kind", ["a"]), All([Some("items"), Not(Multiple("many", of="step"))])])),
        [False, True, True, False, False],
    ),
]


@pytest.mark.parametrize(("predicate", "wanted"), PREDICATES)
def test_a_condition_means_the_same_to_the_model_and_to_the_api_server(
    predicate: Predicate, wanted: list[bool]
) -> None:
    rule = Rule(predicate, "words").validation()["rule"]
    assert [predicate.holds(Thing.model_validate(one)) for one in MANY] == wanted
    assert [holds(rule, one) for one in MANY] == wanted


def test_a_broken_rule_shows_its_values() -> None:
    rule = Rule(Has("firstName"), "it has a name", ("firstName", "kind"))
    rule.check(Thing(first_name="x"))
    with pytest.raises(ValueError, match=r"^it has a name \(firstName is missing, kind is b\)$"):
        rule.check(Thing(kind="b"))


def test_a_rule_of_an_unknown_key_is_a_mistake() -> None:
    with pytest.raises(KeyError, match="Thing has no key first_name"):
        Has("first_name").holds(Thing())


def test_only_parentheses_around_all_of_a_rule_are_left_out() -> None:
    made = Either([Not(Is("kind", ["a"])), Is("kind", ["b"])])
    assert Rule(made, "words").validation()["rule"] == "!(self.kind == 'a') || (self.kind == 'b')"
