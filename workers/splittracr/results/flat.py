"""The figures of a study as flat rows, one a cut, for spreadsheets and papers."""

from collections.abc import Sequence

from pydantic import Field

from splittracr.experiment.contracts import Role
from splittracr.experiment.energy import Kind, MachineLoad
from splittracr.experiment.types import SHARE, STAGES, Exactness, Frozen, Tier, Versioned
from splittracr.results.energy import of_machine
from splittracr.results.environment import Environment
from splittracr.results.summary import CutFigures, Summary


class CutRow(Versioned):
    """The figures of one cut in one row. A figure that was not measured is empty."""

    study: str = Field(description="Name of the study.")
    uid: str = Field(description="Uid of the study.")
    model: str = Field(description="Name of the model.")
    weights: str = Field(description="The weights that were loaded.")
    link: str = Field(description="The link between the two ends, in words.")
    emulated: str | None = Field(description="What was emulated; empty for nothing.")
    cut: str = Field(description="Name of the cut.")
    index: int = Field(description="Operations on the edge.")
    best: bool = Field(description="It has the lowest median, with certainty.")
    work: float | None = Field(
        description="The head's share of the floating-point operations.", json_schema_extra=SHARE
    )
    live_bytes: int | None = Field(description="Bytes of the live tensors.")
    exactness: Exactness | None = Field(description="How exact the cut is; empty if unknown.")
    largest_error: float | None = Field(description="Largest relative error at start-up.")
    top1_agreement: float | None = Field(
        description="Share at start-up whose first class is PyTorch's.", json_schema_extra=SHARE
    )
    n: int = Field(description="Samples that the figures cover.")
    frames: int = Field(description="Frames that they came in.")
    failed: int = Field(description="Samples that failed.")
    unanswered: int = Field(description="Samples that the edge finished instead of the server.")
    resent: int = Field(description="Samples that waited for a lost server; not in the times.")
    repeats: int = Field(description="Times the workload was measured.")
    mean_ms: float | None = Field(description="Mean latency.")
    mean_low_ms: float | None = Field(description="Lower end of its 95 % confidence interval.")
    mean_high_ms: float | None = Field(description="Upper end of it.")
    p50_ms: float | None = Field(description="Median latency.")
    p95_ms: float | None = Field(description="95th percentile.")
    p99_ms: float | None = Field(description="99th percentile.")
    edge_ms: float | None = Field(description="Mean time on the edge.")
    link_ms: float | None = Field(description="Mean time on the link.")
    server_ms: float | None = Field(description="Mean time on the server.")
    bytes_up: float | None = Field(description="Mean bytes from edge to server.")
    bytes_down: float | None = Field(description="Mean bytes back.")
    frames_per_second: float | None = Field(description="As in `summary.json`.")
    labelled: int | None = Field(description="Distinct labelled samples.")
    top1: float | None = Field(description="Accuracy by the first class.", json_schema_extra=SHARE)
    top5: float | None = Field(description="By the first five.", json_schema_extra=SHARE)
    map50_95: float | None = Field(
        description="Mean average precision of detections, over overlaps from 0.50 to 0.95.",
        json_schema_extra=SHARE,
    )
    map50_95_low: float | None = Field(description="Lower end of its 95 % confidence interval.")
    map50_95_high: float | None = Field(description="Upper end of it.")
    map50: float | None = Field(description="At an overlap of 0.50.", json_schema_extra=SHARE)
    keypoint_map50_95: float | None = Field(
        description="The same of keypoints, over similarities (OKS).", json_schema_extra=SHARE
    )
    keypoint_map50_95_low: float | None = Field(
        description="Lower end of its 95 % confidence interval."
    )
    keypoint_map50_95_high: float | None = Field(description="Upper end of it.")
    keypoint_map50: float | None = Field(
        description="At a similarity of 0.50.", json_schema_extra=SHARE
    )
    miou: float | None = Field(
        description="Mean overlap (IoU) of the classes of masks.", json_schema_extra=SHARE
    )
    miou_low: float | None = Field(description="Lower end of its 95 % confidence interval.")
    miou_high: float | None = Field(description="Upper end of it.")
    pixel_accuracy: float | None = Field(
        description="Share of labelled pixels of the right class.", json_schema_extra=SHARE
    )
    edge_joules: float | None = Field(description="Energy of a frame on the edge.")
    edge_joules_kind: Kind | None = Field(
        description="`measured`, `estimated` or `modelled`; empty without energy."
    )
    server_joules: float | None = Field(description="Energy of a frame on the server.")
    server_joules_kind: Kind | None = Field(description="As above.")
    codecs: str = Field(description="Codecs of the samples that were sent.")


class EnergyRow(Frozen):
    """The energy of a frame at one cut and end."""

    cut: str = Field(description="Name of the cut.")
    index: int = Field(description="Operations on the edge.")
    role: Role = Field(description="The end.")
    processing_joules: float | None = Field(description="Of its machine.")
    communication_joules: float | None = Field(description="Of the link, by declared energy.")
    total_joules: float | None = Field(description="Both together.")
    watts: float | None = Field(description="Mean power in the windows.")
    battery_joules: float | None = Field(description="Taken from its battery.")
    source: str | None = Field(description="What was read, or `declared`.")
    kind: Kind | None = Field(description="`measured`, `estimated` or `modelled`.")
    note: str | None = Field(description="Why there are no joules.")


