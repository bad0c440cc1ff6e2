"""Studies that never ran, with times and sizes as real ones have them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from splittracr.experiment.spec import ExperimentSpec, Metadata, ModelSpec, SplitExperiment
from splittracr.experiment.types import Cut, Place, Record, TensorSpec
from splittracr.results.environment import End, Environment, write_environment
from splittracr.results.journal import Journal

UID = "3f0c8d5e-0d0b-4e57-9a55-1f4f2c9a7b11"
LABELS = ("minibus", "tabby", "space shuttle", "espresso", "tripod")


def cuts(count: int, long_names: bool = False) -> tuple[Cut, ...]:
    """`count` cuts of a made-up network, `input` first and `output` last."""
    names = [_name(i, long_names) for i in range(1, count - 1)]
    return tuple(_cut(i, name, count) for i, name in enumerate(["input", *names, "output"]))


def _name(i: int, long_names: bool) -> str:
    if long_names:
        return f"features.denseblock{1 + i // 16}.denselayer{1 + i % 16}.relu2"
    return f"layer{1 + i // 4}.{i % 4 // 2}.{('relu', 'add')[i % 2]}"


def _cut(index: int, name: str, count: int) -> Cut:
    done = index / (count - 1)
    size = 150_528 if index == 0 else 4_000 if name == "output" else int(1_605_632 * 0.03**done)
    shape = (1, 3, 224, 224) if index == 0 else (1, max(1, size // 4))
    live = TensorSpec(
        name=name, shape=shape, dtype="uint8" if index == 0 else "float32", bytes=size
    )
    return Cut(index=5 * index, name=name, live=(live,), bytes=size, work=done**1.3)


def record(cut: Cut, sample: int = 0, repeat: int = 0, **changes: Any) -> Record:
    """One successful record at `cut`; the same arguments give the same record."""
    random = np.random.default_rng([cut.index, sample, repeat])
    stages = _stages(cut, random)
    at_edge = cut.name == "output"
    fields: dict[str, Any] = {
        "uid": UID,
        "edge": "edge-0",
        "trial": 100 * repeat + cut.index,
        "repeat": repeat,
        "sample": sample,
        "name": f"{LABELS[sample % 5].replace(' ', '_')}_{sample:03d}.jpg",
        "cut": cut.name,
        "cut_index": cut.index,
        "outcome": "ok",
        "finished_on": Place.EDGE if at_edge else Place.SERVER,
        "emulated": False,
        "started_at": 1_760_000_000 + sample + 1000 * repeat + cut.index / 1000,
        "bytes_up": 0 if at_edge else cut.bytes + 412,
        "bytes_down": 0 if at_edge else 386,
        "total_ms": sum(stages.values()),
        "stages": stages,
        "prediction": _prediction(sample, random),
    }
    return Record(**(fields | changes))


def _stages(cut: Cut, random: np.random.Generator) -> dict[str, float]:
    """Edge ten times slower than the server, 40 Mbit/s, 8 ms round trip."""
    stages = {
        "load": 3.1,
        "prepare": 2.2,
        "edge_wait": 0.1,
        "head": 110 * cut.work + 0.05,
        "encode": cut.bytes / 2e6,
        "finish": 0.15,
    }
    if cut.name == "output":
        stages["other"] = 0.4
    else:
        stages |= {
            "link": 8 + cut.bytes * 8 / 40e6 * 1000,
            "decode": cut.bytes / 3e6,
            "server_wait": 0.2,
            "tail": 11 * (1 - cut.work),
            "reply": 0.05,
        }
    stages["reduce"] = 0.12
    noise = random.gamma(60, 1 / 60, len(stages)) * random.choice([1, 1.6], p=[0.95, 0.05])
    return {name: float(ms * n) for (name, ms), n in zip(stages.items(), noise, strict=True)}


def _prediction(sample: int, random: np.random.Generator) -> list[dict[str, Any]]:
    scores = np.sort(random.dirichlet([4, 1, 0.5, 0.3, 0.2]))[::-1]
    order = [(sample + i) % 5 for i in range(5)]
    return [
        {"label": LABELS[c], "class": c, "score": round(float(s), 4)}
        for c, s in zip(order, scores, strict=True)
    ]


def records(
    where: Sequence[Cut], samples: int = 20, repeats: int = 1, labelled: bool = False
) -> list[Record]:
    """Every sample at every cut in every repeat, taking turns as a sweep's samples do."""
    made = []
    for repeat in range(repeats):
        for sample in range(samples):
            for cut in where:
                known = {"label": sample % 5, "top1": sample % 7 > 0, "top5": sample % 19 > 0}
                made.append(record(cut, sample, repeat, **(known if labelled else {})))
    return made


