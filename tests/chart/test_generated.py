"""Generated files of the chart, and how values.yaml becomes its schema and its manual."""

import re

import jsonschema
import pytest
import yaml

from splittracr import __version__
from splittracr.cli import chart
from splittracr.cli.chart import DEPLOY, ROOT, Undocumented, manifests, read, schema, table
from tests.chart.render import FOLDER, HELM, needs_helm

VALUES = """\
# -- Text of the first, which
# goes on here.
first: 1
group:
  # A remark that documents nothing.
  # -- (digest) The second | of them.
  second: ""
# -- (open) A group with more.
more:
  # -- Third.
  third: true
"""


def test_values_are_read_with_type_default_and_text() -> None:
    first, group, more = read(VALUES)
    assert (first.path, first.kind, first.default) == ("first", "int", 1)
    assert first.text == "Text of the first, which goes on here."
    (second,) = group.children
    assert (second.path, second.kind, second.text) == (
        "group.second",
        "digest",
        "The second | of them.",
    )
    assert (more.kind, more.children[0].kind) == ("open", "bool")


def test_schema_is_closed_unless_open() -> None:
    validator = jsonschema.Draft7Validator(schema(read(VALUES)))
    assert validator.is_valid({"first": 2, "group": {"second": ""}, "more": {"x": 1}})
    assert not validator.is_valid({"second": 2})
    assert not validator.is_valid({"group": {"x": 1}})
    assert not validator.is_valid({"group": {"second": "sha256:1"}})
    assert not validator.is_valid({"first": "1"})


def test_table_has_a_row_for_each_value() -> None:
    assert table(read(VALUES)).splitlines()[2:] == [
        "| `first` | int | `1` | Text of the first, which goes on here. |",
        '| `group.second` | digest | `""` | The second \\| of them. |',
        "| `more.third` | bool | `true` | Third. |",
    ]


@pytest.mark.parametrize("text", ["a: 1\n", "# -- Text.\na: {}\n", "# -- (typo) Text.\na: 1\n"])
def test_an_undocumented_value_is_refused(text: str) -> None:
    with pytest.raises(Undocumented, match=re.escape("values.yaml: a: expected")):
        read(text)


def test_defaults_pass_their_schema() -> None:
    values = yaml.safe_load((FOLDER / "values.yaml").read_text())
    validator = jsonschema.Draft7Validator(schema(read((FOLDER / "values.yaml").read_text())))
    assert [error.message for error in validator.iter_errors(values)] == []
    for form in chart.TYPES.values():
        jsonschema.Draft7Validator.check_schema(form)


def test_chart_has_the_version_of_the_package() -> None:
    content = yaml.safe_load((FOLDER / "Chart.yaml").read_text())
    assert content["version"] == content["appVersion"] == __version__


@needs_helm
def test_manifests_without_helm_are_up_to_date() -> None:
    assert HELM is not None
    assert (ROOT / DEPLOY).read_text() == manifests(HELM), "run `make generate`"


def test_manifests_install_without_helm() -> None:
    bodies = list(yaml.safe_load_all((ROOT / DEPLOY).read_text()))
    kinds = [body["kind"] for body in bodies]
    assert kinds[0] == "Namespace"
    assert bodies[0]["metadata"]["labels"] == {"pod-security.kubernetes.io/enforce": "restricted"}
    assert "CustomResourceDefinition" not in kinds
    assert "Pod" not in kinds
    assert "Helm" not in (ROOT / DEPLOY).read_text().partition("---")[2]
