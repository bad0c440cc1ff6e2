"""The reconcile of live settings: refused, deferred and accepted by running edges."""

import pytest

from splittracr.experiment.report import Phase
from splittracr.experiment.settings import Outcome
from splittracr_operator.live import Answer
from tests.control.studies import ALL as OTHERS
from tests.control.studies import SETTINGS, UID, pod, waiting
from tests.control.world import World, in_event_loop

NO_SUCH_CUT = Answer(Outcome.REFUSED, "spec.partition.cut: got 5000, expected 0 to 21")
NOT_EXACT = Answer(Outcome.REFUSED, "not exact here")


@in_event_loop
async def test_the_address_of_the_store_changes_while_settings_are_refused(world: World) -> None:
    await refused(world)
    world.start_operator(OTHERS)
    await world.reconcile()
    data = world.api.objects["ConfigMap", "alexnet-manifest"]["data"]
    assert data["results-url"] == f"{OTHERS.store_url}/{UID}"
    assert world.configured_cut() == 5


@in_event_loop
async def test_live_settings_are_sent_once(world: World) -> None:
    await world.start_running()
    assert world.edges.settings == []
    report = world.edges.current["edge-0"]
    world.edges.current["edge-0"] = report.model_copy(update={"generation": 0})  # just started
    await world.reconcile()
    assert [s.generation for s in world.edges.settings] == [1]
    assert "SettingsChanged" not in world.api.reasons()
    world.edges.settings.clear()
    world.edges.current["edge-0"] = report
    await world.apply(2, partition={"cut": 7})
    await world.reconcile()
    assert [(s.generation, s.partition.cut) for s in world.edges.settings] == [(2, 7)] * 2
    assert world.api.reasons().count("SettingsChanged") == 1
    world.report(generation=2)
    await world.reconcile()
    assert len(world.edges.settings) == 2
    await world.apply(3, partition={"cut": 7}, backoffLimit=9)  # changes nothing at an edge
    assert len(world.edges.settings) == 3
    assert world.api.reasons().count("SettingsChanged") == 1


async def change_three(world: World, generation: int = 2) -> None:
    """Change the cut of a study of three edges to 7."""
    await world.apply(generation, edge={"replicas": 3}, partition={"cut": 7})


async def refused_by_one(world: World) -> None:
    """Three edges run, and one refuses the settings of generation 2."""
    await world.start_three()
    world.edges.answers["edge-1"] = NOT_EXACT
    await change_three(world)


async def refused(world: World) -> None:
    """Generation 2 of a running study has a cut that its network lacks."""
    world.edges.answers[5000] = NO_SUCH_CUT
    await world.start_running()
    await world.apply(2, partition={"cut": 5000})


@in_event_loop
async def test_an_edge_does_not_start_with_a_refused_cut(world: World) -> None:
    await refused(world)
    degraded = world.condition("Degraded")
    assert (degraded["status"], degraded["reason"]) == ("True", "SettingsRefused")
    assert degraded["message"] == (
        f"The settings of generation 2 are not in force at edge-0: {NO_SUCH_CUT.message}"
    )
    assert world.status()["state"] == "Running"
    await world.reconcile()
    assert world.configured_cut() == 5
    (refusal,) = world.api.events_with("SettingsRefused")
    assert refusal["type"] == "Warning"

    world.put_pod(pod("edge", container=waiting("Crashed")))
    world.edges.current.clear()
    await world.reconcile()
    assert world.configured_cut() == 5
    await world.apply(3, partition={"cut": 5000}, backoffLimit=9)
    assert world.configured_cut() == 5
    assert world.condition("Degraded")["observedGeneration"] == 3


@pytest.mark.parametrize("cut", [5, 7])
@in_event_loop
async def test_a_corrected_manifest_is_in_force_again(world: World, cut: int) -> None:
    await refused(world)
    await world.apply(3, partition={"cut": cut})
    assert world.configured_cut() == cut
    degraded = world.condition("Degraded")
    assert (degraded["status"], degraded["reason"]) == ("False", "AsSpecified")


@in_event_loop
async def test_settings_that_one_edge_refuses_are_not_configured(world: World) -> None:
    await refused_by_one(world)
    assert world.configured_cut() == 5
    assert world.condition("Degraded")["message"] == (
        "The settings of generation 2 are not in force at edge-1: not exact here"
    )
    assert "SettingsChanged" not in world.api.reasons()


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [(Outcome.REFUSED, "SettingsRefused"), (Outcome.DEFERRED, "SettingsDeferred")],
)
@in_event_loop
async def test_each_answer_is_posted_once_a_generation(
    world: World, outcome: Outcome, reason: str
) -> None:
    await world.start_three()
    world.edges.answers |= {
        "edge-1": Answer(outcome, "cause"),
        "edge-2": Answer(outcome, "cause"),
    }
    for generation in (2, 3):
        await change_three(world, generation)
        for _ in range(3):
            await world.reconcile()
        assert world.api.reasons().count(reason) == 2 * (generation - 1)


