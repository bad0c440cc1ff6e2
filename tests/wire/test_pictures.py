"""Encoded pictures: what is sent arrives, and nothing else does."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin, features
from PIL.AvifImagePlugin import AvifImageFile

import splittracr
from splittracr.experiment.codec import PictureCodec, PictureFormat
from splittracr.experiment.errors import ProtocolError
from splittracr.wire.pictures import Picture, decode_picture, encode_picture

NAMES = [
    *("uint8", "png", "jpeg1", "jpeg90", "jpeg100", "webp", "webp1", "webp100", "avif1", "avif100"),
    *("png@50", "webp@1", "jpeg90@99", "webp75@50", "avif60@25"),
]
SHAPE = (3, 30, 40)


def smooth(count: int = 1) -> Picture:
    """Pictures that both formats make smaller."""
    y, x = np.mgrid[:30, :40]
    channels = np.stack([x * 6, y * 8, (x + y) * 3])
    return np.stack([channels // (n + 1) for n in range(count)]).astype(np.uint8)


PHOTOGRAPH = Path(splittracr.__file__).parent / "data" / "pictures" / "cat.jpg"


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@given(st.integers(0, 3), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32))
def test_lossless_codecs_keep_every_pixel(count: int, height: int, width: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    pictures = random.integers(0, random.integers(2, 256), (count, 3, height, width), np.uint8)
    for name in ("uint8", "png", "webp"):
        parts = encode_picture(pictures, PictureCodec.parse(name))
        assert len(parts) == count
        for part, picture in zip(parts, pictures, strict=True):
            assert len(part) <= picture.size
            np.testing.assert_array_equal(decode_picture(part, (3, height, width)), picture)


def test_any_order_of_strides_is_encoded() -> None:
    pictures = np.moveaxis(np.ascontiguousarray(np.moveaxis(smooth(2), 1, 3)), 3, 1)
    for name in NAMES:
        assert encode_picture(pictures, PictureCodec.parse(name)) == encode_picture(
            smooth(2), PictureCodec.parse(name)
        )


def test_sizes_and_fidelity_of_a_photograph() -> None:
    with Image.open(PHOTOGRAPH) as cat:
        picture = np.moveaxis(np.asarray(cat.convert("RGB").resize((224, 224))), 2, 0)
    shape = (3, 224, 224)
    names = ("png", "jpeg90", "jpeg30", "webp90", "webp30", "avif90", "avif30", "webp", "jpeg90@50")
    parts = {name: encode_picture(picture[None], PictureCodec.parse(name))[0] for name in names}
    errors_of = {
        name: np.abs(decode_picture(part, shape).astype(int) - picture).mean()
        for name, part in parts.items()
    }
    for kind in ("jpeg", "webp", "avif"):
        assert len(parts[f"{kind}30"]) < len(parts[f"{kind}90"]) < 0.15 * picture.size
        assert 0 < errors_of[f"{kind}90"] < errors_of[f"{kind}30"] < 10
    assert len(parts["webp"]) < len(parts["png"]) < 0.7 * picture.size
    assert errors_of["webp"] == errors_of["png"] == 0
    assert len(parts["jpeg90@50"]) < len(parts["jpeg90"]) / 2
    assert errors_of["jpeg90"] < errors_of["jpeg90@50"] < 10


def test_what_would_grow_travels_raw() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1, *SHAPE), np.uint8)
    (part,) = encode_picture(noise, PictureCodec(PictureFormat.PNG))
    assert part == noise.tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_names_survive(name: str) -> None:
    assert str(PictureCodec.parse(name)) == name


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            "jpeg",
            "jpeg0",
            "jpeg101",
            "jpeg090",
            "jpeg９",
            "PNG",
            "gif",
            "avif",
            "png90",
            "webp0",
        ),
        *("uint8@50", "png@0", "png@100", "png@050", "jpeg90@", "jpeg@50", "@50", "avif90@50@50"),
    ],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected uint8, png, webp, jpeg<1-100>"):
        PictureCodec.parse(name)


def test_what_is_no_batch_of_pictures_is_a_type_error() -> None:
    for wrong in (smooth()[0], smooth().astype(np.float32), smooth()[:, :1]):
        with pytest.raises(TypeError, match=r"expected uint8 \[N, 3, H, W\]"):
            encode_picture(wrong, PictureCodec())  # type: ignore[arg-type]


def test_codecs_that_make_no_sense_are_refused() -> None:
    for format_, quality, scale, words in (
        (PictureFormat.JPEG, 0, 100, "a jpeg quality of 0, expected 1 to 100"),
        (PictureFormat.AVIF, None, 100, "avif with quality None, expected one of uint8, png, webp"),
        (PictureFormat.PNG, 90, 100, "png with quality 90, expected one of jpeg, webp, avif"),
        (PictureFormat.PNG, None, 0, "a png scale of 0, expected 1 to 100"),
        (PictureFormat.UINT8, None, 50, "a uint8 scale of 50, expected 100 to 100"),
    ):
        with pytest.raises(ValueError, match=words):
            PictureCodec(format_, quality, scale)


def test_what_changes_pixels_is_lossy() -> None:
    lossless = [name for name in NAMES if not PictureCodec.parse(name).lossy]
    assert lossless == ["uint8", "png", "webp"]


def test_smaller_pictures_arrive_in_their_size() -> None:
    (part,) = encode_picture(smooth(), PictureCodec.parse("png@50"))
    assert Image.open(BytesIO(part)).size == (20, 15)
    expected = (
        Image.fromarray(np.moveaxis(smooth()[0], 0, 2)).resize((20, 15), 3).resize((40, 30), 3)
    )
    np.testing.assert_array_equal(np.moveaxis(decode_picture(part, SHAPE), 0, 2), expected)
    (tiny,) = encode_picture(smooth()[:, :, :3, :4], PictureCodec.parse("png@1"))
    assert len(tiny) == 3 * 3 * 4  # a file of one pixel is longer, so the pixels travel
    (tiny,) = encode_picture(smooth(), PictureCodec.parse("png@1"))
    assert Image.open(BytesIO(tiny)).size == (1, 1)
    assert len(np.unique(decode_picture(tiny, SHAPE)[0])) == 1


GREY = Image.new("L", (40, 30))
WRONG = {
    "nothing": b"",
    "some bytes": b"no picture",
    "too long": bytes(3601),
    "another format": saved(Image.new("RGB", (40, 30)), "GIF"),
    "a larger PNG": saved(Image.new("RGB", (400, 300)), "PNG"),
    "a turned PNG": saved(Image.new("RGB", (30, 40)), "PNG"),
    "a grey PNG": saved(GREY, "PNG"),
    "a PNG with alpha": saved(Image.new("RGBA", (40, 30)), "PNG"),
    "a larger JPEG": saved(Image.new("RGB", (400, 300)), "JPEG"),
    "a grey JPEG": saved(GREY, "JPEG"),
    "a larger WebP": saved(Image.new("RGB", (400, 300)), "WEBP"),
    "a WebP with alpha": saved(Image.new("RGBA", (40, 30)), "WEBP"),
    "a lossless WebP with alpha": saved(Image.new("RGBA", (40, 30)), "WEBP", lossless=True),
    "an animated WebP": saved(
        Image.new("RGB", (40, 30)),
        "WEBP",
        save_all=True,
        append_images=[Image.new("RGB", (40, 30), "red")],
    ),
    "a WebP with metadata": saved(Image.new("RGB", (40, 30)), "WEBP", icc_profile=b"a" * 200),
    "half a WebP": saved(Image.new("RGB", (40, 30)), "WEBP")[:-10],
    "a larger AVIF": saved(Image.new("RGB", (400, 300)), "AVIF"),
    "an AVIF with alpha": saved(Image.new("RGBA", (40, 30)), "AVIF"),
    "a grey AVIF of two frames": saved(GREY, "AVIF", save_all=True, append_images=[GREY]),
    "half an AVIF": saved(Image.new("RGB", (40, 30)), "AVIF")[:-10],
    "a progressive JPEG": saved(Image.new("RGB", (40, 30)), "JPEG", progressive=True),
    "half a PNG": saved(Image.new("RGB", (40, 30)), "PNG")[:60],
    "half a JPEG": saved(Image.new("RGB", (40, 30)), "JPEG")[:-300],
}


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_picture(data, SHAPE)


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def test_sizes_are_compared_before_pixels_are_decoded() -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9)))
    with pytest.raises(ProtocolError, match="RGB 60000 x 60000, expected at most 40 x 30"):
        decode_picture(bomb, SHAPE)


@pytest.mark.parametrize("lossless", [False, True])
def test_the_size_of_a_webp_is_compared_before_memory_is_taken(lossless: bool) -> None:
    bomb = saved(Image.new("RGB", (4000, 4000)), "WEBP", lossless=lossless)
    assert len(bomb) < 3 * 400 * 300
    with pytest.raises(ProtocolError, match="a picture is WebP 4000 x 4000, expected at most"):
        decode_picture(bomb, (3, 400, 300))


def test_the_size_of_the_pixels_in_an_avif_counts_not_that_of_the_file() -> None:
    bomb = saved(Image.new("RGB", (2000, 2000)), "AVIF", speed=10)
    bomb = bomb.replace(struct.pack(">II", 2000, 2000), struct.pack(">II", 40, 30))
    assert AvifImageFile(BytesIO(bomb)).size == (40, 30)
    with pytest.raises(ProtocolError, match="a picture is AVIF 2000 x 2000, expected at most 40 x"):
        decode_picture(bomb, SHAPE)


def test_an_avif_that_this_pillow_cannot_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    (part,) = encode_picture(smooth(), PictureCodec.parse("avif50"))
    monkeypatch.setattr(features, "check", lambda name: name != "avif")
    with pytest.raises(ProtocolError, match="Pillow was built without AVIF"):
        decode_picture(part, SHAPE)


def test_a_text_that_unpacks_to_much_is_refused() -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("comment", "a" * 500_000, zip=True)
    with pytest.raises(ProtocolError, match="more than pixels"):
        decode_picture(saved(Image.new("RGB", (40, 30)), "PNG", pnginfo=texts), SHAPE)


@pytest.mark.parametrize("name", ["png", "jpeg90", "webp", "webp90", "avif50", "webp75@50"])
@given(data=st.data())
def test_damage_is_a_protocol_error_or_another_picture(name: str, data: st.DataObject) -> None:
    (part,) = encode_picture(smooth(), PictureCodec.parse(name))
    damaged = bytearray(part)
    for _ in range(data.draw(st.integers(0, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    del damaged[data.draw(st.just(len(damaged)) | st.integers(0, len(damaged))) :]
    try:
        picture = decode_picture(bytes(damaged), SHAPE)
    except ProtocolError:
        return
    assert picture.shape == SHAPE
    assert picture.dtype == np.uint8


@given(st.data())
def test_a_damaged_png_with_right_checksums_is_no_different(data: st.DataObject) -> None:
    header = bytearray(struct.pack(">IIBBBBB", 40, 30, 8, 2, 0, 0, 0))
    header[data.draw(st.integers(0, 12))] = data.draw(st.integers(0, 255))
    pixels = bytearray(zlib.compress(bytes(30 * 121)))
    pixels[data.draw(st.integers(0, len(pixels) - 1))] = data.draw(st.integers(0, 255))
    file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", bytes(header)) + chunk(b"IDAT", bytes(pixels))
    try:
        picture = decode_picture(file + chunk(b"IEND", b""), SHAPE)
    except ProtocolError:
        return
    assert picture.shape == SHAPE
