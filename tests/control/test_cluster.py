import pytest

from splittracr_operator.cluster import (
    ClusterError,
    Forbidden,
    Refused,
    Unavailable,
    brief,
    failure,
)

UNTYPED = (
    "failed to create typed patch object (lab/alexnet-edge; batch/v1, Kind=Job): "
    '.spec.template.spec.volumes[name="a"].persistentVolumeClaim.claim: '
    "field not declared in schema"
)


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (403, "exceeded quota: jobs", Refused),
        (422, "Job is invalid", Refused),
        (500, UNTYPED, Refused),
        (500, "etcdserver: request timed out", Unavailable),
        (429, "too many requests", Unavailable),
        (401, "Unauthorized", Unavailable),
        (403, 'jobs is forbidden: User "x" cannot list', Forbidden),
    ],
)
def test_what_the_user_can_mend_is_told_and_the_rest_is_tried_again(
    status: int, message: str, kind: type[ClusterError]
) -> None:
    found = failure(status, message)
    assert type(found) is kind
    assert message in str(found)


def test_an_answer_is_no_failure() -> None:
    assert failure(201, "") is None


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            'Job.batch "a" is invalid: spec.template: Invalid value: '
            'core.PodTemplateSpec{Labels:map[string]string{"a":"}"}, Spec:core.PodSpec{}}: '
            "field is immutable",
            'Job.batch "a" is invalid: spec.template: Invalid value: '
            "core.PodTemplateSpec...: field is immutable",
        ),
        (
            'Invalid value: {"a":{"b":"say \\"}\\""}}: must be x. More words. And more',
            "Invalid value: ...: must be x.",
        ),
        ("pods are forbidden:\n  exceeded quota: q", "pods are forbidden: exceeded quota: q"),
        ("an open { brace", "an open { brace"),
        ("x" * 4000, "x" * 500 + " ..."),
    ],
)
def test_the_first_sentence_of_a_message(message: str, expected: str) -> None:
    assert brief(message) == expected
    assert str(failure(422, message)) == expected
