"""The rules of the CRD: as written, and those of the models."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from splittracr.experiment.spec import ExperimentSpec
from splittracr.experiment.types import SpecModel
from tests.experiment.apiserver import ENVIRONMENT
from tests.experiment.definition import ALL, SPEC, models

RULES = [
    (path, rule)
    for path, node in ALL.items()
    for rule in node.get("x-kubernetes-validations", ())
    if path
]


_TAKES = {
    "string": ("string", "integer", "boolean"),
    "size": ("string", "array"),
}
"""The types that a function of CEL takes."""


def named(field: Any) -> tuple[str, str]:
    """Where an expression finds a field, as `.adaptive` or nothing, and the field."""
    inner = [str(one.children[1]) for one in field.children[0].find_data("member_dot")]
    return "".join(f".{key}" for key in inner), str(field.children[1])


@pytest.mark.parametrize(("path", "rule"), RULES)
def test_rule_compiles_and_speaks_of_fields_that_exist(path: str, rule: dict[str, str]) -> None:
    for expression in (rule["rule"], rule.get("messageExpression", rule["rule"])):
        tree = ENVIRONMENT.compile(expression)
        used = {named(field) for field in tree.find_data("member_dot")}
        assert used
        for inner, name in used:
            assert name in ALL[f"{path}{inner}"]["properties"]
        # The API server checks types, as the library that compiles here does not.
        for function, kinds in _TAKES.items():
            for key in re.findall(rf"\b{function}\(self\.(\w+)\)", expression):
                kind = ALL[f"{path}.{key}"].get("type")  # none of a number or text
                assert kind in (None, *kinds), (function, key)
    assert not rule["message"].endswith(".")
    assert len(rule["message"]) < 100


def test_no_model_has_a_validator_that_the_api_server_lacks() -> None:
    own = SpecModel.__pydantic_decorators__.model_validators.keys()
    for model in models(ExperimentSpec):
        assert model.__pydantic_decorators__.model_validators.keys() == own, model


def test_each_rule_of_a_model_is_in_the_schema_of_its_object() -> None:
    def objects(schema: Any) -> Iterator[list[str]]:
        if isinstance(schema, dict):
            yield [rule["message"] for rule in schema.get("x-kubernetes-validations", ())]
            for inner in schema.values():
                yield from objects(inner)

    found = list(objects(SPEC))
    rules = [m.rules for m in models(ExperimentSpec) if issubclass(m, SpecModel) and m.rules]
    assert rules
    for of_one in rules:
        assert [rule.text for rule in of_one] in found
