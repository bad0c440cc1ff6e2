"""What Prometheus sees of a worker: base units, its own stages, series from the start."""

import pytest
import torch

from splittracr.backends.torch.device import TorchDevice
from splittracr.cli import profiles
from splittracr.experiment.energy import Kind
from splittracr.experiment.metrics import EVERY_CUT, of
from splittracr.experiment.spec import Metadata
from splittracr.experiment.types import MEASURED, STAGES, Place, Record
from splittracr.measure.energy.sensor import Zone
from splittracr.measure.metrics import EdgeMetrics, Metrics, ServerMetrics
from splittracr.measure.usage import Sample
from splittracr.planning.decision import Decision, Outcome
from tests.scrape import COMMON, exposed_names, scraped

STUDY = Metadata(name="alexnet", namespace="lab")
STAGE_SERIES = 150


def edge(*, adaptive: bool = False) -> EdgeMetrics:
    return EdgeMetrics(STUDY, "edge-3", adaptive=adaptive)


def server() -> ServerMetrics:
    return ServerMetrics(STUDY, max_edges=8)


def outcome(decision: Decision, total_ms: float = 0.0, *, ok: bool = True) -> Outcome:
    return Outcome(decision, ok, total_ms, {}, 0.0)


def record(outcome: str) -> Record:
    return Record.model_validate(
        {
            "uid": "u",
            "edge": "edge-3",
            "trial": 0,
            "repeat": 0,
            "sample": 0,
            "name": "s",
            "cut": "input",
            "cut_index": 0,
            "outcome": outcome,
            "finished_on": Place.EDGE,
            "emulated": False,
            "started_at": 0.0,
            "bytes_up": 0,
            "bytes_down": 0,
            "total_ms": 1.0,
            "stages": {},
        }
    )


def test_joules_are_there_only_with_a_sensor() -> None:
    joules: dict[Zone, float] = {}
    metrics = edge()
    metrics.energy(lambda: joules)
    name = "splittracr_energy_joules_total"
    assert name not in scraped(metrics.exposition).names
    joules[Zone("system", "pmic-rails", "pmic", Kind.ESTIMATED)] = 12.5
    seen = scraped(metrics.exposition)
    labels = ("role", "component", "zone", "source", "kind")
    assert seen.of(name, *labels) == {("edge", "system", "pmic-rails", "pmic", "estimated"): 12.5}


def test_a_figure_of_the_machine_is_there_only_while_it_is_known() -> None:
    machine, watts = [Sample()], dict[Zone, float]()
    metrics = server()
    metrics.machine(lambda: machine[-1], lambda: watts)
    names = {"power_watts", "utilization_ratio", "temperature_celsius", "clock_hertz"}
    figures = {f"splittracr_{name}" for name in (*names, "gpu_memory_bytes")}
    assert not figures & scraped(metrics.exposition).names
    machine.append(Sample(cpu_percent=25.0, cpu_hertz=2.4e9, gpu_percent=0.0, gpu_celsius=61.0))
    watts[Zone("gpu", "gpu-0", "nvml")] = 70.5
    seen = scraped(metrics.exposition)
    labels = ("role", "component", "zone", "source", "kind")
    assert seen.of("splittracr_power_watts", *labels) == {
        ("server", "gpu", "gpu-0", "nvml", "measured"): 70.5
    }
    assert seen.of("splittracr_utilization_ratio", "component") == {("cpu",): 0.25, ("gpu",): 0.0}
    assert seen.of("splittracr_temperature_celsius", "component") == {("gpu",): 61.0}
    assert seen.of("splittracr_clock_hertz", "component") == {("cpu",): 2.4e9}
    assert "splittracr_gpu_memory_bytes" not in seen.names
    machine.append(Sample(gpu_memory_bytes=3e9))
    seen = scraped(metrics.exposition)
    assert figures & seen.names == {"splittracr_power_watts", "splittracr_gpu_memory_bytes"}
    assert seen.one("splittracr_gpu_memory_bytes") == 3e9


def test_each_series_says_whose_it_is() -> None:
    common = {"study_namespace": "lab", "study": "alexnet"}
    for metrics, own in (
        (edge(), {"role": "edge", "edge": "edge-3"}),
        (server(), {"role": "server"}),
    ):
        samples = scraped(metrics.exposition).samples
        assert {"process_resident_memory_bytes", "splittracr_build_info"} <= {
            sample.name for sample in samples
        }
        for sample in samples:
            found = {k: v for k, v in sample.labels.items() if k in COMMON}
            assert found == common | own
            assert not sample.name.endswith("_created")


@pytest.mark.parametrize("adaptive", [False, True])
def test_known_series_exist_at_0_from_the_start(adaptive: bool) -> None:
    for role, metrics in (("edge", edge(adaptive=adaptive)), ("server", server())):
        seen = scraped(metrics.exposition)
        for metric in of(role):
            assert metric.absent or exposed_names(metric) <= seen.names, metric.name
            if metric.values and not metric.absent:
                name = f"{metric.name}_count" if metric.buckets else metric.exposed
                expected = dict.fromkeys(metric.values, 0.0)
                assert seen.of(name, *metric.labels) == expected, metric.name
    decisions = scraped(edge(adaptive=adaptive).exposition).of(
        "splittracr_decisions_total", "reason"
    )
    assert len(decisions) == (11 if adaptive else 0)


