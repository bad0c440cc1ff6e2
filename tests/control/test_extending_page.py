"""The parts of manifests in docs/extending.md: valid, and in pods what the page says."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from splittracr_operator import children
from tests.control.studies import SETTINGS, study

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text()
PARTS = [yaml.safe_load(text) for text in re.findall(r"^```yaml\n(.*?)^```", PAGE, re.S | re.M)]
MODEL = {"name": "alexnet", "weights": "none"}
IN_PODS = [part for part in PARTS if "edge" in part]


def of(part: dict[str, Any]) -> dict[str, Any]:
    return {**part, "model": {**MODEL, **part.get("model", {})}}


@pytest.mark.parametrize("part", PARTS, ids=lambda part: "-".join(part))
def test_the_parts_of_a_manifest_are_valid(part: dict[str, Any]) -> None:
    """A key that is unknown, or has a value that cannot be, would raise."""
    read = study(**of(part)).spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert holds(read, part)


def holds(read: Any, written: Any) -> bool:
    """Whether everything that is written was read."""
    if isinstance(written, dict):
        return all(key in read and holds(read[key], value) for key, value in written.items())
    if isinstance(written, list):
        return len(read) == len(written) and all(map(holds, read, written))
    return bool(read == written)


def pods(part: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The specification of each kind of pod by its container."""
    made = children.everything(study(**of(part)), SETTINGS, "authority")
    specs = [one["spec"]["template"]["spec"] for one in made if "template" in one.get("spec", {})]
    return {spec["containers"][0]["name"]: spec for spec in specs}


@pytest.mark.parametrize(("part", "roles"), list(zip(IN_PODS, (2, 1), strict=True)))
def test_a_config_map_of_code_is_where_python_looks(part: dict[str, Any], roles: int) -> None:
    found = pods(part)
    for role in ("edge", "server")[:roles]:
        (container,) = found[role]["containers"]
        path = {one["name"]: one.get("value") for one in container["env"]}["PYTHONPATH"]
        mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
        volumes = {one["name"]: one for one in found[role]["volumes"]}
        assert mounts["own"] == path == "/opt/own"
        (wanted,) = part[role]["pod"]["volumes"]
        assert volumes["own"]["configMap"] == wanted["configMap"]