class LoadRow(Frozen):
    """How busy the machine of one end was during the study."""

    role: Role = Field(description="The end.")
    edge: str = Field(description="Name of the edge that wrote this.")
    figure: str = Field(description="Such as `gpu_percent`; bytes are bytes.")
    mean: float | None = Field(description="Mean of the samples.")
    largest: float | None = Field(description="Largest of them.")


STAGE_KEYS = tuple(f"stage_{stage}_ms" for stage in STAGES)
"""Further columns of `summary.csv`: the mean of each stage."""


def cut_rows(figures: Summary) -> list[CutRow]:
    """One row a cut."""
    return [_cut_row(cut, figures) for cut in figures.cuts]


def _cut_row(cut: CutFigures, figures: Summary) -> CutRow:
    study, mean = figures.study, cut.total_ms
    found, posed, masks = cut.detection, cut.keypoints, cut.segmentation
    labelled = cut.accuracy or found or masks
    edge, server = of_machine(cut.energy, Role.EDGE), of_machine(cut.energy, Role.SERVER)
    return CutRow(
        study=study.name,
        uid=study.uid,
        model=study.model,
        weights=study.weights,
        link=study.link,
        emulated=study.emulated,
        cut=cut.cut,
        index=cut.index,
        best=cut.index == figures.winner,
        work=cut.work,
        live_bytes=cut.live_bytes,
        exactness=cut.exactness,
        largest_error=cut.largest_error,
        top1_agreement=cut.top1_agreement,
        n=cut.n,
        frames=cut.frames,
        failed=cut.failed,
        unanswered=cut.unanswered,
        resent=cut.resent,
        repeats=cut.repeats,
        mean_ms=mean.mean if mean else None,
        mean_low_ms=mean.low if mean else None,
        mean_high_ms=mean.high if mean else None,
        p50_ms=cut.p50_ms,
        p95_ms=cut.p95_ms,
        p99_ms=cut.p99_ms,
        edge_ms=cut.tiers_ms.get(Tier.EDGE),
        link_ms=cut.tiers_ms.get(Tier.LINK),
        server_ms=cut.tiers_ms.get(Tier.SERVER),
        bytes_up=cut.bytes_up,
        bytes_down=cut.bytes_down,
        frames_per_second=cut.frames_per_second,
        labelled=labelled.n if labelled else None,
        top1=cut.accuracy.top1 if cut.accuracy else None,
        top5=cut.accuracy.top5 if cut.accuracy else None,
        map50_95=found.map50_95.value if found else None,
        map50_95_low=found.map50_95.low if found else None,
        map50_95_high=found.map50_95.high if found else None,
        map50=found.map50.value if found else None,
        keypoint_map50_95=posed.map50_95.value if posed else None,
        keypoint_map50_95_low=posed.map50_95.low if posed else None,
        keypoint_map50_95_high=posed.map50_95.high if posed else None,
        keypoint_map50=posed.map50.value if posed else None,
        miou=masks.miou.value if masks else None,
        miou_low=masks.miou.low if masks else None,
        miou_high=masks.miou.high if masks else None,
        pixel_accuracy=masks.pixel_accuracy.value if masks else None,
        edge_joules=edge.joules_per_frame if edge else None,
        edge_joules_kind=edge.kind if edge else None,
        server_joules=server.joules_per_frame if server else None,
        server_joules_kind=server.kind if server else None,
        codecs=", ".join(cut.codecs),
    )


def energy_rows(figures: Summary) -> list[EnergyRow]:
    """One row a cut and end, also without energy."""
    return [_energy_row(cut, role) for cut in figures.cuts for role in Role]


def _energy_row(cut: CutFigures, role: Role) -> EnergyRow:
    machine = of_machine(cut.energy, role)
    own = [one for one in cut.energy if one.role == role]
    processing = machine.joules_per_frame if machine else None
    link = _sum([one.joules_per_frame for one in own if one.component == "link"])
    known = [joules for joules in (processing, link) if joules is not None]
    return EnergyRow(
        cut=cut.cut,
        index=cut.index,
        role=role,
        processing_joules=processing,
        communication_joules=link,
        total_joules=sum(known) if processing is not None else None,
        watts=machine.watts if machine else None,
        battery_joules=_sum([one.joules_per_frame for one in own if one.source == "battery"]),
        source=machine.source if machine else None,
        kind=machine.kind if machine else None,
        note="; ".join(dict.fromkeys(one.note for one in own if one.note)) or None,
    )


def _sum(joules: Sequence[float | None]) -> float | None:
    known = [value for value in joules if value is not None]
    return sum(known) if known else None


def load_rows(environment: Environment) -> list[LoadRow]:
    """One row a machine and figure."""
    rows = []
    for one in environment.usage:
        for figure in MachineLoad.model_fields:
            mean, largest = getattr(one.mean, figure), getattr(one.largest, figure)
            rows.append(
                LoadRow(role=one.role, edge=one.edge, figure=figure, mean=mean, largest=largest)
            )
        peak = None if one.memory_bytes is None else float(one.memory_bytes)
        rows.append(
            LoadRow(role=one.role, edge=one.edge, figure="memory_bytes", mean=None, largest=peak)
        )
    return rows


def stage_cells(cut: CutFigures) -> dict[str, float | None]:
    """The mean of each stage by its column."""
    pairs = zip(STAGE_KEYS, STAGES, strict=True)
    return {key: cut.stages_ms.get(stage) for key, stage in pairs}
