"""YAML documents as the API server gets them from kubectl, which sends JSON.

kubectl reads scalars by rules of its own, between YAML 1.1 and 1.2: `1e3` is a number, `12:30:45`
is text, `y` is true, `010` is 8, and a number without a fraction is an integer, however it is
written. The rules are those of go-yaml v2 (`resolve.go`) and of Go's `encoding/json`.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

import yaml
from yaml.nodes import MappingNode, ScalarNode

_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
_WORDS: dict[str, bool | float | None] = {
    **dict.fromkeys(
        ["y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"], True
    ),
    **dict.fromkeys(
        ["n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"], False
    ),
    **dict.fromkeys(["", "~", "null", "Null", "NULL"], None),
    **dict.fromkeys([".nan", ".NaN", ".NAN"], math.nan),
    **dict.fromkeys([".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"], math.inf),
    **dict.fromkeys(["-.inf", "-.Inf", "-.INF"], -math.inf),
}
_INTEGER = re.compile(
    "([-+]?)(?:0[xX]([0-9a-fA-F]+)|0[bB]([01]+)|0[oO]?([0-7]+)|(0|[1-9][0-9]*))", re.ASCII
)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_WHOLE = 1e21  # from here on Go writes an exponent


def scalar(text: str) -> str | float | bool | None:
    """The value of `text`, written without quotes: text, a number, true, false or nothing.

    A number with a point or an exponent is a float here, even without a fraction.
    """
    if text in _WORDS:
        return _WORDS[text]
    if not text.startswith(tuple("+-.0123456789")):
        return text
    plain = text if text.startswith(".") else text.replace("_", "")
    integer = _INTEGER.fullmatch(plain)
    if integer is not None:
        value = _integer(*integer.groups())
        if -(2**63) <= value < 2**64:
            return value
    if _FLOAT.fullmatch(plain) and math.isfinite(number := float(plain)):
        return number
    return text


def _integer(
    sign: str, sixteen: str | None, two: str | None, eight: str | None, ten: str | None
) -> int:
    digits = ((sixteen, 16), (two, 2), (eight, 8), (ten, 10))
    value = next(int(found, base) for found, base in digits if found is not None)
    return -value if sign == "-" else value


def load(text: str) -> Iterator[Any]:
    """The documents in `text`, without empty ones. Raises the errors of PyYAML."""
    for document in yaml.load_all(text, _Loader):
        if document is not None:
            yield document


def dump(data: Any) -> str:
    """One document that every reader of YAML reads as `data`."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False)


def _tag(text: str) -> str:
    kind = {bool: "bool", int: "int", float: "float", str: "str"}.get(type(scalar(text)), "null")
    return _TAG + kind


class _Loader(yaml.SafeLoader):
    """Refuses a key that occurs twice; numbers and booleans are keys as JSON writes them."""

    def resolve(self, kind: type, value: Any, implicit: Any) -> str:
        if kind is ScalarNode and implicit[0]:
            return _MERGE if value == "<<" else _tag(value)
        return str(super().resolve(kind, value, implicit))  # type: ignore[no-untyped-call]

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                continue
            if key.tag in (_TAG + "int", _TAG + "bool"):
                key.value, key.tag = _key(key.value), _TAG + "str"
            if (key.tag, key.value) in seen:
                problem = f"the key {key.value!r} occurs twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add((key.tag, key.value))
        return node


def _key(text: str) -> str:
    value = scalar(text)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _construct(loader: _Loader, node: ScalarNode) -> Any:
    """A number, a boolean or null, whether its tag is written or follows from its text."""
    value: Any = scalar(str(loader.construct_scalar(node)))
    wanted = node.tag.removeprefix(_TAG)
    if wanted == "float" and type(value) is int:
        value = float(value)
    kinds: dict[str, type] = {"int": int, "float": float, "bool": bool, "null": type(None)}
    if type(value) is not kinds[wanted]:
        problem = f"{node.value!r} is no {wanted}"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
    if isinstance(value, float) and value.is_integer() and abs(value) < _WHOLE:
        return int(value)
    return value


def _text(loader: _Loader, node: ScalarNode) -> str:
    loader.construct_yaml_timestamp(node)  # raises if it is none
    return str(loader.construct_scalar(node))


for _kind in ("int", "float", "bool", "null"):
    _Loader.add_constructor(_TAG + _kind, _construct)
_Loader.add_constructor(_TAG + "timestamp", _text)  # kubectl sends it so


class _Dumper(yaml.SafeDumper):
    """Quotes text that either set of rules would take for another type."""

    def resolve(self, kind: type, value: Any, implicit: Any) -> str:
        usual = str(super().resolve(kind, value, implicit))  # type: ignore[no-untyped-call]
        if kind is ScalarNode and implicit[0] and usual == _TAG + "str":
            return _tag(value)
        return usual