@pytest.mark.parametrize(
    ("metrics", "own"), [(edge(), MEASURED["edge"]), (server(), MEASURED["server"])]
)
def test_a_worker_has_histograms_of_its_own_stages_only(
    metrics: Metrics, own: tuple[str, ...]
) -> None:
    metrics.stages(dict.fromkeys(own, 1.0))
    seen = scraped(metrics.exposition)
    assert {stage for (stage,) in seen.of("splittracr_stage_seconds_count", "stage")} == set(own)
    count = sum(sample.name.startswith("splittracr_stage_seconds") for sample in seen.samples)
    assert len(own) * 3 < count <= STAGE_SERIES
    assert set(MEASURED["edge"]) | set(MEASURED["server"]) == set(STAGES)


def test_times_are_seconds() -> None:
    metrics = edge()
    metrics.finished(outcome(Decision(2), 500.0), {"head": 250.0, "link": 50.0}, "server", None)
    metrics.finished(outcome(Decision(2), 800.0, ok=False), {"head": 750.0}, "server", None)
    metrics.operations(7)
    metrics.encoded(100, 30)
    seen = scraped(metrics.exposition)
    assert seen.one("splittracr_stage_seconds_sum", stage="head") == 1.0
    assert seen.one("splittracr_stage_seconds_count", stage="link") == 1
    assert seen.one("splittracr_frame_latency_seconds_sum", source="server") == 0.5
    assert seen.one("splittracr_frame_latency_seconds_count", source="server") == 1
    assert seen.one("splittracr_operations_total") == 7
    assert seen.of("splittracr_payload_bytes_total", "state") == {("raw",): 100, ("encoded",): 30}


def test_samples_are_there_once_it_is_known_what_was_recorded_before() -> None:
    metrics = edge()
    assert not {"splittracr_samples_total", "splittracr_samples_expected"} & (
        scraped(metrics.exposition).names
    )
    metrics.planned(10, [record("ok"), record("failed"), record("ok")])
    metrics.recorded(record("ok"))
    seen = scraped(metrics.exposition)
    assert seen.of("splittracr_samples_total", "outcome") == {("ok",): 3, ("failed",): 1}
    assert seen.one("splittracr_samples_expected") == 10


def test_only_the_candidate_in_use_has_a_series() -> None:
    metrics = edge(adaptive=True)
    for decision in (
        Decision(2, reason="start", predicted_regret_ms=1000.0),
        Decision(2, reason="best", predicted_regret_ms=-1.0),
        Decision(3, reason="better", predicted_regret_ms=None),
    ):
        metrics.decided(decision, f"op{decision.cut}")
    seen = scraped(metrics.exposition)
    assert seen.of("splittracr_candidate_info", "cut", "codec") == {("op3", "raw"): 1}
    assert seen.one("splittracr_cut_index") == 3
    assert seen.one("splittracr_candidate_switches_total") == 1
    assert seen.one("splittracr_predicted_regret_seconds_total") == 1.0
    assert seen.one("splittracr_decisions_total", reason="best") == 1


def test_misses_and_hedges_are_counted_by_who_was_first() -> None:
    metrics = edge()
    decision = Decision(2)
    metrics.finished(outcome(decision), {}, "deadline", "deadline")
    metrics.finished(outcome(decision), {}, "server", "deadline")
    metrics.finished(outcome(decision), {}, "hedge", "hedge")
    metrics.finished(outcome(decision), {}, "server", "hedge")
    metrics.finished(outcome(decision), {}, "server", None)
    seen = scraped(metrics.exposition)
    assert seen.one("splittracr_deadline_misses_total") == 2
    assert seen.of("splittracr_hedges_total", "outcome") == {("won",): 1, ("lost",): 1}


def test_what_is_loaded_is_shown_by_the_start_of_its_digests() -> None:
    metrics = edge()
    metrics.loaded(
        "alexnet", "sha256:" + "ab" * 32, "sha256:" + "cd" * 32, TorchDevice(torch.device("cpu"))
    )
    seen = scraped(metrics.exposition)
    names = ("model", "graph", "weights")
    assert seen.of("splittracr_model_info", *names) == {("alexnet", "ab" * 6, "cd" * 6): 1}
    assert seen.one("splittracr_device_info", device="cpu") == 1
    assert "splittracr_device_memory_bytes" not in seen.names


def test_each_lossy_candidate_has_its_agreement() -> None:
    metrics = edge()
    assert "splittracr_agreement_ratio" not in scraped(metrics.exposition).names
    metrics.agreed("op3", "uint8", 0.75)
    metrics.agreed("op5", "uint8", 1.0)
    found = scraped(metrics.exposition).of("splittracr_agreement_ratio", "cut", "codec")
    assert found == {("op3", "uint8"): 0.75, ("op5", "uint8"): 1.0}


def test_agreement_that_start_up_measured() -> None:
    metrics = edge()
    profile = profiles.read("efficientnet_lite0", "profile")
    metrics.profiled(profile)
    found = scraped(metrics.exposition).of("splittracr_agreement_ratio", "cut", "codec")
    assert found[EVERY_CUT, "uint4+zstd1"] == 0.8
    assert {codec for _, codec in found}.isdisjoint({"raw", "raw+zstd1", "png"})
    assert found[EVERY_CUT, "jpeg90"] == 0.6


def test_two_workers_in_one_process_do_not_share() -> None:
    one, other = edge(), edge()
    one.operations(1)
    assert scraped(other.exposition).one("splittracr_operations_total") == 0
