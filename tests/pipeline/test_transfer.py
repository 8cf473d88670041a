"""What a provider sends is taken up to a length, whatever it says of it."""

from collections.abc import AsyncIterator

import pytest

from vidgen.errors import ResultInvalidError
from vidgen.pipeline.transfer import _capped
from vidgen.providers.protocol import ResultStream


def a_stream(*chunks: bytes, announced: int | None = None) -> ResultStream:
    async def flowing() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    return ResultStream(chunks=flowing(), content_type=None, size_bytes=announced)


async def test_a_result_is_taken_up_to_its_limit() -> None:
    assert [chunk async for chunk in _capped(a_stream(b"12", b"34"), "video", 4)] == [b"12", b"34"]


async def test_a_result_that_says_it_is_too_long_is_not_begun() -> None:
    with pytest.raises(ResultInvalidError, match="the video has more than 4 bytes"):
        await anext(_capped(a_stream(b"1", announced=5), "video", 4))


async def test_a_result_that_does_not_end_is_ended() -> None:
    capped = _capped(a_stream(b"123", b"45"), "video", 4)

    assert await anext(capped) == b"123"
    with pytest.raises(ResultInvalidError, match="the video has more than 4 bytes"):
        await anext(capped)
