"""Codecs on real weights: compression ratio, time, and agreement of the predicted classes.

The network is EfficientNet-Lite0 with ImageNet weights at two cuts. The inputs are 90 crops of the
pictures of this project and of ultralytics, many of them hard to classify.
"""

import importlib.util
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from random import Random
from statistics import median

import torch
from PIL import Image
from torch import Tensor

from bench.figure import Figure, figure
from splittracr.backends.torch import build
from splittracr.backends.torch.proven import ProvenNetwork
from splittracr.experiment.codec import Codec, ValueCodec
from splittracr.experiment.spec import ExperimentSpec
from splittracr.splitting.live import pack, unpack
from splittracr.wire import codec
from splittracr.wire.payload import Payload

CODECS = (
    "raw",
    "float16",
    "uint8",
    "uint4",
    "uint8+zstd1",
    "uint8+lz4-1",
    "raw+zstd1",
    "raw+lz4-1",
    "raw+blosc2-zstd-1-shuffle",
    "float16+blosc2-lz4-1-bitshuffle",
)
_CROPS = 90
_SHARES = (0.2, 0.6)  # of the work, at which the network is cut
_UINT8_RATIO, _UINT8_AGREEMENT = 3.9, 0.98


def codecs() -> list[Figure]:
    """Measure ratio, time and agreement of every codec over all cuts and crops."""
    own = build.build(
        ExperimentSpec.model_validate(
            {"model": {"name": "efficientnet_lite0"}, "partition": {"mode": "Sweep"}}
        ),
        "edge",
        Path(),
    )
    inputs = [own.network.prepare(crop).unsqueeze(0) for crop in _crops()]
    seen = [_class(own.tail(0, [batch])) for batch in inputs]
    cases = [
        Case(cut, pack(own.head(cut, batch)), expected)
        for cut in _cuts(own)
        for batch, expected in zip(inputs, seen, strict=True)
    ]
    shares = {values: _agreement(own, values, cases) for values in ValueCodec}
    return [one for name in CODECS for one in _measure(Codec.parse(name), cases, shares)]


@dataclass(frozen=True)
class Case:
    """Live tensors at a cut, and the class that the network predicts without a codec."""

    cut: int
    payload: Payload
    expected: int


def _agreement(own: ProvenNetwork, values: ValueCodec, cases: Sequence[Case]) -> list[float]:
    """Return, by cut, the share of crops with the same class. Lossless stages do not change it."""
    agreed: dict[int, list[bool]] = {}
    for case in cases:
        decoded = codec.decode(codec.encode(case.payload, Codec(values)))
        same = _class(own.tail(case.cut, unpack(decoded))) == case.expected
        agreed.setdefault(case.cut, []).append(same)
    return [sum(each) / len(each) for each in agreed.values()]


def _measure(
    chosen: Codec, cases: Sequence[Case], shares: Mapping[ValueCodec, Sequence[float]]
) -> Iterator[Figure]:
    ratios, encoding, decoding = [], [], []
    for case in cases:
        started = time.perf_counter()
        encoded = codec.encode(case.payload, chosen)
        coded = time.perf_counter()
        decoded = codec.decode(encoded)
        ended = time.perf_counter()
        without = codec.decode(codec.encode(case.payload, Codec(chosen.values)))
        assert decoded.buffers == without.buffers, f"{chosen} lost something"
        mebibytes = case.payload.nbytes / 2**20
        ratios.append(case.payload.nbytes / encoded.nbytes)
        encoding.append((coded - started) * 1e3 / mebibytes)
        decoding.append((ended - coded) * 1e3 / mebibytes)
    goals = {ValueCodec.RAW: 1.0, ValueCodec.UINT8: _UINT8_AGREEMENT}
    ratio = _UINT8_RATIO if str(chosen) == "uint8" else None
    yield figure(f"codec {chosen}: times smaller", ratios, "times", min_value=ratio)
    yield figure(f"codec {chosen}: encoding", encoding, "ms/MiB")
    yield figure(f"codec {chosen}: decoding", decoding, "ms/MiB")
    agreed = shares[chosen.values]
    title = f"codec {chosen}: top-1 agreement, {_CROPS} crops, worst cut"
    lowest = goals.get(chosen.values)
    yield figure(title, agreed, "share", min_value=lowest, value=min(agreed))


def _class(output: Tensor) -> int:
    return int(output.argmax())


def _cuts(own: ProvenNetwork) -> list[int]:
    """Return the cuts nearest to the shares of the work, of those with at most median bytes."""
    offered = [cut for cut in own.proof.offered().values() if 0 < cut.index < own.proof.last]
    typical = median(cut.bytes for cut in offered)
    small = [cut for cut in offered if cut.bytes <= typical]
    return [min(small, key=lambda cut: abs(cut.work - share)).index for share in _SHARES]


def _crops() -> Iterator[Image.Image]:
    """Yield seeded crops of a fifth to all of each side."""
    pictures = [Image.open(path).convert("RGB") for path in _pictures()]
    seed = Random(0)
    for i in range(_CROPS):
        picture = pictures[i % len(pictures)]
        share = seed.uniform(0.2, 1.0)
        width, height = (int(side * share) for side in picture.size)
        left = seed.randrange(picture.width - width + 1)
        top = seed.randrange(picture.height - height + 1)
        yield picture.crop((left, top, left + width, top + height))


def _pictures() -> list[Path]:
    folders = [Path(str(resources.files("splittracr.data"))) / "pictures"]
    ultralytics = importlib.util.find_spec("ultralytics")  # found, not imported
    if ultralytics is not None and ultralytics.origin is not None:
        folders.append(Path(ultralytics.origin).parent / "assets")
    return sorted(path for folder in folders for path in folder.glob("*.jpg"))


torch.set_grad_enabled(False)
