"""PyAV, which decodes every frame, judges the clips."""

from io import BytesIO
from itertools import pairwise

import av
import pytest
from PIL import Image

from vidgen.simulator import clips


def a_clip(
    prompt: str = "a teapot in a storm",
    seconds: int = 1,
    width: int = 320,
    height: int = 180,
    audio: bool = True,
) -> bytes:
    return clips.render(prompt, seconds=seconds, width=width, height=height, audio=audio)


def boxes(data: bytes) -> list[tuple[str, int]]:
    """Type and size of the boxes at the top of an MP4."""
    found, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        found.append((data[at + 4 : at + 8].decode("latin-1"), size))
        at += size
    assert at == len(data), "the last box passes the end of the file"
    return found


def pictures(data: bytes) -> list[bytes]:
    """Every frame of a clip as raw RGB."""
    with av.open(BytesIO(data), "r") as container:
        return [
            bytes(frame.reformat(format="rgb24").planes[0]) for frame in container.decode(video=0)
        ]


@pytest.mark.parametrize("size", [(320, 180), (180, 320), (1080, 1920)])
def test_a_clip_has_the_length_and_the_size_it_was_asked_for(size: tuple[int, int]) -> None:
    width, height = size

    data = a_clip(seconds=2, width=width, height=height)

    with av.open(BytesIO(data), "r") as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert container.duration is not None
        assert container.duration / av.time_base == pytest.approx(2, abs=0.05)
        assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
        assert (video.width, video.height) == size
        assert video.frames == 2 * clips.FPS == sum(1 for _ in container.decode(video=0))


def test_a_clip_without_audio_has_one_stream() -> None:
    data = a_clip(audio=False)

    with av.open(BytesIO(data), "r") as container:
        assert [stream.type for stream in container.streams] == ["video"]


def test_the_picture_moves_in_every_frame() -> None:
    frames = pictures(a_clip())

    assert all(before != after for before, after in pairwise(frames))


def test_the_picture_shows_the_prompt() -> None:
    first, other = a_clip(prompt="one"), a_clip(prompt="quite another one")

    assert pictures(first)[0] != pictures(other)[0]


def test_the_index_comes_before_the_media_so_that_players_can_start_at_once() -> None:
    kinds = [kind for kind, _ in boxes(a_clip())]

    assert kinds.index("moov") < kinds.index("mdat")


def test_the_same_arguments_give_the_same_bytes_again() -> None:
    assert a_clip(prompt="again") is a_clip(prompt="again")


def test_a_padded_clip_has_exactly_the_size_asked_for_and_still_plays() -> None:
    data = a_clip()

    large = clips.padded(data, 3_000_000)

    assert len(large) == 3_000_000
    assert large == clips.padded(data, 3_000_000)
    assert boxes(large)[-1] == ("free", 3_000_000 - len(data))
    assert pictures(large) == pictures(data)


@pytest.mark.parametrize("missing", [-1, 1, 7])
def test_a_clip_cannot_be_padded_to_a_size_no_box_fills(missing: int) -> None:
    data = a_clip()

    with pytest.raises(ValueError, match="cannot be padded"):
        clips.padded(data, len(data) + missing)


def test_the_thumbnail_is_a_webp_and_the_spritesheet_a_jpeg() -> None:
    data = a_clip()

    with (
        Image.open(BytesIO(clips.thumbnail(data))) as thumbnail,
        Image.open(BytesIO(clips.spritesheet(data))) as sheet,
    ):
        assert (thumbnail.format, thumbnail.size) == ("WEBP", (320, 180))
        assert (sheet.format, sheet.size) == ("JPEG", (800, 180))
