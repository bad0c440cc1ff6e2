from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splittracr.experiment.pods import PodSpec, Resources, amount
from splittracr_operator.pods import effective, tolerations
from splittracr_operator.settings import EdgeDefaults, ServerDefaults
from tests.control.studies import ALL

quantities = st.one_of(
    st.integers(0, 64),
    st.builds("{}{}".format, st.integers(0, 4096), st.sampled_from(["", "m", "k", "Mi", "Gi"])),
)
resources = st.builds(
    Resources,
    requests=st.dictionaries(st.sampled_from(["cpu", "memory", "gpu"]), quantities),
    limits=st.dictionaries(st.sampled_from(["cpu", "memory", "gpu"]), quantities),
)


def consistent(given: Resources) -> bool:
    shared = given.requests.keys() & given.limits.keys()
    return all(amount(given.requests[key]) <= amount(given.limits[key]) for key in shared)


names = st.sampled_from(["a", "b", "c"])
common: dict[str, Any] = {
    "image_pull_secrets": st.lists(names, unique=True).map(tuple),
    "node_selector": st.none() | st.dictionaries(names, names),
    "tolerations": st.lists(names.map(lambda key: {"key": key}), max_size=3).map(tuple),
    "affinity": st.dictionaries(names, names),
    "resources": resources.filter(consistent),
    "runtime_class_name": st.none() | names,
    "priority_class_name": st.none() | names,
}
pods = st.builds(
    PodSpec,
    image=st.none() | names,
    image_pull_policy=st.none() | st.sampled_from(["Always", "Never"]),
    **common,
)
defaults = st.builds(
    EdgeDefaults,
    image=names,
    image_pull_policy=st.sampled_from(["Always", "IfNotPresent"]),
    **common,
)
WON = ("image", "image_pull_policy", "node_selector", "runtime_class_name", "priority_class_name")


@given(pods, defaults)
def test_the_manifest_wins_and_defaults_fill(pod: PodSpec, default: EdgeDefaults) -> None:
    made = effective(pod, default)
    for name in WON:
        own = getattr(pod, name)
        assert getattr(made, name) == (getattr(default, name) if own is None else own)
    assert made.affinity == (pod.affinity or default.affinity)
    for name in ("tolerations", "image_pull_secrets"):
        both = (*getattr(default, name), *getattr(pod, name))
        assert getattr(made, name) == tuple(dict.fromkeys(both))
    assert made.env == pod.env


@given(resources.filter(consistent), resources.filter(consistent))
def test_resources_are_merged_into_valid_ones(own: Resources, default: Resources) -> None:
    pod = PodSpec(resources=own)
    made = effective(pod, EdgeDefaults(image="a", resources=default)).resources
    assert made.requests.items() >= own.requests.items()
    assert made.limits.items() >= own.limits.items()
    assert made.requests.keys() == own.requests.keys() | default.requests.keys()
    assert made.limits.keys() == own.limits.keys() | default.limits.keys()
    assert consistent(made)
    if not own.requests and not own.limits:
        assert made == default


def test_an_empty_manifest_gets_all_defaults() -> None:
    made = effective(PodSpec(), ALL.edge)
    for name in type(made).model_fields.keys() & type(ALL.edge).model_fields.keys():
        assert getattr(made, name) == getattr(ALL.edge, name)


AWAY = ("node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready")


def stays(pod: PodSpec, default: EdgeDefaults | ServerDefaults) -> dict[str | None, int | None]:
    """Seconds for which taints are tolerated, by key."""
    return {t.key: t.toleration_seconds for t in tolerations(effective(pod, default))}


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        ({}, dict.fromkeys(AWAY, 86400)),
        ({"toleration_seconds": 60}, dict.fromkeys(AWAY, 60)),
        ({"toleration_seconds": 0}, dict.fromkeys(AWAY, 0)),
        # The user's tolerations apply: Kubernetes uses the shortest time.
        (
            {"tolerations": ({"key": AWAY[0], "operator": "Exists", "effect": "NoExecute"},)},
            {AWAY[0]: None, AWAY[1]: 86400},
        ),
        ({"tolerations": ({"operator": "Exists"},)}, {None: None}),
        (
            {"tolerations": ({"key": AWAY[1], "operator": "Exists", "effect": "NoSchedule"},)},
            dict.fromkeys(AWAY, 86400),
        ),
    ],
)
def test_an_edge_stays_on_a_node_that_cannot_be_reached(
    pod: dict[str, Any], expected: dict[str | None, int | None]
) -> None:
    assert stays(PodSpec.model_validate(pod), EdgeDefaults(image="a")) == expected


def test_only_an_edge_stays_by_default() -> None:
    server = ServerDefaults(image="a")
    assert stays(PodSpec(), server) == {}
    assert stays(PodSpec(toleration_seconds=60), server) == dict.fromkeys(AWAY, 60)
    longer = EdgeDefaults(image="a", toleration_seconds=7200)
    assert stays(PodSpec(), longer) == dict.fromkeys(AWAY, 7200)
