"""The status, and the columns that kubectl prints."""

from pydantic import TypeAdapter

from splittracr.experiment.status import ExperimentStatus
from tests.experiment.apiserver import admit
from tests.experiment.definition import ALL, STATUS, VERSION


def test_columns_lead_to_fields() -> None:
    columns = VERSION["additionalPrinterColumns"]
    names = ["Model", "Mode", "State", "Cut", "Progress", "P95", "Age"]
    assert [column["name"] for column in columns if "priority" not in column] == names
    for column in columns:
        path = column["jsonPath"].replace('[?(@.type=="Ready")]', "[]")
        assert path == ".metadata.creationTimestamp" or ALL[path]["type"] == column["type"]


def test_status_of_the_model_is_accepted() -> None:
    status = {
        "observedGeneration": 2,
        "state": "Running",
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "observedGeneration": 2,
                "lastTransitionTime": "2026-01-02T03:04:05Z",
                "reason": "WorkersReady",
                "message": "Both workers are ready.",
            }
        ],
        "startTime": "2026-01-02T03:04:05Z",
        "progress": {"done": 40, "failed": 1, "unanswered": 0, "total": 100, "summary": "40/100"},
        "cut": "features.5",
        "bestCut": {"name": "features.2", "p50": "9.1ms", "p95": "12ms"},
        "latency": {"p50": "9.5ms", "p95": "12.3ms"},
        "placement": "edge-1 -> gpu-1",
        "workers": [
            {
                "name": "study-edge-0",
                "role": "edge",
                "node": "edge-1",
                "outside": False,
                "ready": True,
                "restarts": 0,
            }
        ],
    }
    parsed = TypeAdapter(ExperimentStatus).validate_python(status)
    written = parsed.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert admit(written, STATUS) == written == status


def test_a_new_study_reads_as_in_progress() -> None:
    """A tool that knows kstatus compares the generations; that of an object begins with 1."""
    assert STATUS["default"] == {"observedGeneration": 0}
    assert ExperimentStatus.model_validate(STATUS["default"]).conditions == ()
