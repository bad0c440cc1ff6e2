"""Releases of the chart, by way of the helm program."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.cluster import run

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "splittracr"
HELM = os.environ.get("SPLITTRACR_HELM", "helm")
"""The program, Helm 3.17 or newer."""

IMAGES = {name: f"SPLITTRACR_{name.upper()}_IMAGE" for name in ("operator", "edge", "server")}
"""Variables with the references of the images."""

LITE = "SPLITTRACR_EDGE_LITE_IMAGE"
"""Variable with the reference of the image of edges without PyTorch. It may be missing."""

_WAIT_SECONDS = 240


def version() -> int:
    """Major version of helm."""
    shown = run(HELM, "version", "--template", "{{ .Version }}")
    found = re.match(r"v?([0-9]+)\.", shown)
    assert found, shown
    return int(found[1])


def images() -> list[str]:
    """Options that set the images of this session."""
    options = []
    for name, variable in IMAGES.items():
        place, _, tag = os.environ[variable].rpartition(":")
        registry, _, repository = place.rpartition("/")
        prefix = "" if name == "operator" else f"{name}."
        for key, value in (("registry", registry), ("repository", repository), ("tag", tag)):
            options += ["--set-string", f"{prefix}image.{key}={value}"]
    if LITE in os.environ:
        options += ["--set-string", f"edge.liteImage={os.environ[LITE]}"]
    return options


@dataclass(frozen=True)
class Release:
    """One release of the chart; `install` and the others raise Failed with helm's own message."""

    name: str
    namespace: str

    def install(self, *options: str, chart: str | Path = CHART, adopt: bool = True) -> str:
        """Install the release, or upgrade it; without a volume for results unless options add one.

        Values of an earlier call do not carry over. With `adopt` the release takes over objects
        that are there already, such as the custom resource that an earlier release left.
        """
        adopting = ["--take-ownership"] if adopt else []
        if adopt and version() >= 4:  # applies on the server's side, as kubectl may have done
            adopting.append("--force-conflicts")
        return run(
            *(HELM, "upgrade", "--install", self.name, str(chart), "--namespace", self.namespace),
            *("--create-namespace", "--reset-values", "--wait", "--timeout", f"{_WAIT_SECONDS}s"),
            *("--set", "persistence.enabled=false", *images(), *adopting, *options),
            seconds=_WAIT_SECONDS + 30,
        )

    def test(self) -> str:
        """Run `helm test`; returns the logs of its pods."""
        return run(
            *(HELM, "test", self.name, "--namespace", self.namespace, "--logs"),
            *("--timeout", f"{_WAIT_SECONDS}s"),
            seconds=_WAIT_SECONDS + 30,
        )

    def rollback(self) -> None:
        """Go back to the revision before."""
        run(
            *(HELM, "rollback", self.name, "--namespace", self.namespace, "--wait"),
            *("--timeout", f"{_WAIT_SECONDS}s"),
            seconds=_WAIT_SECONDS + 30,
        )

    def uninstall(self) -> None:
        """Uninstall the release; a missing one is no error."""
        run(
            *(HELM, "uninstall", self.name, "--namespace", self.namespace),
            *("--ignore-not-found", "--wait", "--timeout", f"{_WAIT_SECONDS}s"),
            seconds=_WAIT_SECONDS + 30,
        )
