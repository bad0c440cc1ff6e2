"""Codecs of other packages: found by entry point, used by encode and decode, refused by name."""

import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import features

from splittracr.experiment.codec import Codec
from splittracr.experiment.errors import FrameFailed, InvalidInput, ProtocolError
from splittracr.experiment.spec import ExperimentSpec
from splittracr.wire import registry
from splittracr.wire.codec import BufferCoding, EncodedPayload, decode, encode, error_bounds
from splittracr.wire.messages import Request
from splittracr.wire.messages import decode as read
from splittracr.wire.payload import TensorRef
from tests.wire.coded import payload_of
from tests.wire.frames import frame
from tests.wire.packages import package

PAYLOAD = payload_of(("float32", (1, 4, 8, 8), (0, 1, 2, 3), bytes(1024)))


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package of codecs."""
    monkeypatch.syspath_prepend(str(package(tmp_path)))


def spec(codec: str, *more: str) -> ExperimentSpec:
    partition = {"mode": "Adaptive", "adaptive": {"codecs": more}} if more else {"mode": "EdgeOnly"}
    return ExperimentSpec.model_validate(
        {"model": {"name": "alexnet"}, "partition": partition, "transport": {"codec": codec}}
    )


@pytest.mark.usefixtures("acme")
def test_a_codec_of_another_package_carries_a_payload() -> None:
    encoded = encode(PAYLOAD, Codec.parse("acme.deflate"))
    assert [coding.codec for coding in encoded.codings] == ["acme.deflate"]
    assert encoded.nbytes < 40
    assert decode(encoded) == PAYLOAD
    _, received = read(frame(Request(id=1, cut=1), encoded))
    assert decode(received) == PAYLOAD
    with pytest.raises(ValueError, match=r"error of codec acme\.deflate is not known"):
        error_bounds(encoded, 0)


def test_a_codec_is_registered_from_outside() -> None:
    calls: list[Sequence[TensorRef]] = []

    @registry.register("tests.stored")
    class Stored:
        """Keeps the last byte, which is enough of a buffer of zeros."""

        def encode(self, data: memoryview, tensors: Sequence[TensorRef]) -> bytes | None:
            calls.append(tensors)
            return bytes(data[-1:])

        def decode(self, data: memoryview, size: int, tensors: Sequence[TensorRef]) -> bytes:
            calls.append(tensors)
            return bytes(data) * size

    codec = Codec.parse("tests.stored")
    assert (str(codec), codec.lossy) == ("tests.stored", True)
    assert decode(encode(PAYLOAD, codec)) == PAYLOAD
    assert calls == [list(PAYLOAD.tensors)] * 2
    assert registry.installed()["tests.stored"] == ""
    assert registry.used(spec("tests.stored")) == {"tests.stored": ""}


def test_what_gets_no_smaller_travels_as_it_is() -> None:
    @registry.register("tests.larger")
    class Larger:
        def encode(self, data: memoryview, tensors: Sequence[TensorRef]) -> bytes | None:
            return bytes(len(data))

        def decode(self, data: memoryview, size: int, tensors: Sequence[TensorRef]) -> bytes:
            raise AssertionError

    encoded = encode(PAYLOAD, Codec.parse("tests.larger"))
    assert [coding.codec for coding in encoded.codings] == [""]
    assert decode(encoded) == PAYLOAD


@pytest.mark.parametrize("name", ["uint9", "topk", "Acme.topk", "acme.", "acme.topk+zstd1"])
def test_a_name_that_is_none_of_another_package_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no codec"):
        Codec.parse(name)
    with pytest.raises(ValueError, match="cannot be registered"):
        registry.register(name)


@pytest.mark.usefixtures("acme")
def test_a_manifest_uses_codecs_with_the_version_of_their_package() -> None:
    assert registry.used(spec("acme.deflate")) == {"acme.deflate": "1.2"}
    assert registry.used(spec("raw", "uint8", "acme.deflate")) == {"acme.deflate": "1.2"}
    assert registry.used(spec("uint8+zstd1")) == {}


def with_pictures(codec: str, *more: str) -> ExperimentSpec:
    partition: dict[str, object] = {"mode": "ServerOnly"}
    if more:
        partition = {"mode": "Adaptive", "adaptive": {"pictureCodecs": more}}
    return ExperimentSpec.model_validate(
        {
            "model": {"name": "alexnet"},
            "partition": partition,
            "transport": {"pictureCodec": codec},
        }
    )


def test_formats_that_an_end_may_lack_are_compared_in_the_handshake() -> None:
    assert registry.used(with_pictures("jpeg90@50")) == {}
    assert registry.used(with_pictures("webp@50")) == {"webp": ""}
    assert registry.used(with_pictures("png", "avif60", "avif70", "webp90")) == {
        "avif": "",
        "webp": "",
    }
    lacking = registry.mismatch({"avif": ""}, {"webp": "", "acme.topk": "1.2"})
    assert lacking == "the server lacks codec 'avif' of the edge"
    assert registry.mismatch({"avif": ""}, registry.installed()) is None


def test_a_format_that_this_pillow_lacks_is_refused_with_its_field(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(features, "check", lambda name: name != "avif")
    assert "avif" not in registry.installed()
    assert (registry.is_usable("webp90"), registry.is_usable("avif90")) == (True, False)
    for of, field in (
        (with_pictures("avif60@50"), "spec.transport.pictureCodec"),
        (with_pictures("png", "webp", "avif60@50"), "spec.partition.adaptive.pictureCodecs"),
    ):
        with pytest.raises(InvalidInput) as caught:
            registry.used(of)
        assert (caught.value.field, caught.value.value) == (field, "avif60@50")
        assert "this Pillow was built without it" in caught.value.expected
    assert registry.used(with_pictures("webp")) == {"webp": ""}


@pytest.mark.usefixtures("acme")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("acme.deflat", "one of: acme.deflate"),
        ("acme.missing", "a codec that can be created (no accelerator)"),
        ("acme.gone", "a codec that can be created (ModuleNotFoundError: "),
    ],
)
def test_a_codec_that_cannot_be_used_is_refused_with_its_field(name: str, expected: str) -> None:
    for of, field in (
        (spec(name), "spec.transport.codec"),
        (spec("raw", name), "spec.partition.adaptive.codecs"),
    ):
        with pytest.raises(InvalidInput) as caught:
            registry.used(of)
        assert (caught.value.field, caught.value.value) == (field, name)
        assert expected in caught.value.expected


@pytest.mark.usefixtures("acme")
def test_a_codec_that_fails_fails_its_frame() -> None:
    with pytest.raises(FrameFailed, match=r"codec acme\.broken: LookupError: no table"):
        encode(PAYLOAD, Codec.parse("acme.broken"))


@pytest.mark.usefixtures("acme")
@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("acme.broken", b"x", "codec acme.broken made 5 bytes, expected 1024"),
        ("acme.deflate", b"xx", "codec acme.deflate: error: Error -3"),
        ("acme.deflate", zlib.compress(b"y"), "codec acme.deflate made 1 bytes, expected 1024"),
        ("acme.other", b"x", "codec acme.other: LookupError: no package offers it"),
    ],
)
def test_what_the_other_end_sent_is_checked(name: str, data: bytes, reason: str) -> None:
    (coding,) = encode(PAYLOAD, Codec.parse("acme.deflate")).codings
    broken = BufferCoding(coding.values, coding.packer, size=len(data), codec=name)
    with pytest.raises(ProtocolError) as caught:
        decode(EncodedPayload(PAYLOAD.header(), (broken,), (memoryview(data),)))
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ({"acme.topk": "1.2", "acme.other": "3"}, None),
        ({"acme.other": "1.2"}, "the server lacks codec 'acme.topk' of the edge"),
        ({"acme.topk": "1.3"}, "the edge has '1.2', the server '1.3'"),
    ],
)
def test_the_server_has_to_have_the_codecs_of_the_edge(
    server: dict[str, str], words: str | None
) -> None:
    found = registry.mismatch({"acme.topk": "1.2"}, server)
    assert found == words if words is None else words in (found or "")
