"""What Prometheus sees: base units, a stage label, nothing a sample."""

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from splittracr.measure.metrics import Metrics


def scraped(metrics: Metrics) -> dict[tuple[str, str], float]:
    text = generate_latest(metrics.registry).decode()
    return {
        (sample.name, sample.labels.get("stage") or sample.labels.get("direction") or ""): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_bucket")
    }


def test_a_frame_is_counted_in_base_units() -> None:
    metrics = Metrics("edge")
    metrics.frame("ok", {"head": 250.0, "network": 50.0}, sent=1000, received=10)
    metrics.frame("ok", {"head": 750.0}, sent=1, received=0)
    metrics.operations(7)
    found = scraped(metrics)
    assert found["splittracr_frames_total", ""] == 2
    assert found["splittracr_stage_seconds_sum", "head"] == 1.0
    assert found["splittracr_stage_seconds_count", "network"] == 1
    assert found["splittracr_wire_bytes_total", "sent"] == 1001
    assert found["splittracr_operations_total", ""] == 7


def test_two_workers_in_one_process_do_not_share() -> None:
    one, other = Metrics("edge"), Metrics("edge")
    one.operations(1)
    assert ("splittracr_operations_total", "") not in scraped(other)
