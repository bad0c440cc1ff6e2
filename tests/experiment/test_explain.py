"""The texts of pydantic's errors."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.explain import parse_json, validate
from splittracr.experiment.profile import Profile
from splittracr.experiment.settings import LiveSettings
from splittracr.experiment.spec import ExperimentSpec
from splittracr.experiment.types import Frozen

PROFILE = json.loads((Path(__file__).parent / "version1" / "profile.json").read_text())
SETTINGS = '{"generation": 1, "partition": %s, "transport": {"codec": "raw"}}'


class Sizes(Frozen):
    """A model with a mapping of models, whose keys are none of its own."""

    by_name: dict[str, "Sizes"] = Field(default_factory=dict)
    size: int = 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "settings: got '{', expected JSON (EOF while parsing an object at line 1 column 1)"),
        (b"\xff", "settings: got b'\\xff', expected JSON (expected value at line 1 column 1)"),
        (SETTINGS % '{"mode": "Fast"}', "partition.mode: got 'Fast', expected one of 'Static', "),
        (SETTINGS % '{"mode": "Static", "cut": -1}', "partition.cut: got -1, expected "),
        (SETTINGS % '{"mode": "Static"}', "partition: got {'mode': 'Static'}, expected that cut"),
        (
            SETTINGS % '{"mod": "Static"}',
            "partition.mod: got 'mod', expected a known key, one",
        ),
        ("[]", "settings: got [], expected "),
    ],
)
def test_what_is_wrong_in_a_json_text_is_named(text: str | bytes, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_json(LiveSettings, text, "settings")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"model": {"name": ""}}, "MODEL: got '', expected text that is not empty"),
        ({"edge": {"threads": 0}}, "--threads: got 'none', expected a number of at least 1"),
        ({"workload": {"samples": 0}}, "workload.samples: got 0, expected a number of at least 1"),
    ],
)
def test_an_option_is_named_instead_of_the_path_that_it_sets(
    data: dict[str, Any], message: str
) -> None:
    valid = {"model": {"name": "alexnet"}, "partition": {"mode": "EdgeOnly"}}
    options = {"model.name": ("MODEL", ""), "edge.threads": ("--threads", "none")}
    with pytest.raises(InvalidInput) as caught:
        validate(ExperimentSpec, valid | data, "MODEL", options)
    assert str(caught.value) == message


def test_an_unknown_key_in_a_mapping_is_named_with_its_path() -> None:
    with pytest.raises(InvalidInput) as caught:
        validate(Sizes, {"by_name": {"a": {"by_name": {"b": {"siz": 1}}}}}, "sizes")
    assert str(caught.value) == (
        "by_name.a.by_name.b.siz: got 'siz', expected a known key, one of: size, …"
    )


def test_a_rule_of_the_whole_model_is_named_with_the_origin() -> None:
    with pytest.raises(InvalidInput, match=r"^profile: got .*, expected that live_bytes"):
        validate(Profile, {**PROFILE, "cuts": ["input", "output"]}, "profile")
