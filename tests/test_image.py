"""Images are told by their bytes; everything else is refused with a sentence."""

from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vidgen.errors import InvalidRequestError
from vidgen.image import MAX_IMAGE_BYTES, recognise


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
