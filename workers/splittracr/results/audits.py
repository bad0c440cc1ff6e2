"""What audits of a cascade have found, and how a cascade was recalibrated, in words."""

from collections.abc import Sequence
from dataclasses import dataclass

from splittracr.experiment.spec import CascadeSpec
from splittracr.experiment.types import Record
from splittracr.planning.recalibration import calibrated
from splittracr.results import words

_MAX_CHANGES = 10


@dataclass(frozen=True)
class Note:
    """The audits in words; `refuted` if they refuted the promise at any time."""

    heading: str
    text: str
    refuted: bool = False


def note(cascade: CascadeSpec | None, records: Sequence[Record]) -> Note | None:
    """A note on the audits of a cascade, None if there were none."""
    judged = [one for one in records if one.audit in ("agrees", "disagrees")]
    if cascade is None or not judged:
        return None
    disagreeing = sum(one.audit == "disagrees" for one in judged)
    answers = words.plural(len(judged), "audited answer")
    text = f"{disagreeing:,} of {answers} of the edge disagree with the model of the study."
    limit = cascade.max_disagreement_per_million
    if limit is None:
        return Note("Audits.", text)
    text += f" The promise is at most {words.percent(limit / 1e6)}."
    drifted, lasts, changes = _drifts(cascade, records)
    if not drifted:
        return Note("Audits.", text)
    text += f" The first refutation was at {drifted}"
    text += "; calibrate on pictures like these." if lasts else "."
    text += "".join(f" {change}" for change in changes[-_MAX_CHANGES:])
    heading = "Audits refute the promise." if lasts else "Audits refuted the promise."
    return Note(heading, text, refuted=True)


def _drifts(cascade: CascadeSpec, records: Sequence[Record]) -> tuple[str | None, bool, list[str]]:
    """The edge that drifted first, whether a drift lasts, and what recalibrations have changed."""
    edges = {one.edge: calibrated(cascade) for one in records}
    first, changes = None, []
    for one in records:
        now = edges[one.edge]
        change = now.observe(one)
        first = first or (one.edge if now.audit.drifted else None)
        if change is not None:
            changes.append(f"After sample {one.sample:,} of {one.edge}: {change}.")
    lasts = cascade.recalibrate is None or any(one.audit.drifted for one in edges.values())
    return first, lasts, changes
