import re
import subprocess
import sys
from pathlib import Path

import pytest

from splittracr import __version__

ROOT = Path(__file__).parents[1]
IMAGES = ("edge", "server", "operator")
WORKERS = ("edge", "server")
TITLE = "org.opencontainers.image.title"


def instructions(image: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, such as ("COPY", "a b"), continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / f"Dockerfile.{image}").read_text(), flags=re.M)
    lines = text.replace("\\\n", " ").splitlines()
    split = (line.split(maxsplit=1) for line in lines if line.strip())
    return [(name, " ".join(rest.split())) for name, rest in split]


def stages(image: str) -> list[list[tuple[str, str]]]:
    """The instructions of each stage, its FROM first."""
    found: list[list[tuple[str, str]]] = []
    for name, rest in instructions(image):
        if name == "FROM":
            found.append([])
        if found:
            found[-1].append((name, rest))
    return found


def final(image: str, name: str) -> list[str]:
    """What the final stage gives an instruction."""
    return [rest for found, rest in stages(image)[-1] if found == name]


def labels(image: str) -> dict[str, str]:
    return dict(re.findall(r'(\S+?)="([^"]*)"', " ".join(final(image, "LABEL"))))


def test_the_worker_images_share_all_layers_but_cuda() -> None:
    """`docker build` has no way to include a file, so the two Dockerfiles repeat each other."""
    edge, server = (instructions(worker) for worker in WORKERS)
    assert len(edge) == len(server)
    different = [(a, b) for a, b in zip(edge, server, strict=True) if a != b]
    (accelerator, other), (title, _), (command, _) = different
    assert accelerator == ("ARG", "ACCELERATOR=cpu")
    assert other == ("ARG", "ACCELERATOR=cuda")
    assert title[0] == "LABEL"
    assert command[0] == "CMD"


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_as_a_numeric_user_without_rights(image: str) -> None:
    assert final(image, "USER") == ["65532:65532"]
    user = "splittracr:x:65532:65532::/tmp:/usr/sbin/nologin"
    assert f"echo '{user}' >> /etc/passwd" in final(image, "RUN")


@pytest.mark.parametrize("image", IMAGES)
def test_the_final_stage_installs_nothing(image: str) -> None:
    """No sources, no compiler, no cache: it copies what other stages made."""
    assert all(copied.startswith("--from=") for copied in final(image, "COPY"))
    assert not final(image, "ADD")
    assert not re.search(r"\b(pip|uv|apt-get)\b", " ".join(final(image, "RUN")))


@pytest.mark.parametrize("image", IMAGES)
def test_a_change_of_code_rebuilds_the_last_layer_only(image: str) -> None:
    copies = final(image, "COPY")
    assert copies[-1] == "--from=project /layer/ /"
    assert "--from=packages /layer/ /" in copies[:-1]
    after = stages(image)[-1][stages(image)[-1].index(("COPY", copies[-1])) + 1 :]
    assert {name for name, _ in after} <= {"ARG", "LABEL", "USER", "ENTRYPOINT", "CMD"}
    for stage in stages(image):
        code = any(name == "COPY" and "/src" in rest for name, rest in stage)
        assert code == (stage[0][1].endswith(" AS project"))


@pytest.mark.parametrize("image", IMAGES)
def test_only_the_lists_of_requirements_invalidate_their_layers(image: str) -> None:
    readers = {
        stage[0][1]
        for stage in stages(image)
        for name, rest in stage
        if name == "COPY" and ("constraints.txt" in rest or rest.startswith("pyproject.toml"))
    }
    assert readers == {"${BASE_IMAGE} AS requirements"}


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_is_labelled(image: str) -> None:
    found = labels(image)
    assert found.pop("org.opencontainers.image.description")
    assert found == {
        TITLE: f"splittracr-{image}",
        "org.opencontainers.image.version": "${VERSION}",
        "org.opencontainers.image.revision": "${REVISION}",
        "org.opencontainers.image.licenses": "MIT",
    }


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_has_the_version_of_the_package(image: str) -> None:
    assert f"VERSION={__version__}" in final(image, "ARG"), (
        f"Write ARG VERSION={__version__} into Dockerfile.{image}: "
        "workers/splittracr/__init__.py has the version."
    )


@pytest.mark.parametrize("module", ["splittracr", "splittracr_operator"])
def test_both_commands_print_the_version(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"splittracr {__version__}\n"


@pytest.mark.parametrize("image", IMAGES)
def test_the_build_context_holds_all_that_is_copied(image: str) -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = [
        source
        for stage in stages(image)
        for name, rest in stage
        if name == "COPY" and not rest.startswith("--from=")
        for source in rest.split()[:-1]
    ]
    assert copied
    for source in copied:
        assert f"!{source}" in ignored
        assert (ROOT / source).exists()


def resolved(*options: str) -> list[str]:
    """The packages of the extra `edge-lite` as the image's build resolves them."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "pyproject.toml"),
            *("-c", "constraints.txt", "--extra", "edge-lite", "--no-header", "--no-annotate"),
            *("--python-version", "3.11", *options),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if "error sending request" in done.stderr:
        pytest.skip("no package index answers")
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("machine", ["aarch64", "x86_64"])
def test_an_edge_without_pytorch_needs_wheels_only(machine: str) -> None:
    platform = f"{machine}-unknown-linux-gnu"
    found = resolved("--python-platform", platform, "--only-binary", ":all:")
    names = {line.partition("==")[0] for line in found}
    assert {"onnx", "onnxruntime", "numpy", "pillow"} <= names
    assert not {name for name in names if name.startswith(("torch", "nvidia", "polars"))}
