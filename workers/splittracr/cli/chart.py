"""The generated files of the Helm chart: Chart.yaml, the CRD, the values' schema and README.

`charts/splittracr/values.yaml` is the one source of names, types, defaults and descriptions of
values. A comment `# -- (type) text` above a key documents it; a type is one of `TYPES`, and left
out it is that of the default. Only `make generate` uses this module.
"""

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from splittracr import __version__
from splittracr.experiment import crd
from splittracr.experiment.errors import SplittracrError
from splittracr.experiment.spec import API_VERSION, GROUP, KIND, VERSION

Schema = dict[str, Any]

ROOT = Path(__file__).parents[3]
CHART = "charts/splittracr"
DEPLOY = "deploy/operator.yaml"
NAMESPACE = "splittracr-system"
OLDEST = "1.30.0"
"""The oldest Kubernetes that the chart installs on."""

_NAME = r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?"
_HOST = r"[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]+)?"
_TEXT: Schema = {"type": "string"}
_NAMED: Schema = {"type": "string", "pattern": f"^{_NAME}$"}
_FREE: Schema = {"type": "object"}
# Helm writes larger numbers with an exponent.
_QUANTITY: Schema = {
    "type": ["string", "number"],
    "minimum": 0,
    "maximum": 999_999,
    "pattern": r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$",
}
_QUANTITIES: Schema = {"type": "object", "additionalProperties": _QUANTITY}
_PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}


def _closed(required: Sequence[str] = (), **properties: Schema) -> Schema:
    """An object with these keys and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


_TOLERATION = _closed(
    key=_TEXT,
    operator={"enum": ["Exists", "Equal"]},
    value=_TEXT,
    effect={"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
    tolerationSeconds={"type": "integer", "minimum": 0},
)
_SUBJECT = _closed(
    ("kind", "name"),
    kind={"enum": ["User", "Group", "ServiceAccount"]},
    name={"type": "string", "minLength": 1},
    namespace=_NAMED,
)

TYPES: Mapping[str, Schema] = {
    "accessMode": {"enum": ["ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod"]},
    "bool": {"type": "boolean"},
    "cidrs": _list({"type": "string", "pattern": "^[0-9a-fA-F.:]+/[0-9]{1,3}$"}),
    "days": {"type": "integer", "minimum": 0, "maximum": 36_500},
    "digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
    "duration": {"type": "string", "pattern": "^([0-9]+(ms|s|m|h))*$"},
    "int": {"type": "integer"},
    "labels": {"type": "object", "additionalProperties": _TEXT},
    "map": _FREE,
    "maps": _list(_FREE),
    "name": {"type": "string", "pattern": f"^({_NAME})?$"},
    "names": _list(_NAMED) | {"uniqueItems": True},
    "nodePort": {"type": "integer", "minimum": 0, "maximum": 65535},
    "objects": _list({"type": ["object", "string"]}),
    "port": _PORT,
    "ports": _list(_PORT) | {"minItems": 1},
    "pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "pullSecrets": _list({"anyOf": [_NAMED, _closed(("name",), name=_NAMED)]}),
    "quantity": _QUANTITY,
    "reference": {
        "type": "string",
        "pattern": f"^(({_HOST}/)?[a-z0-9._-]+(/[a-z0-9._-]+)*"
        r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?)?$",
    },
    "registry": {"type": "string", "pattern": f"^({_HOST}(/[a-z0-9._-]+)*)?$"},
    "renderMode": {"enum": ["skipIfMissing", "failIfMissing", "alwaysRender"]},
    "replicas": {"const": 1},
    "repository": {"type": "string", "pattern": f"^({_HOST}/)?[a-z0-9._-]+(/[a-z0-9._-]+)*$"},
    "resources": _closed(requests=_QUANTITIES, limits=_QUANTITIES),
    "seconds": {"type": "integer", "minimum": 1},
    "serviceType": {"enum": ["", "NodePort", "LoadBalancer"]},
    "strings": _list(_TEXT),
    "subjects": _list(_SUBJECT),
    "tag": {"type": "string", "pattern": "^([A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?$"},
    "text": _TEXT,
    "tolerations": _list(_TOLERATION),
    "volume": {"type": "object", "maxProperties": 1, "additionalProperties": _FREE},
}
"""JSON schema of each type that a comment may name."""

_OPEN = "open"
"""A mapping whose keys are documented, and that takes others as well."""


class Undocumented(SplittracrError):
    """A value of values.yaml without a comment or a type."""


@dataclass(frozen=True)
class Value:
    """One value: the dotted path of its key, its type (empty: a group of values), its default."""

    path: str
    kind: str
    default: Any
    text: str
    children: tuple["Value", ...] = ()

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition(".")[2]


def read(text: str) -> tuple[Value, ...]:
    """The documented values of a values.yaml. Raises Undocumented, with the path of the value."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(node, yaml.MappingNode):
        raise Undocumented("values.yaml: expected a mapping")
    return tuple(_values(node, text.splitlines(), ""))


def schema(values: Sequence[Value]) -> Schema:
    """JSON schema of the values; unknown keys are refused."""
    return {"$schema": "http://json-schema.org/draft-07/schema#", **_group(values)}


def table(values: Sequence[Value]) -> str:
    """The values as a table in Markdown."""
    rows = ["| Value | Type | Default | Meaning |", "|---|---|---|---|"]
    for value in _leaves(values):
        default = json.dumps(value.default, separators=(", ", ": "))
        cells = (f"`{value.path}`", value.kind, f"`{default}`", value.text)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def readme() -> str:
    """README.md: the text of README.md.in with the table of values."""
    return _source("README.md.in").replace("@VALUES@\n", table(read(_source("values.yaml"))))


