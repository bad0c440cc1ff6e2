"""`import splittracr as st`: networks, cuts, halves and plans."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import splittracr as st
from splittracr.experiment.errors import CutRefused, InvalidInput, SplittracrError
from splittracr.experiment.profile import Profile
from splittracr.experiment.spec import ModelSpec
from splittracr.models import registry
from tests.cli.processes import environment

SIZE = (64, 64)


@pytest.fixture(scope="module")
def model() -> st.Model:
    return st.load("resnet18", weights="none", input_size=SIZE)


@pytest.fixture(scope="module")
def profile(model: st.Model) -> Profile:
    return model.profile(1)


def test_importing_the_package_brings_no_library() -> None:
    """A fresh process, since this one has imported them all."""
    code = (
        "import sys, splittracr as st\n"
        "heavy = {'torch', 'pandas', 'matplotlib', 'numpy', 'polars'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert {'load', 'run', 'results'} <= set(dir(st))\n"
        "assert callable(st.load) and 'torch' not in sys.modules, 'torch waits for a network'\n"
    )
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True, timeout=60)


def test_both_halves_equal_the_network_at_every_cut(model: st.Model) -> None:
    x = model.example(3)
    spec = ModelSpec(name="resnet18", weights="none", input_size=SIZE)
    with torch.inference_mode():
        eager = registry.build(spec).module(x.clone())
    assert torch.equal(model(x), eager)
    for name in model.cuts["name"]:
        head, tail = model.split(name)
        live = head(x)
        assert torch.equal(tail(live), eager), name
        assert torch.equal(tail(live), eager), f"{name}: the tail has changed its input"
    assert torch.equal(x, model.example(3)), "a head has changed its input"


def test_cuts_are_a_table_in_the_order_of_the_network(model: st.Model) -> None:
    cuts = model.cuts
    assert list(cuts) == [
        *("index", "name", "live", "bytes", "work", "head_ms", "refused"),
        *("exactness", "largest_error", "top1_agreement"),
    ]
    assert set(cuts["exactness"]) == {"Exact"}
    assert list(cuts["index"]) == list(range(len(cuts)))
    assert (cuts["name"].iloc[0], cuts["name"].iloc[-1]) == ("input", "output")
    assert cuts["bytes"].iloc[0] == 3 * 64 * 64
    assert cuts["work"].is_monotonic_increasing
    assert cuts["work"].iloc[-1] == 1
    assert cuts["refused"].isna().all()


def test_pictures_become_a_batch(model: st.Model) -> None:
    batch = model.prepare(np.full((80, 100, 3), 7, np.uint8))
    assert batch.shape == (1, 3, *SIZE)
    assert batch.unique().tolist() == [7]
    with pytest.raises(InvalidInput, match=r"pictures: got 2, expected 1, the batch_size of load"):
        model.prepare(*[np.zeros((8, 8, 3), np.uint8)] * 2)
    with pytest.raises(SplittracrError, match="picture 0: expected a picture, got str"):
        model.prepare("cat.jpg")


def test_a_plan_names_the_best_cut_and_why(model: st.Model, profile: Profile) -> None:
    fast = model.plan(uplink="1gbit", rtt="0ms", edge=profile, edge_slowdown=50, codecs=["uint8"])
    slow = model.plan(uplink=2_000, rtt=20, edge=profile)
    assert fast.cut in ("input", "pixels")  # as far apart as one encoder's noise, times 50
    assert slow.cut == "output"
    assert slow.reason.startswith("Do not split")
    best = fast.table.iloc[0]
    assert best["name"] == fast.cut
    assert best["latency_ms"] == fast.latency_ms
    allowed = fast.table[fast.table["excluded"].isna()]
    assert allowed["cost"].min() == best["cost"]
    assert len(fast.break_even) >= 2
    assert fast.reason in fast._repr_html_()
    assert fast.figure._repr_mimebundle_()["image/png"][:4] == b"\x89PNG"  # type: ignore[index]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"uplink": "5"}, "uplink: got '5', expected a rate such as 5mbit"),
        ({"uplink": -1}, "uplink: got -1.0, expected a rate"),
        ({"rtt": float("inf")}, "rtt: got inf, expected a time"),
        ({"objective": "energy"}, "objective: got 'energy', expected compute_watts and transmit"),
        ({"objective": "speed"}, "objective: got 'speed', expected one of latency, throughput"),
        ({"codecs": ["zip"]}, "codecs: got 'zip', expected a codec in the profile of resnet18"),
        ({"cuts": ["layer9"]}, "cuts: got 'layer9', expected a cut of resnet18"),
        ({"percentile": 20}, "percentile: got 20, expected a number from 50 to 99"),
        ({"edge_slowdown": 0}, "edge_slowdown: got 0, expected a number from 0.001"),
    ],
)
def test_a_wrong_argument_of_a_plan_is_named(
    model: st.Model, profile: Profile, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidInput) as error:
        model.plan(edge=profile, **arguments)  # type: ignore[arg-type]
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet81"}, "name: got 'resnet81', expected a model of"),
        ({"name": "resnet18", "weights": "best"}, "weights: got 'best', expected one of official"),
        ({"name": "resnet18", "device": "gpu"}, "device: got 'gpu', expected auto, cpu"),
        ({"name": "resnet18", "threads": 0}, "threads: got 0, expected a number of at least 1"),
        ({"name": "resnet18", "weights_file": "/no.pt"}, "weights_file: got '/no.pt'"),
    ],
)
def test_a_wrong_argument_of_load_is_named(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidInput) as error:
        st.load(**arguments)  # type: ignore[arg-type]
    assert str(error.value).startswith(message)


def test_a_cut_that_is_not_there_or_not_exact_is_named(
    model: st.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidInput, match="cut: got 'layer9'"):
        model.split("layer9")
    (tmp_path / "sparse_study.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x.to_sparse().to_dense().mean((2, 3))\n"
    )
    monkeypatch.chdir(tmp_path)
    own = st.load("sparse_study:Net", weights="none")
    refused = own.cuts.dropna(subset="refused")
    assert len(refused) == 1
    with pytest.raises(CutRefused, match=refused["name"].iloc[0]):
        own.split(int(refused["index"].iloc[0]))
