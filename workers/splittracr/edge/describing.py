"""Describes what an edge measures: its environment, and the definition of its records."""

import logging
from datetime import UTC, datetime
from pathlib import Path

from msgspec.structs import asdict

from splittracr.backends import measuring
from splittracr.backends.protocol import Backend
from splittracr.data.contents import contents
from splittracr.data.contracts import Dataset
from splittracr.edge.cascade import First
from splittracr.edge.exactness import joint
from splittracr.edge.link import Link
from splittracr.experiment.spec import ExperimentSpec, SplitExperiment
from splittracr.measure import machine
from splittracr.planning.emulation import AS_IT_IS, emulated, in_words
from splittracr.results.basis import Basis, Pictures
from splittracr.results.environment import End, Environment, Run
from splittracr.transport.emulate import trace_digest

log = logging.getLogger(__name__)


def based_on(
    own: Backend,
    dataset: Dataset,
    spec: ExperimentSpec,
    linked: bool,
    base: Path,
    first: First | None = None,
) -> Basis:
    """The definition of this edge's records.

    `linked` is true if there is a link to the server. `first` is the small model or the exits of a
    cascade.
    """
    samples = spec.workload.samples
    names, digests = contents(dataset, len(dataset) if samples is None else samples, own.buffers)
    return Basis(
        identity=own.identity,
        versions=machine.versions(),
        pictures=Pictures(names, digests, len(dataset), samples),
        code=dict(own.input_code(dataset)),
        trace=trace_digest(spec.transport.link, base) if linked else None,
        small=first.identity if first else None,
        exits=first.digest if first else None,
    )


def describe(
    experiment: SplitExperiment,
    uid: str,
    own: Backend,
    link: Link | None,
    edge: str,
    samples: int,
    energy_problems: tuple[str, ...] = (),
) -> Environment:
    """The study's environment at this time; the edge is to make `samples` records in all."""
    now = datetime.now(UTC)
    between = _link(experiment.spec, link)
    return Environment(
        uid=uid,
        manifest=experiment,
        weights=own.network.weights,
        preparation=own.network.preparation,
        link=between,
        emulated=emulated(experiment.spec.edge.slowdown_percent, between),
        edge=measuring.end(own),
        server=End(**asdict(link.welcome.end)) if link and link.welcome else None,
        cuts=joint(own.proof.cuts, link.welcome.classes if link and link.welcome else {}),
        operations=own.proof.operations,
        refused=dict(link.welcome.refused if link and link.welcome else {}) | own.proof.refused,
        started_at=now,
        runs=(Run(edge=edge, samples=samples, started_at=(now,)),),
        link_began_at=(link.began_at,) if link and between != AS_IT_IS else (),
        energy_problems=energy_problems,
    )


def _link(spec: ExperimentSpec, link: Link | None) -> str:
    """The link between the ends, in words; two descriptions if the ends emulate different links."""
    here = in_words(spec.transport.link)
    if link is None:
        return AS_IT_IS
    there = (link.welcome.link if link.welcome else "") or here
    if here == there:
        return here
    log.warning("the ends emulate different links: %s here, %s at the server", here, there)
    return f"{here} at the edge; {there} at the server"
