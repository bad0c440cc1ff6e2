"""Samples that are mappings: under which keys their input and their label are."""

from collections.abc import Mapping
from typing import Any

from splittracr.data.rgb import UnreadablePicture

INPUT = ("image", "img", "picture", "pixel_values", "video", "clip", "input", "inputs", "data", "x")
"""Keys of the input that are usual, in the order in which they are looked for."""

LABEL = ("label", "labels", "target", "targets", "class", "y")
"""The same of the label."""


class Keys:
    """The keys that the manifest names, else the usual ones.

    `found` says in a sentence which were used; None before the first mapping, or if both are
    named. Several threads may call it: they find the same.
    """

    def __init__(self, input: str | None = None, label: str | None = None) -> None:  # noqa: A002
        self._input, self._label = input, label
        self.found: str | None = None

    def pair(self, item: Mapping[Any, Any], name: str) -> tuple[Any, Any]:
        """Return the input and the label of the sample `name`; the label is None without one.

        Raises UnreadablePicture, which names the key that is missing.
        """
        value = self._key(item, name, self._input, INPUT, "inputKey")
        if value is None:
            expected = f"the input under one of {', '.join(INPUT)}; spec.dataset.inputKey names it"
            raise UnreadablePicture(
                f"{name}: got a mapping with {_keys(item)}, expected {expected}"
            )
        label = self._key(item, name, self._label, LABEL, "labelKey")
        if self._input is None or self._label is None:
            said = "there is no label" if label is None else f"the label is {label!r}"
            self.found = f"Samples are mappings: the input is {value!r}, {said}."
        return item[value], None if label is None else item[label]

    def _key(
        self,
        item: Mapping[Any, Any],
        name: str,
        named: str | None,
        usual: tuple[str, ...],
        field: str,
    ) -> str | None:
        if named is None:
            return next((key for key in usual if key in item), None)
        if named not in item:
            expected = f"{named!r}, which spec.dataset.{field} names"
            raise UnreadablePicture(
                f"{name}: got a mapping with {_keys(item)}, expected {expected}"
            )
        return named


def _keys(item: Mapping[Any, Any]) -> str:
    return f"the keys {', '.join(map(repr, item))}" if item else "no keys"
