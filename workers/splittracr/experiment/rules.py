"""Rules between the fields of a manifest, each defined once.

A rule is a predicate on the keys of one object. The model evaluates it (`SpecModel`), and the API
server evaluates the same predicate in CEL (`crd.py`).
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel

_MISSING = "missing"


class Predicate(Protocol):
    """A condition on the keys of an object."""

    def holds(self, model: BaseModel) -> bool:
        """Whether it holds of `model`."""

    def cel(self, variable: str = "self") -> str:
        """The same in CEL, of the object `variable`."""


@dataclass(frozen=True)
class Has:
    """The key is there; in a model it is not None."""

    key: str

    def holds(self, model: BaseModel) -> bool:
        return _value(model, self.key) is not None

    def cel(self, variable: str = "self") -> str:
        return f"has({variable}.{self.key})"


@dataclass(frozen=True)
class Some:
    """The list is there and has an item."""

    key: str

    def holds(self, model: BaseModel) -> bool:
        return bool(_value(model, self.key))

    def cel(self, variable: str = "self") -> str:
        place = f"{variable}.{self.key}"
        return f"(has({place}) && size({place}) > 0)"


@dataclass(frozen=True)
class Is:
    """The key has one of the values. It has a default, or is required."""

    key: str
    values: Sequence[str | int]

    def holds(self, model: BaseModel) -> bool:
        return _value(model, self.key) in self.values

    def cel(self, variable: str = "self") -> str:
        shown = [f"'{one}'" if isinstance(one, str) else str(one) for one in self.values]
        if len(shown) == 1:
            return f"({variable}.{self.key} == {shown[0]})"
        return f"({variable}.{self.key} in [{', '.join(shown)}])"


@dataclass(frozen=True)
class IsText:
    """The key, which has a number or a text, is there with this text."""

    key: str
    text: str

    def holds(self, model: BaseModel) -> bool:
        return bool(_value(model, self.key) == self.text)

    def cel(self, variable: str = "self") -> str:
        place = f"{variable}.{self.key}"
        return f"(has({place}) && string({place}) == '{self.text}')"


@dataclass(frozen=True)
class Matches:
    """The text contains a match of the regular expression. It has a default, or is required."""

    key: str
    pattern: str

    def holds(self, model: BaseModel) -> bool:
        return re.search(self.pattern, _value(model, self.key)) is not None

    def cel(self, variable: str = "self") -> str:
        return f"{variable}.{self.key}.matches('{self.pattern}')"


@dataclass(frozen=True)
class SomeKeyBegins:
    """The map is there, and one of its keys begins with one of `beginnings`."""

    key: str
    beginnings: tuple[str, ...]

    def holds(self, model: BaseModel) -> bool:
        return self.found(model) is not None

    def found(self, model: BaseModel) -> str | None:
        """The first such key."""
        keys = _value(model, self.key)
        return next((key for key in keys if key.startswith(self.beginnings)), None)

    def cel(self, variable: str = "self") -> str:
        place = f"{variable}.{self.key}"
        begins = " || ".join(f"key.startsWith('{beginning}')" for beginning in self.beginnings)
        return f"(has({place}) && {place}.exists(key, {begins}))"


@dataclass(frozen=True)
class Positive:
    """The number is above 0. It has a default, or is required."""

    key: str

    def holds(self, model: BaseModel) -> bool:
        return bool(_value(model, self.key) > 0)

    def cel(self, variable: str = "self") -> str:
        return f"({variable}.{self.key} > 0)"


@dataclass(frozen=True)
class Multiple:
    """The number is a multiple of another one, which has a default. It may be missing."""

    key: str
    of: str

    def holds(self, model: BaseModel) -> bool:
        number = _value(model, self.key)
        return number is None or number % _value(model, self.of) == 0

    def cel(self, variable: str = "self") -> str:
        number = f"{variable}.{self.key}"
        return f"(!has({number}) || {number} % {variable}.{self.of} == 0)"


@dataclass(frozen=True)
class Product:
    """The product of two numbers is at least `least`. Neither is missing."""

    one: str
    other: str
    least: int

    def holds(self, model: BaseModel) -> bool:
        return bool(_value(model, self.one) * _value(model, self.other) >= self.least)

    def cel(self, variable: str = "self") -> str:
        return f"({variable}.{self.one} * {variable}.{self.other} >= {self.least})"


@dataclass(frozen=True)
class AnyItem:
    """The predicate holds of an item of the list."""

    key: str
    item: Predicate

    def holds(self, model: BaseModel) -> bool:
        return any(map(self.item.holds, _value(model, self.key)))

    def cel(self, variable: str = "self") -> str:
        return f"{variable}.{self.key}.exists(item, {self.item.cel('item')})"


@dataclass(frozen=True)
class Within:
    """The predicate holds of the object below the key; the key may be missing."""

    key: str
    predicate: Predicate

    def holds(self, model: BaseModel) -> bool:
        inner = _value(model, self.key)
        return inner is None or self.predicate.holds(inner)

    def cel(self, variable: str = "self") -> str:
        place = f"{variable}.{self.key}"
        return f"(!has({place}) || {self.predicate.cel(place)})"


@dataclass(frozen=True)
class Not:
    """The predicate does not hold."""

    predicate: Predicate

    def holds(self, model: BaseModel) -> bool:
        return not self.predicate.holds(model)

    def cel(self, variable: str = "self") -> str:
        return f"!{self.predicate.cel(variable)}"


@dataclass(frozen=True)
class _Several:
    """Predicates with an operator of CEL between them, evaluated in order as far as needed."""

    operator: ClassVar[str]
    predicates: Sequence[Predicate]

    def cel(self, variable: str = "self") -> str:
        return f"({self.operator.join(one.cel(variable) for one in self.predicates)})"


class All(_Several):
    """Every predicate holds."""

    operator = " && "

    def holds(self, model: BaseModel) -> bool:
        return all(predicate.holds(model) for predicate in self.predicates)


class Either(_Several):
    """At least one of the predicates holds."""

    operator = " || "

    def holds(self, model: BaseModel) -> bool:
        return any(predicate.holds(model) for predicate in self.predicates)


@dataclass(frozen=True)
class ExactlyOne:
    """One of the predicates holds, and no other."""

    predicates: Sequence[Predicate]

    def holds(self, model: BaseModel) -> bool:
        return sum(predicate.holds(model) for predicate in self.predicates) == 1

    def cel(self, variable: str = "self") -> str:
        listed = ", ".join(predicate.cel(variable) for predicate in self.predicates)
        return f"[{listed}].exists_one(one, one)"


@dataclass(frozen=True)
class Same:
    """Both predicates hold, or neither."""

    one: Predicate
    other: Predicate

    def holds(self, model: BaseModel) -> bool:
        return self.one.holds(model) == self.other.holds(model)

    def cel(self, variable: str = "self") -> str:
        return f"({self.one.cel(variable)} == {self.other.cel(variable)})"


@dataclass(frozen=True)
class Rule:
    """A predicate, its description as a clause, and the keys to show if it does not hold.

    A key below another one is written `partition.cut`.
    """

    predicate: Predicate
    text: str
    shown: tuple[str, ...] = ()
    culprit: SomeKeyBegins | None = None
    """Finds a key for the model's error; the API server's has no text for it."""

    def check(self, model: BaseModel) -> None:
        """Raise ValueError with the words and the values unless the predicate holds of `model`."""
        if not self.predicate.holds(model):
            given = model.model_dump(mode="json", by_alias=True, exclude_none=True)
            words = self._words() % tuple(_at(given, key) for key in self.shown)
            culprit = f" ({self.culprit.found(model)} does)" if self.culprit else ""
            raise ValueError(f"{words}{culprit}")

    def validation(self) -> dict[str, str]:
        """The rule for the API server (`x-kubernetes-validations`).

        The API server shows `message` only if it cannot use `messageExpression`, which has the
        values. That is `format` and not `+`: the API server knows no bound of a number's text, and
        so none of the cost of a sum with it.
        """
        made = {"rule": unwrapped(self.predicate.cel()), "message": self.text}
        if not self.shown:
            return made
        missing = json.dumps(_MISSING)
        values = (f"{_has(key)} ? string(self.{key}) : {missing}" for key in self.shown)
        expression = f"{json.dumps(self._words())}.format([{', '.join(values)}])"
        return made | {"messageExpression": expression}

    def _words(self) -> str:
        values = ", ".join(f"{key} is %s" for key in self.shown)
        return f"{self.text} ({values})" if values else self.text


def _value(model: BaseModel, key: str) -> Any:
    """The value of a key as the manifest spells it."""
    for name, field in type(model).model_fields.items():
        if (field.alias or name) == key:
            return getattr(model, name)
    raise KeyError(f"{type(model).__name__} has no key {key}")


def _at(given: Any, key: str) -> Any:
    """The value at a key of a manifest's object, which may be below other keys."""
    for one in key.split("."):
        given = given.get(one, _MISSING) if isinstance(given, dict) else _MISSING
    return given


def _has(key: str) -> str:
    """In CEL, whether a key is there, and those above it."""
    parts = key.split(".")
    return " && ".join(f"has(self.{'.'.join(parts[: n + 1])})" for n in range(len(parts)))


def unwrapped(expression: str) -> str:
    """The expression without parentheses around all of it."""
    if not expression.startswith("("):
        return expression
    depth = 0
    for place, letter in enumerate(expression):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if depth == 0:
            return expression[1:-1] if place == len(expression) - 1 else expression
    return expression
