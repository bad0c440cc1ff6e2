"""Live settings: which edges to ask, what they answer, and with which settings edges start. Pure.

The operator brings changed settings to the running edges first. The ConfigMap, with which edges
start, follows when no edge refuses them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache

from splittracr.experiment import manifest
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.report import Phase
from splittracr.experiment.settings import Live
from splittracr_operator.conditions import DEGRADED
from splittracr_operator.reports import Heard, finished_edges, running_edges
from splittracr_operator.study import Body, Study

REFUSED, CHANGED = "SettingsRefused", "SettingsChanged"
"""Reasons of the events about live settings. The first is also one of the condition Degraded."""


class Stance(StrEnum):
    """How an edge answers to settings."""

    TAKEN = "taken"
    LATER = "later"
    """It uses them after its next start."""

    REFUSED = "refused"
    """It cannot use them."""


@dataclass(frozen=True)
class Answer:
    """An edge's answer to settings. `words` say why it does not use them now."""

    stance: Stance
    words: str = ""


@dataclass(frozen=True)
class Rollout:
    """How far the live settings of a study have come."""

    wanted: Live
    """The settings of the manifest. `answers` and `objection` are about them."""

    configured: Live | None = None
    """The settings with which edges start, as last seen in the ConfigMap."""

    used: Live | None = None
    """The settings that the edges took last; None if not known."""

    answers: Mapping[str, Answer] = field(default_factory=dict)
    objection: str | None = None
    """Why the settings are not in force; None if no edge refuses them."""

    unheard: bool = False
    """Whether an edge runs that has not answered in this reconcile."""

    posted: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    """Generation and words of the last event about each edge's answer."""

    @property
    def held(self) -> bool:
        """Whether edges that start must not get the settings yet."""
        return self.unheard or self.objection is not None


def first(study: Study, configured: Live | None) -> Rollout:
    """The rollout as an operator finds it that has just started."""
    return Rollout(study.live, configured, used=configured, objection=objection_in(study))


def observe(rollout: Rollout, study: Study, configured: Live | None) -> Rollout:
    """Begin a reconcile: update the ConfigMap's settings, drop the answers to other settings."""
    rollout = replace(rollout, configured=configured or rollout.configured, unheard=False)
    if rollout.wanted == study.live:
        return rollout
    return replace(rollout, wanted=study.live, answers={}, objection=None)


def outdated(study: Study, heard: Heard, pods: Sequence[Body]) -> dict[str, str]:
    """Address of each edge to ask: it runs, it knows its cuts, and its settings are older."""
    given = _generations(heard, pods)
    running = _running(study, heard, pods).items()
    return {e: ip for e, ip in running if e in given and given[e] < study.generation}


def hear(
    rollout: Rollout,
    study: Study,
    heard: Heard,
    pods: Sequence[Body],
    asked: Mapping[str, Answer],
) -> Rollout:
    """Take over the answers of edges that were `asked`, and the reports of the others."""
    running, given = _running(study, heard, pods), _generations(heard, pods)
    current = [e for e in running if e in given and given[e] >= study.generation]
    answers = {**dict.fromkeys(current, Answer(Stance.TAKEN)), **asked}
    known = {**rollout.answers, **answers}
    refusal = objection(rollout.objection, study.generation, _left(study, heard), known)
    refused = {e: (study.generation, a.words) for e, a in answers.items() if a.words}
    made = replace(
        rollout,
        answers=known,
        unheard=answers.keys() != running.keys(),
        objection=refusal,
        posted={**rollout.posted, **refused},
    )
    if made.held or not any(answer.stance is Stance.TAKEN for answer in answers.values()):
        return made
    return replace(made, used=study.live)


def news(before: Rollout, after: Rollout, generation: int) -> Iterator[tuple[str, str]]:
    """Reason and message of each event to post."""
    for edge, said in after.posted.items():
        if before.posted.get(edge) != said:
            yield REFUSED, f"{edge}: {said[1]}"
    if before.used not in (None, after.used):  # the generation alone may be of other fields
        yield CHANGED, f"The edges use the settings of generation {generation}."


def objection(
    before: str | None, generation: int, left: Sequence[str], answers: Mapping[str, Answer]
) -> str | None:
    """Why settings are not in force: a sentence that names each of the edges `left` that refuse.

    The objection `before` stands until all of them have answered: the edge that refused may not
    have answered yet.
    """
    refusing: dict[str, list[str]] = {}
    for edge in left:
        answer = answers.get(edge)
        if answer is not None and answer.stance is Stance.REFUSED:
            refusing.setdefault(answer.words, []).append(edge)
    if not refusing:
        return None if all(edge in answers for edge in left) else before
    where = "; ".join(f"at {', '.join(edges)}: {words}" for words, edges in refusing.items())
    return f"The settings of generation {generation} are not in force {where}"


def objection_in(study: Study) -> str | None:
    """The objection to the present manifest's settings that the status has."""
    for condition in study.status.conditions:
        current = condition.observed_generation == study.generation
        stands = condition.status == "True" and condition.reason == REFUSED
        if condition.type == DEGRADED and stands and current:
            return condition.message
    return None


@lru_cache(maxsize=1024)  # each reconcile asks, and the text hardly ever changes
def settings_in(text: str) -> Live | None:
    """The live settings in a manifest's text; None if this version cannot read it."""
    try:
        spec = manifest.parse(text).spec
    except InvalidInput:
        return None
    return Live.of(spec)


def _left(study: Study, heard: Heard) -> list[str]:
    """Edges that have not finished."""
    finished = finished_edges(heard.reports)
    return [edge for edge in study.edges if edge not in finished]


def _running(study: Study, heard: Heard, pods: Sequence[Body]) -> dict[str, str]:
    """Address of each edge that runs and has not finished."""
    addresses = running_edges(pods)
    return {edge: addresses[edge] for edge in _left(study, heard) if edge in addresses}


def _generations(heard: Heard, pods: Sequence[Body]) -> dict[str, int]:
    """The generation that each edge uses, of those that know their cuts and can judge settings."""
    stale = heard.stale(pods)
    return {
        edge: report.generation
        for edge, report in heard.reports.items()
        if report.phase is not Phase.STARTING and edge not in stale
    }
