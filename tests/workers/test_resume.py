"""An edge continues a study only if all that defines its records is as it was."""

import asyncio
import hashlib
import importlib
import io
import shutil
import sys
import tarfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from splittracr.backends.torch import build
from splittracr.data import contents
from splittracr.data.contracts import Sample
from splittracr.data.datasets import Folder
from splittracr.edge import main as edge
from splittracr.edge.handover import bring, hand_over
from splittracr.edge.reporting import Reporter, Surroundings
from splittracr.experiment import manifest
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.spec import LinkSpec
from splittracr.results import basis, journal
from splittracr.results.environment import read_environment
from splittracr.transport.emulate import trace_digest
from tests.experiment.studies import study
from tests.workers.test_reporting import Shelf, served

NAME = "resumed_network"
MODULE = """
import torch
from torch import nn
from splittracr.models.registry import register
FACTOR = 2

class Part(nn.Module):
    def forward(self, x):
        return x * FACTOR

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.part, self.fc = Part(), nn.Linear(3, 5)

    def forward(self, x):
        return self.fc(self.part(x).mean((2, 3)))

register("resumed", shape=(3, 16, 16), leaves=(Part,))(Net)
"""


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a network, its weights and four pictures."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / f"{NAME}.py").write_text(MODULE)
    (tmp_path / "pictures").mkdir()
    for number in range(4):
        picture(tmp_path / "pictures" / f"b{number}.png", number)
    weights(tmp_path / "weights.pt", 0)
    yield tmp_path
    sys.modules.pop(NAME, None)


