from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splittracr_operator.drift import differs, patchable

values = st.recursive(
    st.booleans() | st.integers(0, 3) | st.sampled_from("ab"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner),
    max_leaves=8,
)
objects = st.dictionaries(st.sampled_from("xyz"), values)


def added(value: Any) -> Any:
    """`value` as an API server would complete it."""
    if isinstance(value, dict):
        return {**{key: added(inner) for key, inner in value.items()}, "defaulted": 1}
    return [added(inner) for inner in value] if isinstance(value, list) else value


@given(objects)
def test_completed_is_not_drifted(spec: dict[str, Any]) -> None:
    wanted = {"kind": "Service", "spec": spec}
    assert not differs(wanted, added({"spec": spec}))


@given(objects, objects)
def test_every_other_value_is_drift(spec: dict[str, Any], other: dict[str, Any]) -> None:
    wanted = {"kind": "Service", "spec": {"inner": spec, "list": [spec]}}
    live = {"spec": {"inner": other, "list": [other]}}
    assert differs(wanted, live) == any(_lacks(other, key, spec[key]) for key in spec)


def _lacks(live: dict[str, Any], key: str, value: Any) -> bool:
    return differs({"kind": "Service", "spec": {key: value}}, {"spec": live})


@pytest.mark.parametrize("kind", ["Job", "Deployment"])
def test_a_patch_leaves_running_pods_alone(kind: str) -> None:
    wanted = {"kind": kind, "spec": {"template": {"image": 2}, "selector": {}, "suspend": True}}
    gone = {"activeDeadlineSeconds": None} if kind == "Job" else {}
    assert patchable(wanted) == {"kind": kind, "spec": {"suspend": True, **gone}}
    assert not differs(wanted, {"spec": {"template": {"image": 1}, "suspend": True}})
    assert differs(wanted, {"spec": {"template": {"image": 2}, "suspend": False}})
    assert differs(wanted, None)


def test_a_patch_removes_a_deleted_deadline() -> None:
    without = {"kind": "Job", "spec": {"suspend": False}}
    assert differs(without, {"spec": {"suspend": False, "activeDeadlineSeconds": 60}})
    assert not differs(without, {"spec": {"suspend": False}})
    assert patchable(without)["spec"]["activeDeadlineSeconds"] is None
    within = {"kind": "Job", "spec": {"suspend": False, "activeDeadlineSeconds": 60}}
    assert patchable(within) == within
