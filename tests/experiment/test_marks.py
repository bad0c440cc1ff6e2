from typing import Annotated

from pydantic import Field

from splittracr.experiment.marks import DEFINES, LIVE, UNTIL_REPORT, fixed, marked
from splittracr.experiment.settings import Live, LiveSettings
from splittracr.experiment.spec import ExperimentSpec
from splittracr.experiment.types import SpecModel
from tests.experiment.studies import MINIMAL


class Way(SpecModel):
    """A section with a live field."""

    rate_limit: Annotated[int, LIVE] = 1
    host: Annotated[str, DEFINES] = ""
    port: int | None = None


class Sub(SpecModel):
    """A section without."""

    size: int = 1


class Spec(SpecModel):
    """A manifest."""

    way: Way = Way()
    sub: Sub = Sub()
    other: Annotated[Sub, UNTIL_REPORT] = Sub()
    both: Annotated[Sub | None, DEFINES] = None
    times: tuple[int, ...] = Field(default=())


def test_marks_are_found_by_their_path() -> None:
    assert marked(Spec, LIVE) == [("way", "rateLimit")]
    assert marked(Spec, UNTIL_REPORT) == [("other",)]
    assert marked(Spec, DEFINES) == [("way", "host"), ("both",)]


def test_what_has_no_mark_is_fixed_in_as_few_paths_as_possible() -> None:
    assert fixed(Spec) == [
        (("way", "host"), False),
        (("way", "port"), True),
        (("sub",), False),
        (("both",), True),
        (("times",), True),
    ]


def test_live_settings_hold_each_section_with_a_live_field() -> None:
    sections = [path[0] for path in marked(ExperimentSpec, LIVE) if len(path) > 1]
    assert list(dict.fromkeys(sections)) == list(Live.model_fields)


def test_what_defines_a_record_is_fixed_from_the_start() -> None:
    paths = [path for path, _ in fixed(ExperimentSpec)]
    for path in marked(ExperimentSpec, DEFINES):
        assert any(path[: len(known)] == known for known in paths), path


def test_live_sections_replace_those_of_a_study() -> None:
    spec = ExperimentSpec.model_validate(MINIMAL["spec"])
    changed = ExperimentSpec.model_validate(MINIMAL["spec"] | {"partition": {"cut": 9}})
    settings = LiveSettings.of(changed).at(4)
    assert (settings.generation, settings.partition.cut) == (4, 9)
    assert settings.within(spec) == changed
    assert Live.of(spec).within(changed) == spec