def batched(where: Sequence[Cut], frames: int, batch_size: int, repeats: int = 1) -> list[Record]:
    """Frames of several pictures each: one frame's records repeat its times, as a worker's do."""
    return [
        one.model_copy(update={"sample": sample, "name": f"{sample}.jpg"})
        for one in records(where, frames, repeats)
        for sample in range(one.sample * batch_size, (one.sample + 1) * batch_size)
    ]


def failed(ok: Record, error: str = "the picture could not be decoded") -> Record:
    """The same sample, failed."""
    changes = {"outcome": "failed", "error": error, "prediction": None, "total_ms": 3.1}
    return ok.model_copy(
        update=changes | {"stages": {"load": 3.1}, "top1": None, "top5": None, "bytes_up": 0}
    )


def environment(where: Sequence[Cut], batch_size: int = 1, **changes: Any) -> Environment:
    """The two machines of a made-up study."""
    spec: dict[str, Any] = {"partition": {"mode": "Sweep"}, "workload": {"batchSize": batch_size}}
    versions = {"python": "3.11.2", "splittracr": "0.1.0", "torch": "2.14.1"}
    digests: dict[str, Any] = {"graph_fingerprint": "9c41" * 16, "weights_digest": "e5d0" * 16}
    edge = End(
        hostname="raspberrypi",
        processor="ARM Cortex-A76",
        cores=4,
        threads=1,
        device="cpu",
        capability="NEON",
        versions=versions,
        **digests,
    )
    server = End(
        hostname="gpu-1",
        processor="AMD EPYC 9334 32-Core Processor",
        cores=16,
        threads=1,
        device="cuda:0",
        capability="NVIDIA H100, sm_90",
        versions=versions | {"torchvision": "0.29.1"},
        **digests,
    )
    fields: dict[str, Any] = {
        "uid": UID,
        "manifest": SplitExperiment(
            metadata=Metadata(name="resnet18-sweep", uid=UID),
            spec=ExperimentSpec.model_validate(spec | {"model": ModelSpec(name="resnet18")}),
        ),
        "weights": "IMAGENET1K_V1",
        "link": "40 Mbit/s, 8 ms round trip",
        "edge": edge,
        "server": server,
        "cuts": tuple(where),
        "started_at": datetime(2025, 10, 9, 8, 53, 20, tzinfo=UTC),
        "finished_at": datetime(2025, 10, 9, 9, 4, 11, tzinfo=UTC),
    }
    return Environment(**(fields | changes))


def write_study(
    out: Path, made: Sequence[Record], described: Environment, pictures: int = 0
) -> Path:
    """A results folder as the workers leave it."""
    write_environment(out, described)
    with Journal(out / "records.jsonl") as journal:
        for one in made:
            journal.append(one)
    (out / "pictures").mkdir()
    for number in range(pictures):
        picture = Image.new("RGB", (640, 480 + 160 * (number % 2)), (60 + 25 * number, 120, 160))
        ImageDraw.Draw(picture).rectangle((120, 90, 460, 380), outline="yellow", width=6)
        picture.save(out / "pictures" / f"{number:04d}-{LABELS[number % 5]}.jpg")
    return out
