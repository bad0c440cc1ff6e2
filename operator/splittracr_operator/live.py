"""Live settings: which edges to send them to, their answers, and the settings of edges that start.

Pure. The operator sends changed settings to the running edges first. The ConfigMap, with which
edges start, gets them as soon as no edge refuses them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from splittracr.experiment import manifest
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.report import Phase
from splittracr.experiment.settings import Live, Outcome
from splittracr_operator.conditions import DEGRADED
from splittracr_operator.reports import Reports, finished_edges, running_edges
from splittracr_operator.study import Body, Study

REFUSED, DEFERRED, CHANGED = "SettingsRefused", "SettingsDeferred", "SettingsChanged"
"""Reasons of the events about live settings. The first is also a reason of Degraded."""


_EVENT_REASONS = {Outcome.REFUSED: REFUSED, Outcome.DEFERRED: DEFERRED}


@dataclass(frozen=True)
class Answer:
    """An edge's answer to settings; `message` is the reason if it does not use them now."""

    outcome: Outcome
    message: str = ""


@dataclass(frozen=True)
class Rollout:
    """How far the live settings of a study have been rolled out."""

    wanted: Live
    """The settings of the manifest. `answers` and `refusal` are about them."""

    configured: Live | None = None
    """The settings with which edges start, as last read from the ConfigMap."""

    used: Live | None = None
    """The settings that edges accepted last; None if not known."""

    answers: Mapping[str, Answer] = field(default_factory=dict)
    refusal: str | None = None
    """Why the settings are not in force; None if no edge refuses them."""

    unanswered: bool = False
    """Whether an edge runs that has not answered in this reconcile."""

    posted: Mapping[str, tuple[int, Answer]] = field(default_factory=dict)
    """Generation and answer in the last event about each edge."""

    @property
    def held(self) -> bool:
        """Whether edges that start must not get the settings yet."""
        return self.unanswered or self.refusal is not None


def initial(study: Study, configured: Live | None) -> Rollout:
    """The rollout after a start of the operator, from the status and the ConfigMap."""
    return Rollout(study.live, configured, used=configured, refusal=refusal_in(study))


def observe(rollout: Rollout, study: Study, configured: Live | None) -> Rollout:
    """Begin a reconcile: update the ConfigMap's settings, drop the answers to other settings."""
    rollout = replace(rollout, configured=configured or rollout.configured, unanswered=False)
    if rollout.wanted == study.live:
        return rollout
    return replace(rollout, wanted=study.live, answers={}, refusal=None)


def outdated(study: Study, reports: Reports, pods: Sequence[Body]) -> dict[str, str]:
    """Address of each edge that gets the settings: it runs, knows its cuts and has older ones.

    An edge that defers or refuses settings keeps older ones, so each reconcile sends them again.
    """
    given = _generations(reports, pods)
    running = _running(study, reports, pods).items()
    return {e: ip for e, ip in running if e in given and given[e] < study.generation}


def update(
    rollout: Rollout,
    study: Study,
    reports: Reports,
    pods: Sequence[Body],
    sent: Mapping[str, Answer],
    outside: Mapping[str, Answer | None] | None = None,
) -> Rollout:
    """Add the answers of edges to which settings were `sent`, and the reports of the others.

    `outside` are edges outside of the cluster that report, with their answers. Each gets the
    settings with the answer to its report.
    """
    outside = outside or {}
    running, given = set(_running(study, reports, pods)), _generations(reports, pods)
    running |= outside.keys() & set(_unfinished(study, reports))
    current = [e for e in running if e in given and given[e] >= study.generation]
    told = {e: answer for e, answer in outside.items() if e in running and answer is not None}
    answers = {**dict.fromkeys(current, Answer(Outcome.ACCEPTED)), **sent, **told}
    known = {**rollout.answers, **answers}
    unfinished = _unfinished(study, reports)
    not_used = {e: a for e, a in answers.items() if a.outcome is not Outcome.ACCEPTED}
    accepted = any(answer.outcome is Outcome.ACCEPTED for answer in answers.values())
    made = replace(
        rollout,
        answers=known,
        unanswered=answers.keys() != running,
        refusal=refusal(rollout.refusal, study.generation, unfinished, known),
        posted={**rollout.posted, **{e: (study.generation, a) for e, a in not_used.items()}},
    )
    return replace(made, used=study.live) if accepted and not made.held else made


def events(before: Rollout, after: Rollout, generation: int) -> Iterator[tuple[str, str]]:
    """Reason and message of each event to post for a changed rollout."""
    for edge, posted in after.posted.items():
        if before.posted.get(edge) != posted:
            answer = posted[1]
            yield _EVENT_REASONS[answer.outcome], f"{edge}: {answer.message}"
    if before.used not in (None, after.used):  # a new generation may change other fields only
        yield CHANGED, f"The edges use the settings of generation {generation}."


def refusal(
    before: str | None, generation: int, edges: Sequence[str], answers: Mapping[str, Answer]
) -> str | None:
    """Why settings are not in force: a sentence that names each of the `edges` that refuse.

    The refusal `before` holds until all edges have answered: the edge that refused may not have
    answered yet.
    """
    refusing: dict[str, list[str]] = {}
    for edge in edges:
        answer = answers.get(edge)
        if answer is not None and answer.outcome is Outcome.REFUSED:
            refusing.setdefault(answer.message, []).append(edge)
    if not refusing:
        return None if all(edge in answers for edge in edges) else before
    where = "; ".join(f"at {', '.join(names)}: {message}" for message, names in refusing.items())
    return f"The settings of generation {generation} are not in force {where}"


def refusal_in(study: Study) -> str | None:
    """The refusal of the current manifest's settings in the study's status."""
    for condition in study.status.conditions:
        current = condition.observed_generation == study.generation
        holds = condition.status == "True" and condition.reason == REFUSED
        if condition.type == DEGRADED and holds and current:
            return condition.message
    return None


@lru_cache(maxsize=1024)  # each reconcile calls it, and the text rarely changes
def settings_in(text: str) -> Live | None:
    """The live settings in a manifest's text; None if this version cannot read it."""
    try:
        spec = manifest.parse(text).spec
    except InvalidInput:
        return None
    return Live.of(spec)


def _unfinished(study: Study, reports: Reports) -> list[str]:
    """Edges that have not finished."""
    finished = finished_edges(reports.latest)
    return [edge for edge in study.edges if edge not in finished]


def _running(study: Study, reports: Reports, pods: Sequence[Body]) -> dict[str, str]:
    """Address of each edge that runs and has not finished."""
    addresses = running_edges(pods)
    return {e: addresses[e] for e in _unfinished(study, reports) if e in addresses}


def _generations(reports: Reports, pods: Sequence[Body]) -> dict[str, int]:
    """The generation in use at each edge that knows its cuts, and so can check settings."""
    stale = reports.stale(pods)
    return {
        edge: report.generation
        for edge, report in reports.latest.items()
        if report.phase is not Phase.STARTING and edge not in stale
    }
