"""Compare a file of `splittracr calibrate` or `splittracr rate` with the model that uses it.

Values are by the path of their key in the file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.identity import ModelIdentity
from splittracr.experiment.profile import Profile

LARGE = "large_"
"""Prefix of the large model's keys in a calibration."""

_WEIGHTS, _DIGEST = "weights", "identity.weights_digest"
_GRAPH = "identity.graph_fingerprint"
_RANDOM = "none"
"""Prefix of the name of random weights."""


@dataclass(frozen=True)
class Facts:
    """The values of a file's keys, by the path of the key, as another source has them.

    Keys with unknown values are left out.
    """

    source: str
    values: Mapping[str, Any]

    def check(self, found: Mapping[str, Any], file: str) -> None:
        """Raise InvalidInput that names the key of the first value of a file that differs.

        `found` are the values in the file. Those that one side lacks are not compared.
        """
        for key, expected in self.values.items():
            if key in found and found[key] != expected and not self._by_digest(key, found):
                wanted = f"{expected!r}, as in {self.source}"
                raise InvalidInput(f"{key} of {file}", found[key], wanted)

    def _by_digest(self, key: str, found: Mapping[str, Any]) -> bool:
        """Whether digests are compared in place of the names of weights in `key`.

        A file with another name may have the same weights.
        """
        digest = f"{key.removesuffix(_WEIGHTS)}{_DIGEST}"
        return key.endswith(_WEIGHTS) and digest in found and digest in self.values


def model_values(
    weights: str | None, identity: ModelIdentity | None, prefix: str = "", batch: int = 1
) -> dict[str, Any]:
    """The values of a model, whose keys begin with `prefix`; None is unknown.

    The graph of a model that takes a `batch` is left out: its constants may contain that size, and
    the files are of single samples.
    """
    known = {} if identity is None else identity.model_dump()
    if "input" in known and known["input"] is None:
        del known["input"]
    made = {f"{prefix}identity.{name}": value for name, value in known.items()}
    if batch > 1:
        made.pop(f"{prefix}{_GRAPH}", None)
    return made if weights is None else {f"{prefix}{_WEIGHTS}": weights, **made}


def of_profile(made: Profile, prefix: str = "") -> Facts:
    """The facts in a profile. Random weights stand for any: they cost the same time."""
    known = {
        f"{prefix}identity.input": made.input[1:],
        f"{prefix}identity.dtype": made.dtype,
        **model_values(made.weights, made.identity, prefix, made.input[0]),
    }
    return Facts("the profile", _without_random(known, prefix))


def of_loaded(weights: str, identity: ModelIdentity, batch: int, prefix: str = "") -> Facts:
    """The facts of a model in this process. Random weights stand for any, as in a profile."""
    known = model_values(weights, identity, prefix, batch)
    return Facts("the model", _without_random(known, prefix))


def _without_random(known: dict[str, Any], prefix: str) -> dict[str, Any]:
    names = (f"{prefix}{_WEIGHTS}", f"{prefix}{_DIGEST}")
    if known[names[0]].startswith(_RANDOM):
        return {key: value for key, value in known.items() if key not in names}
    return known
