"""Images are told by their bytes; everything else is refused with a sentence."""

import struct
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vidgen.errors import InvalidRequestError
from vidgen.image import MAX_IMAGE_BYTES, MAX_PIXELS, recognise


def an_image(kind: str, size: tuple[int, int] = (321, 123), **options: Any) -> bytes:
    buffer = BytesIO()
    mode = "RGBA" if options.pop("alpha", False) else "RGB"
    Image.new(mode, size, "teal").save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        (an_image("PNG"), "image/png"),
        (an_image("JPEG"), "image/jpeg"),
        (an_image("JPEG", progressive=True), "image/jpeg"),
        (an_image("WEBP"), "image/webp"),
        (an_image("WEBP", lossless=True), "image/webp"),
        (an_image("WEBP", alpha=True, exif=b"Exif\0\0MM"), "image/webp"),
    ],
)
def test_an_image_tells_its_type_and_size(data: bytes, content_type: str) -> None:
    facts = recognise(data)

    assert (facts.content_type, facts.width, facts.height) == (content_type, 321, 123)


def test_a_jpeg_with_a_long_header_is_read_past_it() -> None:
    facts = recognise(an_image("JPEG", exif=b"Exif\0\0" + b"\xff\xc0" * 20_000))

    assert (facts.width, facts.height) == (321, 123)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_a_cut_image_is_refused(kind: str, share: float) -> None:
    data = an_image(kind, (640, 640))

    with pytest.raises(InvalidRequestError):
        recognise(data[: int(len(data) * share)])


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "empty"),
        (b"GIF89a" + b"\0" * 50, "no PNG, JPEG or WebP"),
        (b"<html>", "no PNG, JPEG or WebP"),
        (b"\x89PNG\r\n\x1a\n", "cut off or damaged"),
        (b"\xff\xd8\xff\xe0\0\0" * 10, "cut off or damaged"),
        (b"\0" * (MAX_IMAGE_BYTES + 1), "20 MiB"),
    ],
)
def test_anything_else_is_refused_with_a_reason(data: bytes, sentence: str) -> None:
    with pytest.raises(InvalidRequestError, match=sentence):
        recognise(data)


def a_bomb(kind: str, width: int, height: int) -> bytes:
    """A small file that says of itself how many pixels it unpacks to."""
    if kind == "PNG":
        data = bytearray(an_image("PNG"))
        data[16:24] = struct.pack(">2I", width, height)
    elif kind == "JPEG":
        data = bytearray(an_image("JPEG"))
        at = data.index(b"\xff\xc0")
        data[at + 5 : at + 9] = struct.pack(">2H", height, width)
    else:
        data = bytearray(an_image("WEBP", alpha=True, exif=b"Exif\0\0MM"))
        data[24:30] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_an_image_that_would_fill_the_memory_of_who_unpacks_it_is_refused(kind: str) -> None:
    with pytest.raises(InvalidRequestError, match="60000 × 60000 pixels"):
        recognise(a_bomb(kind, 60_000, 60_000))
    with pytest.raises(InvalidRequestError, match="pixels"):
        recognise(a_bomb(kind, 8192, 8193))

    assert recognise(a_bomb(kind, 8192, 8192)).width ** 2 == MAX_PIXELS


@given(
    start=st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBPVP8L", b""]),
    rest=st.binary(max_size=200),
)
def test_hostile_bytes_never_do_more_than_be_refused(start: bytes, rest: bytes) -> None:
    try:
        facts = recognise(start + rest)
    except InvalidRequestError:
        return
    assert facts.width > 0
    assert facts.height > 0
