"""From a proven network to its `Profile`: operations, codecs and memory, timed here and now.

One chained pass a frame times every operation, another one, at each cut, every codec on the
tensors that are alive there; the network is never run once a cut.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from splittracr.backends.columns import (
    Clock,
    Coded,
    Column,
    agreements,
    codec_profile,
    judged_cuts,
    note,
    reply_bytes,
    request_bytes,
    typical,
)
from splittracr.backends.torch.device import TorchDevice
from splittracr.backends.torch.timing import OperationTimes
from splittracr.experiment.codec import Codec, PictureCodec
from splittracr.experiment.profile import Profile
from splittracr.measure import machine
from splittracr.models.network import Network
from splittracr.splitting.live import pack, unpack
from splittracr.splitting.proof import Proof
from splittracr.splitting.tape import Tape
from splittracr.wire import codec as codecs
from splittracr.wire.codec import EncodedPayload
from splittracr.wire.pictures import decode_picture, encode_picture

P = ParamSpec("P")
T = TypeVar("T")


@dataclass
class _Operations:
    """Times of every operation and of the reduction, one entry a frame, and the reply's size."""

    op_ms: list[list[float]]
    reduce_ms: list[float] = field(default_factory=list)
    reply_bytes: int = 0


@dataclass(frozen=True)
class Subject:
    """A captured and proven network with its reduction, on its device.

    `ranking` gives the classes of one reduced result, best first; None if it ranks none. `times`
    collects those of operations.
    """

    network: Network
    tape: Tape
    proof: Proof
    device: TorchDevice
    dtype: str
    reduce: Callable[[Any], Any]
    ranking: Callable[[Any], Sequence[int] | None]
    times: OperationTimes


@torch.inference_mode()
def profile(
    subject: Subject,
    frames: Sequence[Tensor],
    codec_names: Sequence[str],
    picture_codec_names: Sequence[str],
    *,
    judged: Sequence[Tensor] = (),
) -> Profile:
    """Measure `subject` on `frames` (input batches); the first one also warms up.

    Lossy codecs are judged on the batches `judged`, if there are any. That runs as many tails as
    there are batches and lossy codecs, times six cuts.
    """
    tape, clock = subject.tape, Clock(subject.device)
    ops = _operations(subject, frames, clock)
    wanted = _codec_columns(subject, frames, codec_names, clock)
    columns = _picture_columns(frames, picture_codec_names, clock)
    lossy = [codec for codec in map(Codec.parse, wanted) if codec.lossy]
    pictures = list(map(PictureCodec.parse, columns))
    shares = agreements(
        subject.ranking,
        subject.reduce,
        judged,
        lambda batch: tape(batch.to(subject.device.place)),
        lambda batch: _coded(subject, batch, lossy, pictures),
    )
    return Profile(
        network=subject.network.name,
        weights=subject.network.weights,
        input=tuple(frames[0].shape),
        dtype=subject.dtype,
        device=str(subject.device),
        threads=subject.device.threads,
        processor=machine.processor(),
        cores=machine.cores(),
        capability=subject.device.capability,
        versions={k: v for k, v in machine.versions().items() if k in ("python", "torch")},
        frames=len(frames),
        cuts=tape.cut_names,
        refused=tuple(subject.proof.refused),
        live_bytes=tuple(cut.bytes for cut in subject.proof.cuts),
        memory_bytes=memory(tape, subject.proof),
        op_ms=tuple(typical(times) for times in ops.op_ms),
        reduce_ms=typical(ops.reduce_ms),
        reply_bytes=ops.reply_bytes,
        codecs=tuple(
            codec_profile(Codec.parse(name), by_cut, shares) for name, by_cut in wanted.items()
        ),
        picture_codecs=tuple(
            codec_profile(PictureCodec.parse(name), [column], shares)
            for name, column in columns.items()
        ),
    )


def _operations(subject: Subject, frames: Sequence[Tensor], clock: Clock) -> _Operations:
    tape = subject.tape
    ops = _Operations([[] for _ in tape.ops])
    for i, frame in enumerate([frames[0], *frames]):
        registers = tape.begin(frame.to(subject.device.place))
        for k in range(len(tape)):
            _, elapsed = clock(tape.run, registers, k, k + 1)
            ops.op_ms[k].append(elapsed)
            if i:
                subject.times.add(k, elapsed)
        reduced, elapsed = clock(subject.reduce, tape.result(registers))
        ops.reduce_ms.append(elapsed)
        ops.reply_bytes = reply_bytes(pack([[dict(one) for one in reduced]]))
    return ops