def values_schema() -> str:
    """values.schema.json."""
    return json.dumps(schema(read(_source("values.yaml"))), indent=2) + "\n"


def crd_template() -> str:
    """The CustomResourceDefinition as a template of the chart."""
    head = f"metadata:\n  name: {crd.PLURAL}.{GROUP}\n"
    before, after = crd.text().replace("{{", '{{ "{{" }}').split(head)
    metadata = """\
  labels: {{- include "splittracr.labels" . | nindent 4 }}
  {{- $annotations := .Values.crds.annotations }}
  {{- if .Values.crds.keep }}
  {{- $annotations = merge (dict "helm.sh/resource-policy" "keep") $annotations }}
  {{- end }}
  {{- with $annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
"""
    note = "{{- /* Written by `make generate`; do not edit. */ -}}\n"
    start = f"{note}{{{{- if .Values.crds.enabled -}}}}\n"
    return f"{start}{before}{head}{metadata}{after}{{{{- end }}}}\n"


def chart_yaml() -> str:
    """Chart.yaml, with the version of the package."""
    return f"""\
# Written by `make generate`; do not edit.
apiVersion: v2
name: splittracr
description: Split computing on Kubernetes - the head of a model on an edge, the tail on a server
type: application
version: {__version__}
appVersion: {__version__}
kubeVersion: ">={OLDEST}-0"
keywords: [split-computing, edge-computing, deep-learning, operator, k3s]
annotations:
  artifacthub.io/category: ai-machine-learning
  artifacthub.io/license: MIT
  artifacthub.io/operator: "true"
  artifacthub.io/crds: |
    - kind: {KIND}
      version: {VERSION}
      name: {crd.PLURAL}.{GROUP}
      displayName: Split experiment
      description: A study that splits a model between edges and a server
  artifacthub.io/crdsExamples: |
    - apiVersion: {API_VERSION}
      kind: {KIND}
      metadata:
        name: quickstart
      spec:
        model:
          name: efficientnet_lite0
        partition:
          mode: Sweep
"""


FILES: Mapping[str, Callable[[], str]] = {
    f"{CHART}/Chart.yaml": chart_yaml,
    f"{CHART}/README.md": readme,
    f"{CHART}/templates/crd.yaml": crd_template,
    f"{CHART}/values.schema.json": values_schema,
}
"""The chart's generated files, by their path in the repository."""


def manifests(helm: str) -> str:
    """`deploy/operator.yaml`: what the chart installs by default, less CRD and tests."""
    command = [helm, "template", "splittracr", str(ROOT / CHART), "--namespace", NAMESPACE]
    command += ["--kube-version", OLDEST, "--set", "crds.enabled=false,tests.enabled=false"]
    rendered = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    kept = [line for line in rendered.splitlines() if not line.strip().startswith(_ONLY_HELM)]
    return _DEPLOY_HEAD + "\n".join(kept) + "\n"


_ONLY_HELM = ("helm.sh/chart:", "app.kubernetes.io/managed-by: Helm", "# Source:")
_DEPLOY_HEAD = f"""\
# Written by `make generate` from {CHART}; do not edit. The operator, without Helm:
#   kubectl apply --server-side -f crds/ -f deploy/
# after setting the three images (`image:`, here and in the ConfigMap) to where yours are. After a
# later change of the ConfigMap: kubectl -n {NAMESPACE} rollout restart deploy/splittracr-operator
---
apiVersion: v1
kind: Namespace
metadata:
  name: {NAMESPACE}
  labels:
    pod-security.kubernetes.io/enforce: restricted
"""


def _source(name: str) -> str:
    return (ROOT / CHART / name).read_text(encoding="utf-8")


def _values(node: yaml.MappingNode, lines: Sequence[str], prefix: str) -> Iterator[Value]:
    for key, inner in node.value:
        path = f"{prefix}{key.value}"
        kind, text = _comment(lines, key.start_mark.line)
        default = _plain(inner)
        if isinstance(inner, yaml.MappingNode) and inner.value and kind in ("", _OPEN):
            children = tuple(_values(inner, lines, f"{path}."))
            yield Value(path, kind, default, text, children)
            continue
        kind = kind or _inferred(default)
        if not text or kind not in TYPES:
            raise Undocumented(f"values.yaml: {path}: expected `# -- (type) text` above it")
        yield Value(path, kind, default, text)


def _comment(lines: Sequence[str], number: int) -> tuple[str, str]:
    """Type and text that document the key on a line; empty without `# --`."""
    block: list[str] = []
    while number > 0 and (line := lines[number - 1].strip()).startswith("#"):
        block.insert(0, line.removeprefix("#").strip())
        if block[0].startswith("-- "):
            text = " ".join(block).removeprefix("-- ")
            if not text.startswith("("):
                return "", text
            kind, _, rest = text[1:].partition(") ")
            return kind, rest
        number -= 1
    return "", ""


def _plain(node: yaml.Node) -> Any:
    return yaml.safe_load(yaml.serialize(node))


_SIMPLE = {bool: "bool", int: "int", str: "text"}


def _inferred(default: object) -> str:
    return _SIMPLE.get(type(default), "")


def _leaves(values: Sequence[Value]) -> Iterator[Value]:
    for value in values:
        if value.children:
            yield from _leaves(value.children)
        else:
            yield value


def _group(values: Sequence[Value], *, is_open: bool = False) -> Schema:
    return {
        "type": "object",
        "properties": {value.name: _schema(value) for value in values},
        "additionalProperties": is_open,
    }


def _schema(value: Value) -> Schema:
    if value.children:
        found = _group(value.children, is_open=value.kind == _OPEN)
    else:
        found = TYPES[value.kind]
    described = {"description": value.text} if value.text else {}
    return {**described, **found}
