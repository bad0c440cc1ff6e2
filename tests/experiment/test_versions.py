import json
from pathlib import Path

import pytest

from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.profile import Profile, parse_profile
from splittracr.experiment.types import SCHEMA_VERSION, Record, Versioned
from splittracr.experiment.versions import parse

PROFILE = (Path(__file__).parent / "version1" / "profile.json").read_text()


class Sized(Versioned):
    """A file whose key `size` was called `length` in version 1."""

    size: int

    @classmethod
    def upgraded(cls, content: dict[str, object]) -> dict[str, object]:
        return {"size" if key == "length" else key: value for key, value in content.items()}


def test_what_is_written_says_its_version() -> None:
    assert json.loads(Sized(size=3).model_dump_json()) == {"schemaVersion": 2, "size": 3}
    assert Sized(size=3).model_dump() == {"schemaVersion": 2, "size": 3}


@pytest.mark.parametrize(
    "text", ['{"size": 3, "schemaVersion": 2}', b'{"schemaVersion":2,"size":3}']
)
def test_the_current_version_is_read(text: str | bytes) -> None:
    assert parse(Sized, text, "file", "a size") == Sized(size=3)


@pytest.mark.parametrize("text", ['{"length": 3}', '{"schemaVersion": 1, "length": 3}'])
def test_the_previous_version_is_read_with_its_own_keys(text: str) -> None:
    assert parse(Sized, text, "file", "a size") == Sized(size=3)


def test_keys_of_the_previous_version_are_none_of_the_current_one() -> None:
    with pytest.raises(InvalidInput, match="expected a known key, one of: schemaVersion, size"):
        parse(Sized, '{"length": 3, "schemaVersion": 2}', "file", "a size")


@pytest.mark.parametrize(
    ("found", "shown"),
    {"3": "3", "0": "0", '"2"': "'2'", "null": "nothing", "[]": "[]", "1.5": "1.5"}.items(),
)
def test_another_version_is_refused_with_both(found: str, shown: str) -> None:
    text = f'{{"another": {{}}, "schemaVersion": {found}}}'
    with pytest.raises(InvalidInput) as caught:
        parse(Sized, text, "out/file.json", "a size")
    assert str(caught.value) == (
        f"schemaVersion of out/file.json: got {shown}, expected version 2 or the previous one, 1"
    )


@pytest.mark.parametrize("text", ["", "{", "[]", "3", b"\xff"])
def test_anything_else_is_refused_with_the_name_of_the_file(text: str | bytes) -> None:
    with pytest.raises(InvalidInput, match="a size") as caught:
        parse(Sized, text, "file", "a size")
    assert caught.value.field == "file"


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ("{}", "nothing", "a value, it is required"),
        ('{"size": "x"}', "'x'", "a valid integer, unable to parse string as an integer"),
        ('{"size": NaN}', "nan", "a finite number"),
    ],
)
def test_a_wrong_key_is_refused_with_its_path_and_its_file(
    text: str, value: str, expected: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse(Sized, text, "file", "a size")
    assert str(caught.value) == f"size of file (a size): got {value}, expected {expected}"


def test_a_profile_of_version_1_is_read() -> None:
    assert "schemaVersion" not in json.loads(PROFILE)
    profile = parse_profile(PROFILE, "profile.json")
    assert (profile.network, profile.schema_version) == ("custom_study:ShapesNet", SCHEMA_VERSION)
    again = parse_profile(profile.model_dump_json(), "again")
    assert again == profile
    written = json.loads(profile.model_dump_json())
    assert written.pop("schemaVersion") == SCHEMA_VERSION
    before, later = json.loads(PROFILE), {"power": None, "identity": None, "runtime": "Torch"}
    for codec in (*before["codecs"], *before["picture_codecs"]):
        codec["accuracy"] = None
    assert written == before | later | {"heads_ms": [], "tails_ms": []}


def test_a_profile_of_a_later_version_is_refused() -> None:
    later = json.dumps(json.loads(PROFILE) | {"schemaVersion": 3})
    with pytest.raises(InvalidInput, match=r"schemaVersion of own\.json: got 3, .* 2 .* 1"):
        parse_profile(later, "own.json")


@pytest.mark.parametrize("model", [Record, Profile])
def test_the_version_is_the_first_key(model: type[Versioned]) -> None:
    assert next(iter(model.model_fields)) == "schema_version"