def _codec_columns(
    subject: Subject, frames: Sequence[Tensor], names: Sequence[str], clock: Clock
) -> dict[str, list[Column]]:
    """By codec one column a cut.

    It uses separate passes, since the caches that a codec leaves would slow down the operations.
    """
    tape = subject.tape
    wanted = {name: [Column() for _ in tape.cut_names] for name in names}
    for frame in [frames[0], *frames]:
        registers = tape.begin(frame.to(subject.device.place))
        for k in range(len(tape) + 1):
            _measure_codecs(subject, tape.alive(registers, k), k, wanted, clock)
            tape.run(registers, k, k + 1)
    return wanted


def _measure_codecs(
    subject: Subject, live: list[Any], k: int, wanted: dict[str, list[Column]], clock: Clock
) -> None:
    if subject.tape.cut_names[k] in subject.proof.refused:
        for columns in wanted.values():
            note(columns[k], 0, 0.0, 0.0)
        return
    for name, columns in wanted.items():
        codec = Codec.parse(name)
        encoded, encode_ms = clock(_encode, live, codec)
        _, decode_ms = clock(_decode, encoded, subject.device.place)
        note(columns[k], request_bytes(k, encoded), encode_ms, decode_ms)


def _encode(live: Sequence[Any], codec: Codec | PictureCodec) -> EncodedPayload:
    return codecs.encode(pack(live), codec)


def _decode(encoded: EncodedPayload, device: torch.device) -> list[Any]:
    return unpack(codecs.decode(encoded), device, take=True)


def _decode_pictures(parts: Sequence[bytes], shape: Sequence[int]) -> Tensor:
    _, channels, height, width = shape
    pictures = (decode_picture(part, (channels, height, width)) for part in parts)
    return torch.stack([torch.tensor(picture) for picture in pictures])


def _picture_columns(
    frames: Sequence[Tensor], names: Sequence[str], clock: Clock
) -> dict[str, Column]:
    """Picture codecs on the frames; empty if the input is no picture."""
    if frames[0].dtype is not torch.uint8 or frames[0].shape[1] != 3:
        return {}
    wanted = {name: Column() for name in names}
    for frame in [frames[0], *frames]:
        for name, column in wanted.items():
            encoded, encode_ms = clock(_encode, [frame], PictureCodec.parse(name))
            _, decode_ms = clock(_decode, encoded, frame.device)
            note(column, request_bytes(0, encoded), encode_ms, decode_ms)
    return wanted


# ----------------------------------------------------------------------------------- agreement


def _coded(
    subject: Subject, batch: Tensor, lossy: Sequence[Codec], pictures: Sequence[PictureCodec]
) -> Iterator[Coded]:
    """The network's output after each lossy codec at each cut that is tried."""
    tape, device = subject.tape, subject.device.place
    for picture in pictures:
        if picture.lossy:
            pixels = _decode_pictures(encode_picture(batch.numpy(), picture), batch.shape)
            yield picture, 0, tape(pixels.to(device))
    registers, done = tape.begin(batch.to(device)), 0
    for k in judged_cuts(subject.proof):
        tape.run(registers, done, k)
        live, done = tape.alive(registers, k), k
        for codec in lossy:
            yield codec, k, tape.tail(k, _decode(_encode(live, codec), device))


# -------------------------------------------------------------------------------------- memory


def memory(tape: Tape, proof: Proof) -> tuple[int, ...]:
    """Weights that the first k operations use, and the largest live set among the first k cuts."""
    weights, peak = _bytes_of(tape.constants.values()), 0
    seen: set[int] = set()
    memory = []
    for k, cut in enumerate(proof.cuts):
        peak = max(peak, cut.bytes)
        memory.append(weights + peak if k else cut.bytes)
        if k < len(tape):
            for module in tape.ops[k].constants:
                used = _state(module) if isinstance(module, nn.Module) else {}
                weights += _bytes_of(v for key, v in used.items() if key not in seen)
                seen |= used.keys()
    return tuple(memory)


def _state(module: nn.Module) -> dict[int, Tensor]:
    return {id(value): value for value in (*module.parameters(), *module.buffers())}


def _bytes_of(values: Iterable[Any]) -> int:
    return sum(v.numel() * v.element_size() for v in values if isinstance(v, Tensor))