def picture(path: Path, seed: int, size: int = 20) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def weights(path: Path, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    state = {
        "fc.weight": torch.rand(5, 3, generator=draw),
        "fc.bias": torch.rand(5, generator=draw),
    }
    torch.save(state, path)


def run(
    base: Path, samples: int | None = None, out: str = "out", around: Surroundings | None = None
) -> list[tuple[int, str, str]]:
    """Run the study, or continue it; position, name and digest of all records."""
    measure(base, out, around or Surroundings(resume=True), samples)
    records = journal.read(base / out / journal.FILE)
    return [(r.sample, r.name, str(r.output_digest)) for r in records]


def measure(base: Path, out: str, around: Surroundings, samples: int | None = None) -> None:
    sys.modules.pop(NAME, None)
    importlib.invalidate_caches()
    workload = {} if samples is None else {"samples": samples}
    spec = study(
        model={"name": f"{NAME}:Net", "weightsFile": "weights.pt"},
        dataset={"source": "Folder", "path": "pictures"},
        partition={"mode": "EdgeOnly", "cut": None},
        edge={"metricsPort": 0},
        results={"outputs": "Raw"},
        workload=workload,
    )
    experiment = manifest.from_object(spec)
    asyncio.run(edge.study(experiment, build, base, base / out, None, asyncio.Event(), around))


def refused(base: Path, samples: int | None = None) -> InvalidInput:
    """Why the study does not continue; what it has recorded stays as it is."""
    before = {path: path.read_bytes() for path in (base / "out").rglob("*") if path.is_file()}
    with pytest.raises(InvalidInput, match=r"with which the study in .*out began") as caught:
        run(base, samples)
    assert before == {p: p.read_bytes() for p in (base / "out").rglob("*") if p.is_file()}
    return caught.value


def test_a_study_goes_on_if_nothing_has_changed(base: Path) -> None:
    run(base, 2)
    shutil.copytree(base / "pictures", base / "copies", copy_function=shutil.copyfile)
    shutil.rmtree(base / "pictures")
    (base / "copies").rename(base / "pictures")  # other files, the same pictures
    assert [(sample, name) for sample, name, _ in run(base)] == [
        (number, f"b{number}.png") for number in range(4)
    ]
    run(base, 2)  # fewer samples: nothing is left to do
    assert len(run(base, 6)) == 6
    (noted,) = read_environment(base / "out").runs
    assert (noted.edge, noted.samples, len(noted.started_at)) == ("edge-0", 6, 4)
    assert list(noted.started_at) == sorted(set(noted.started_at))


def test_other_weights_under_the_same_name_are_refused(base: Path) -> None:
    run(base)
    weights(base / "weights.pt", 1)
    error = refused(base, 6)
    old = read_environment(base / "out").edge.weights_digest
    assert error.field == "model"
    assert "weights: it has 'sha256:" in error.expected
    assert f"that study {old!r}" in error.expected


def test_other_code_is_refused_and_the_part_named(base: Path) -> None:
    run(base)
    (base / f"{NAME}.py").write_text(MODULE.replace("FACTOR = 2", "FACTOR = 3"))
    error = refused(base, 6)
    assert f"operation part ({NAME}.Part), computed from the same input" in error.expected
    assert f"source file {NAME}.py: it has 'sha256:" in error.expected


def test_another_version_of_a_library_is_refused(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(base)
    version = metadata.version
    changed = {"pillow": "1.0"}
    monkeypatch.setattr(metadata, "version", lambda name: changed.get(name) or version(name))
    error = refused(base, 6)
    assert (error.field, error.value) == ("version of pillow", "1.0")
    assert error.expected.startswith(repr(version("pillow")))


def test_another_small_model_of_a_cascade_is_refused(base: Path) -> None:
    run(base, 1)
    out = base / "out"
    known = basis.read_basis(out)
    assert known is not None
    assert known.small is None
    with_small = msgspec.structs.replace(known, small=known.identity)
    basis.write_basis(out, with_small)
    assert basis.continued(with_small, out) == with_small
    other = msgspec.structs.replace(known.identity, weights="sha256:other")
    with pytest.raises(InvalidInput, match=r"small model: got .*differs in weights") as caught:
        basis.continued(msgspec.structs.replace(known, small=other), out)
    assert caught.value.field == "small model"


def test_another_trace_of_the_emulated_link_is_refused(base: Path) -> None:
    run(base, 1)
    out, link = base / "out", LinkSpec(trace="link.csv")
    known = basis.read_basis(out)
    assert known is not None
    assert known.trace is None

    def traced(text: str) -> basis.Basis:
        (base / "link.csv").write_text(text)
        return msgspec.structs.replace(known, trace=trace_digest(link, base))

    first, other = traced("1"), traced("2")
    assert basis.continued(first, out) == first  # a folder of a version that noted no trace
    basis.write_basis(out, first)
    assert basis.continued(traced("1"), out) == first
    with pytest.raises(InvalidInput) as caught:
        basis.continued(other, out)
    assert caught.value.field == "content of spec.transport.link.trace"
    assert caught.value.value == f"sha256:{hashlib.sha256(b'2').hexdigest()}"
    assert hashlib.sha256(b"1").hexdigest() in caught.value.expected


def test_other_code_that_prepares_pictures_is_refused(base: Path) -> None:
    helper = "import torch\ndef prepare(picture):\n    return torch.full((3, 16, 16), 2).byte()\n"
    (base / "resumed_pictures.py").write_text(helper)
    module = MODULE.replace("FACTOR = 2", "FACTOR = 2\nfrom resumed_pictures import prepare")
    module = module.replace("leaves=(Part,)", "leaves=(Part,), prepare=prepare")
    (base / f"{NAME}.py").write_text(module)
    run(base)
    (base / "resumed_pictures.py").write_text(helper.replace("2)", "3)"))
    sys.modules.pop("resumed_pictures")
    error = refused(base, 6)
    sys.modules.pop("resumed_pictures")
    assert error.field == "source file resumed_pictures.py"
    assert str(error.value).startswith("sha256:")
    assert error.expected.startswith("'sha256:")


@pytest.mark.parametrize("samples", [None, 3])
def test_a_picture_in_front_of_the_others_is_refused(base: Path, samples: int | None) -> None:
    run(base, samples)
    picture(base / "pictures" / "a.png", 9)
    assert "added a.png" in str(refused(base, samples))


def test_a_picture_behind_the_others_is_refused_if_all_are_used(base: Path) -> None:
    run(base)
    picture(base / "pictures" / "z.png", 9)
    assert refused(base).value == "pictures added z.png"


def test_a_picture_behind_those_that_are_used_is_none_of_the_study(base: Path) -> None:
    run(base, 2)
    picture(base / "pictures" / "z.png", 9)
    assert [name for _, name, _ in run(base, 3)] == ["b0.png", "b1.png", "b2.png"]


def test_another_number_of_pictures_is_refused_if_they_repeat(base: Path) -> None:
    run(base, 6)
    (base / "pictures" / "b3.png").unlink()
    assert refused(base, 7).value == "pictures removed b3.png"


def test_a_removed_picture_is_refused(base: Path) -> None:
    run(base)
    (base / "pictures" / "b1.png").unlink()
    assert refused(base).value == "pictures removed b1.png"


def test_a_replaced_picture_is_refused(base: Path) -> None:
    run(base)
    picture(base / "pictures" / "b1.png", 7)
    assert refused(base).value == "pictures changed b1.png"


def test_pictures_that_exchanged_their_names_are_refused(base: Path) -> None:
    run(base)
    names = ("b1.png", "b2.png", "t")
    one, other, between = (base / "pictures" / name for name in names)
    one.rename(between)
    other.rename(one)
    between.rename(other)
    assert refused(base).value == "pictures changed b1.png, b2.png"


def test_many_changes_are_named_briefly(base: Path) -> None:
    run(base)
    for number in range(4):
        (base / "pictures" / f"b{number}.png").rename(base / "pictures" / f"c{number}.png")
    assert refused(base).value == (
        "pictures added c0.png, c1.png, c2.png and 1 more; "
        "removed b0.png, b1.png, b2.png and 1 more"
    )


def test_results_without_an_environment_are_refused(base: Path) -> None:
    run(base)
    (base / "out" / "environment.json").unlink()
    with pytest.raises(InvalidInput, match=r"to contain environment\.json"):
        run(base, 6)


def test_results_of_an_older_version_are_compared_as_far_as_possible(base: Path) -> None:
    run(base, 2)
    (base / "out" / basis.FILE).unlink()
    weights(base / "weights.pt", 1)
    assert refused(base).field == "weights"
    weights(base / "weights.pt", 0)
    assert len(run(base)) == 4


def test_a_basis_that_is_none_is_refused(base: Path) -> None:
    run(base, 2)
    (base / "out" / basis.FILE).write_text("{}")
    with pytest.raises(InvalidInput, match="expected what defines a study"):
        run(base)


def test_a_pod_compares_with_what_the_store_holds(base: Path) -> None:
    run(base, 2)
    shelf = Shelf(away=0)

    async def scenario() -> None:
        async with served(shelf.app()) as url:
            (base / "store").write_text(url)
            around = Surroundings(resume=True, control="secret", store=base / "store")
            await bring(base / "out", around.store_url, "secret", 30)
            weights(base / "weights.pt", 1)
            with pytest.raises(InvalidInput, match="weights: it has 'sha256:"):
                await asyncio.to_thread(run, base, None, "pod", around)

    asyncio.run(scenario())


class Numbers:
    """A data set of the user's, with random samples or others."""

    classes = None

    def __init__(self, size: int, first: float = 0.0, random: bool = False) -> None:
        self._size, self._first, self._random = size, first, random

    def __len__(self) -> int:
        return self._size

    def name(self, index: int) -> str:
        if index == 1:
            raise OSError("no name")
        return f"n{index}"

    def load(self, index: int) -> Sample:
        if index == self._size - 1:
            raise OSError("broken")
        value = torch.rand(3) if self._random else torch.full((3,), index or self._first)
        return Sample(self.name(index), data=value, label=3)


def buffers(value: object) -> list[memoryview]:
    assert isinstance(value, torch.Tensor)
    return [memoryview(value.numpy().tobytes())]


def test_a_data_set_of_the_users_is_asked_for_a_few_samples() -> None:
    names, digests = contents.contents(Numbers(10), 10, buffers)
    assert names == ("n0", "1", *(f"n{i}" for i in range(2, 10)))
    assert [i for i, digest in enumerate(digests) if digest] == [0, 3, 6]
    assert contents.contents(Numbers(10), 10, buffers)[1] == digests
    other = contents.contents(Numbers(10, first=0.5), 10, buffers)[1]
    assert [a == b for a, b in zip(digests, other, strict=True)] == [False] + [True] * 9
    assert not any(contents.contents(Numbers(10, random=True), 10, buffers)[1])
    assert contents.contents(Numbers(0), 3, buffers) == ((), ())


def test_a_large_file_is_read_in_stretches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, size = tmp_path / "large", 3 << 20
    file.write_bytes(bytes(size))

    def digest() -> str:
        (found,) = contents.contents(Folder(tmp_path, ("large",)), 1, buffers)[1]
        return found

    before = digest()
    assert before == digest()
    for place in (0, size - 1):
        content = bytearray(size)
        content[place] = 1
        file.write_bytes(content)
        assert digest() != before
    file.write_bytes(bytes(size + 1))
    assert digest() != before
    file.unlink()
    assert digest() == "unreadable (No such file or directory)"


def described(**changes: Any) -> basis.Pictures:
    fields: dict[str, Any] = {"names": ("a", "b"), "digests": ("1", "2"), "length": 2}
    return basis.Pictures(**(fields | changes))


@pytest.mark.parametrize(
    ("pictures", "needed"),
    [
        (described(), True),
        (described(samples=2), False),
        (described(samples=3), True),
        (described(samples=2, length=9), False),
    ],
)
def test_the_length_counts_only_if_positions_depend_on_it(
    pictures: basis.Pictures, needed: bool
) -> None:
    assert pictures.needs_length is needed


@pytest.mark.parametrize("others", [[], ["edge-1"]])
def test_records_that_the_store_has_leave_the_volume(base: Path, others: list[str]) -> None:
    """The next process of the edge takes them from the store, and has nothing left to do."""
    shelf, volume = Shelf(away=0), base / "volume"
    for other in others:
        (volume / "resumed-1" / other).mkdir(parents=True)
    kept = ["resumed-1", "resumed-1/edge-1"] if others else []

    async def scenario() -> None:
        async with served(shelf.app()) as url:
            (base / "store").write_text(url)
            around = Surroundings(resume=True, control="secret", store=base / "store")
            for looked in (1, 2):
                await asyncio.to_thread(measure, base, "volume/resumed-1/edge-0", around)
                assert (shelf.asked, shelf.looked) == (looked, looked)
                left = [path.relative_to(volume).as_posix() for path in volume.rglob("*")]
                assert sorted(left) == kept
                assert len(records_in(shelf.kept)) == 4

    asyncio.run(scenario())


def test_records_stay_on_the_volume_if_the_edge_is_told_to_stop(base: Path) -> None:
    shelf = Shelf(away=0)
    run(base, 2)

    async def scenario() -> None:
        async with served(shelf.app()) as url:
            (base / "store").write_text(url)
            around = Surroundings(control="secret", store=base / "store")
            spec = manifest.from_object(study()).spec
            stop = asyncio.Event()
            stop.set()
            await hand_over(base / "out", spec.results, Reporter(around, spec), stop)

    asyncio.run(scenario())
    assert len(records_in(shelf.kept)) == len(journal.read(base / "out" / journal.FILE)) == 2


def records_in(packed: bytes | None) -> list[str]:
    """The lines of the records in an archive."""
    with tarfile.open(fileobj=io.BytesIO(packed or b""), mode="r:gz") as opened:
        file = opened.extractfile(journal.FILE)
        assert file is not None
        return file.read().decode().splitlines()
