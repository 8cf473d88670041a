"""The scanner that reads past a video inside JSON, however the bytes are cut."""

import base64
from collections.abc import AsyncIterator

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidgen.errors import ProtocolError, ResultInvalidError
from vidgen.providers.inline import ELIDED, InlineScanner, decoded, shrink

VIDEO = bytes(range(256)) * 400


async def cut(data: bytes, size: int) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def joined(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


def an_answer(*videos: bytes) -> bytes:
    items = [
        {"bytesBase64Encoded": base64.b64encode(video).decode(), "mimeType": "video/mp4"}
        for video in videos
    ]
    return orjson.dumps({"name": 'a "bytesBase64Encoded": name', "response": {"videos": items}})


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000, 10**9])
async def test_a_video_comes_out_as_it_went_in(size: int) -> None:
    assert await joined(decoded(cut(an_answer(VIDEO), size))) == VIDEO


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
async def test_every_padding_is_understood(length: int) -> None:
    assert await joined(decoded(cut(an_answer(VIDEO[:length]), 3))) == VIDEO[:length]


async def test_the_wanted_video_is_taken_among_several() -> None:
    answer = an_answer(b"first", VIDEO, b"third")

    assert await joined(decoded(cut(answer, 100), 1)) == VIDEO


async def test_escaped_slashes_and_paddings_are_base64_too() -> None:
    text = base64.b64encode(b"\xff\xff\xfe" * 50 + b"x").decode()
    escaped = text.replace("/", "\\/").replace("=", "\\u003d")
    answer = f'{{"bytesBase64Encoded" : "{escaped}"}}'.encode()

    for size in (1, 2, 5, 1000):
        assert await joined(decoded(cut(answer, size))) == b"\xff\xff\xfe" * 50 + b"x"


@pytest.mark.parametrize("size", [1, 999, 10**9])
async def test_what_is_left_is_the_same_json_without_the_video(size: int) -> None:
    small = orjson.loads(await shrink(cut(an_answer(VIDEO), size)))

    assert small["name"] == 'a "bytesBase64Encoded": name'
    assert small["response"]["videos"] == [
        {"bytesBase64Encoded": ELIDED.decode(), "mimeType": "video/mp4"}
    ]


@pytest.mark.parametrize(
    "answer",
    [b"", b"{}", b'{"bytesBase64Encoded": "QUJD', b'{"bytesBase64Encoded": "Q*JD"}', b'{"a": "b"'],
)
async def test_no_whole_video_is_no_result(answer: bytes) -> None:
    with pytest.raises(ResultInvalidError):
        await joined(decoded(cut(answer, 4)))


async def test_text_after_the_padding_is_no_base64() -> None:
    with pytest.raises(ResultInvalidError):
        await joined(decoded(cut(b'{"bytesBase64Encoded": "QQ==QUJD"}', 1000)))


async def test_a_flood_of_short_texts_is_not_kept() -> None:
    flood = b"[" + b'"abcdefgh",' * 200_000

    with pytest.raises(ProtocolError):
        await shrink(cut(flood, 65536))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=20,
)


@given(value=json_values, size=st.integers(1, 40))
def test_json_without_long_texts_passes_through_untouched(value: object, size: int) -> None:
    text = orjson.dumps(value)
    scanner = InlineScanner()

    for at in range(0, len(text), size):
        list(scanner.feed(text[at : at + size]))

    assert bytes(scanner.small) == text