@in_event_loop
async def test_a_refusal_holds_while_its_edge_restarts(world: World) -> None:
    await refused_by_one(world)
    world.report(generation=2)
    world.report(generation=2, index=2)
    world.put_pod(pod("edge", index=1, container=waiting("Crashed")))
    await world.reconcile()
    assert world.configured_cut() == 5
    assert world.condition("Degraded")["status"] == "True"


@in_event_loop
async def test_a_refusal_ends_when_its_edge_finishes(world: World) -> None:
    await refused_by_one(world)
    world.report(Phase.FINISHED, index=1)
    await world.reconcile()
    assert world.configured_cut() == 7
    assert world.condition("Degraded")["status"] == "False"
    assert world.api.reasons().count("SettingsChanged") == 1


@in_event_loop
async def test_a_refusal_ends_although_another_edge_does_not_answer(world: World) -> None:
    await refused_by_one(world)
    world.edges.answers = {"edge-2": None}
    await world.reconcile()
    assert world.condition("Degraded")["status"] == "False"
    assert world.configured_cut() == 5  # until all running edges have answered
    world.edges.answers.clear()
    await world.reconcile()
    assert world.configured_cut() == 7
    assert world.api.reasons().count("SettingsChanged") == 1


@in_event_loop
async def test_an_ended_study_has_no_refusal(world: World) -> None:
    await refused(world)
    await world.end("Complete")
    assert world.condition("Degraded")["status"] == "False"


@pytest.mark.parametrize("answer", [NO_SUCH_CUT, None])
@in_event_loop
async def test_a_deleted_configmap_is_created_with_the_accepted_settings(
    world: World, answer: Answer | None
) -> None:
    await refused(world)
    world.edges.answers[5000] = answer
    await world.reconcile()
    world.delete("ConfigMap")
    await world.reconcile()
    assert world.configured_cut() == 5


@in_event_loop
async def test_a_restarted_operator_keeps_the_refusal_of_one_of_several_edges(world: World) -> None:
    await refused_by_one(world)
    world.report(generation=2)
    world.report(generation=0, index=1)  # it has just started, with the older settings
    world.start_operator(SETTINGS)
    await world.reconcile()
    world.delete("ConfigMap")
    await world.reconcile()
    assert world.configured_cut() == 5
    assert "SettingsChanged" not in world.api.reasons()


@in_event_loop
async def test_a_restarted_operator_reads_the_refusal_from_the_status(world: World) -> None:
    await refused(world)
    message = world.condition("Degraded")["message"]
    world.start_operator(SETTINGS)
    world.put_pod(pod("edge", container=waiting("Crashed")))
    await world.reconcile()
    assert world.configured_cut() == 5
    assert world.condition("Degraded")["message"] == message


@in_event_loop
async def test_a_change_waits_for_an_edge_that_does_not_know_its_cuts(world: World) -> None:
    world.edges.answers[5000] = NO_SUCH_CUT
    await world.apply()
    world.run_pods()
    world.report(Phase.STARTING, 0)
    await world.apply(2, partition={"cut": 5000})
    assert world.edges.settings == []
    assert world.configured_cut() == 5
    world.report(generation=0)
    await world.reconcile()
    assert world.configured_cut() == 5
    assert world.condition("Degraded")["status"] == "True"


@in_event_loop
async def test_a_change_does_not_wait_for_an_edge_that_is_down(world: World) -> None:
    await world.apply()
    world.run_pods()
    world.put_pod(pod("edge", container=waiting("Crashed")))
    await world.apply(2, partition={"cut": 7})
    assert world.edges.settings == []
    assert world.configured_cut() == 7


@in_event_loop
async def test_deferred_settings_are_configured_and_sent_again(world: World) -> None:
    world.edges.answers[7] = Answer(Outcome.DEFERRED, "not while it runs")
    await world.start_running()
    await world.apply(2, partition={"cut": 7})
    await world.reconcile()
    assert world.configured_cut() == 7
    assert world.condition("Degraded")["status"] == "False"
    assert len(world.edges.settings) == 2  # each reconcile sends them again
    (deferred,) = world.api.events_with("SettingsDeferred")
    assert deferred["type"] == "Normal"
    assert deferred["message"] == "edge-0: not while it runs"
    assert "SettingsRefused" not in world.api.reasons()
