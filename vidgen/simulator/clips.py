"""
Playable clips for the simulators: the prompt in the picture, a bar that moves, a tone that beeps.

A picture is drawn once a second with Pillow; between two of them only the rows of the bar change,
straight in the luma plane, so that a clip costs little more than its encoding (8 s of 1280x720 at
24 frames a second: 0.5 s on one core, 2 s of 640x360: 60 ms).
"""

import math
import tempfile
import textwrap
from array import array
from collections import OrderedDict
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from av.container import OutputContainer
    from PIL.Image import Image

FPS = 24
CACHE_LIMIT_BYTES = 64 * 1024 * 1024  # some fifty clips of 8 s in 720p
PICTURES_KEPT = 16
_SAMPLE_RATE = 48_000
_TONE_PERIOD = 120  # samples: 400 Hz, and a whole number of periods in every frame of sound
_BACKGROUND = (17, 22, 35)
_INK = (236, 240, 248)
_FAINT = (130, 144, 168)
_BAR_LUMA = 200
_TRACK_LUMA = 44
_ZEROES = bytes(256 * 1024)

Key = tuple[str, int, int, int, bool, str]


class _Shelf:
    """The clips rendered last, at most so many bytes of them."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._clips: OrderedDict[Key, bytes] = OrderedDict()

    def get(self, key: Key) -> bytes | None:
        clip = self._clips.get(key)
        if clip is not None:
            self._clips.move_to_end(key)
        return clip

    def put(self, key: Key, clip: bytes) -> None:
        self._clips[key] = clip
        while sum(map(len, self._clips.values())) > self._limit_bytes and len(self._clips) > 1:
            self._clips.popitem(last=False)


_SHELF = _Shelf(CACHE_LIMIT_BYTES)
# One at a time: no clip is made twice, and the other cores stay with those who wait for it.
_RENDERING = Lock()


def render(
    prompt: str,
    *,
    seconds: int,
    width: int,
    height: int,
    audio: bool,
    label: str = "vidgen simulator",
) -> bytes:
    """
    An MP4 (H.264, with AAC if *audio*) of this length and size that shows *prompt*.

    Blocks for the time of encoding: in a coroutine call it by `asyncio.to_thread`. The same
    arguments give the same clip again from a bounded cache.

    Raises:
        ImportError: PyAV or Pillow is not installed; the message tells how to get them.
    """
    key = (prompt, seconds, width, height, audio, label)
    with _RENDERING:
        clip = _SHELF.get(key)
        if clip is None:
            clip = _render(prompt, seconds, width, height, audio=audio, label=label)
            _SHELF.put(key, clip)
        return clip


def padded(data: bytes, size_bytes: int) -> bytes:
    """
    The clip *data* grown to exactly *size_bytes* by a `free` box at its end: the same clip, larger.

    Raises:
        ValueError: The size is neither that of *data* nor at least 8 bytes more, or passes 4 GiB.
    """
    return b"".join(padded_pieces(data, size_bytes))


def padded_pieces(data: bytes, size_bytes: int) -> Iterator[bytes]:
    """What `padded` gives, in pieces of at most 256 KiB, so that gigabytes need no memory."""
    missing = size_bytes - len(data)
    if missing and not 8 <= missing < 2**32:
        raise ValueError(f"a clip of {len(data)} bytes cannot be padded to {size_bytes}")
    for start in range(0, len(data), len(_ZEROES)):
        yield data[start : start + len(_ZEROES)]
    if not missing:
        return
    yield missing.to_bytes(4, "big") + b"free"
    left = missing - 8
    while left > 0:
        yield _ZEROES[:left]
        left -= len(_ZEROES)


@lru_cache(PICTURES_KEPT)
def thumbnail(clip: bytes) -> bytes:
    """The first picture of *clip* as WebP, 320 pixels wide at most."""
    first = next(_pictures(clip, count=1))
    first.thumbnail((320, 320))
    return _encoded(first, "WEBP")


@lru_cache(PICTURES_KEPT)
def spritesheet(clip: bytes, *, columns: int = 5, rows: int = 2) -> bytes:
    """Pictures spread over *clip*, row by row in one JPEG."""
    image_module = _need("PIL.Image")
    tiles = list(_pictures(clip, count=columns * rows))
    for tile in tiles:
        tile.thumbnail((160, 160))
    width, height = tiles[0].size
    sheet: Image = image_module.new("RGB", (width * columns, height * rows), _BACKGROUND)
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % columns * width, number // columns * height))
    return _encoded(sheet, "JPEG")


def even(pixels: float) -> int:
    """The nearest even number of pixels: no encoder takes odd ones."""
    return 2 * round(pixels / 2)


def image_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a picture file, None if it is no picture."""
    image_module = _need("PIL.Image")
    try:
        with image_module.open(BytesIO(data)) as image:
            width, height = image.size
            return int(width), int(height)
    except OSError:  # Pillow's own "cannot identify image file" is one
        return None


def _need(name: str) -> ModuleType:
    """The module *name* of an optional extra, loaded when first used."""
    # ModuleType by importlib and not `import av`: both libraries cost 50 MB that nobody who only
    # scripts refusals should pay.
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(
            'rendering clips needs PyAV and Pillow: pip install "vidgen[embedded]"'
        ) from error


def _render(
    prompt: str, seconds: int, width: int, height: int, *, audio: bool, label: str
) -> bytes:
    av = _need("av")
    # A file and not a BytesIO: `faststart` makes FFmpeg open its own output once more, by name.
    with tempfile.TemporaryDirectory(prefix="vidgen-clip-") as folder:
        path = Path(folder) / "clip.mp4"
        with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            _encode(container, prompt, seconds, width, height, audio=audio, label=label)
        return path.read_bytes()


def _encode(
    container: "OutputContainer",
    prompt: str,
    seconds: int,
    width: int,
    height: int,
    *,
    audio: bool,
    label: str,
) -> None:
    video: Any = container.add_stream(
        "libx264", rate=FPS, options={"preset": "ultrafast", "crf": "28"}
    )
    video.width, video.height, video.pix_fmt = width, height, "yuv420p"
    video.codec_context.thread_count = 1  # many clips at once; the machine has other work too
    sound: Any = container.add_stream("aac", rate=_SAMPLE_RATE, layout="mono") if audio else None
    beeps = _beeps(seconds) if audio else iter(())
    count = seconds * FPS
    for second in range(seconds):
        still = _yuv_planes(_picture(prompt, second, seconds, width, height, label))
        for number in range(second * FPS, (second + 1) * FPS):
            frame = _moving(still, width, height, number / max(count - 1, 1))
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(video.encode(frame))
        # Sound after each second of pictures, so that the two lie side by side in the file.
        for _, beep in zip(range(_SAMPLE_RATE // 960), beeps, strict=False):
            container.mux(sound.encode(beep))
    container.mux(video.encode(None))
    if sound is not None:
        container.mux(sound.encode(None))


def _picture(
    prompt: str, second: int, seconds: int, width: int, height: int, label: str
) -> "Image":
    """The still of one second: label, size, counter, and the prompt wrapped to the picture."""
    image_module, draw_module, font_module = map(
        _need, ("PIL.Image", "PIL.ImageDraw", "PIL.ImageFont")
    )
    image: Image = image_module.new("RGB", (width, height), _BACKGROUND)
    draw = draw_module.Draw(image)
    margin = max(width, height) // 32
    large, small = max(min(width, height) // 16, 10), max(min(width, height) // 32, 8)
    columns = max(int((width - 2 * margin) / (large * 0.55)), 8)
    lines = max(int(height * 0.6 / (large * 1.25)), 1)
    text = "\n".join(textwrap.wrap(prompt, columns, max_lines=lines, placeholder=" …"))
    draw.text((margin, margin), label, fill=_FAINT, font=font_module.load_default(size=small))
    draw.text(
        (margin, margin + 2.2 * small), text, fill=_INK, font=font_module.load_default(size=large)
    )
    draw.text(
        (margin, height - margin - 2 * small),
        f"{width}x{height}   {second + 1} / {seconds} s",
        fill=_FAINT,
        font=font_module.load_default(size=small),
    )
    return image


def _yuv_planes(image: "Image") -> list[bytes]:
    frame = _need("av").VideoFrame.from_image(image).reformat(format="yuv420p")
    return [bytes(plane) for plane in frame.planes]


def _moving(still: list[bytes], width: int, height: int, share: float) -> Any:
    """The still with the bar at *share* (0 to 1) of its way along the lower edge."""
    frame = _need("av").VideoFrame(width, height, "yuv420p")
    luma, *chroma = frame.planes
    stride = luma.line_size
    thickness = max(height // 36, 2)
    top = height - max(height // 18, thickness)
    bar, start = max(width // 6, 2), round(share * (width - max(width // 6, 2)))
    row = bytearray(bytes([_TRACK_LUMA]) * width + bytes(stride - width))
    row[start : start + bar] = bytes([_BAR_LUMA]) * bar
    rows = bytes(row) * thickness
    first = still[0]
    luma.update(first[: top * stride] + rows + first[top * stride + len(rows) :])
    for plane, data in zip(chroma, still[1:], strict=True):
        plane.update(data)
    return frame


def _beeps(seconds: int) -> Iterator[Any]:
    """Frames of a soft 400 Hz tone, a fifth of a second at the start of each second."""
    audio_frame = _need("av").AudioFrame
    samples = 960  # eight periods, a fiftieth of a second
    period = [0.15 * math.sin(2 * math.pi * n / _TONE_PERIOD) for n in range(_TONE_PERIOD)]
    loud = array("f", period * (samples // _TONE_PERIOD)).tobytes()
    silent = bytes(len(loud))
    for number in range(seconds * _SAMPLE_RATE // samples):
        frame = audio_frame(format="fltp", layout="mono", samples=samples)
        frame.planes[0].update(loud if number % 50 < 10 else silent)
        frame.sample_rate, frame.pts = _SAMPLE_RATE, number * samples
        frame.time_base = Fraction(1, _SAMPLE_RATE)
        yield frame


def _pictures(clip: bytes, *, count: int) -> Iterator["Image"]:
    """*count* pictures spread evenly over *clip*."""
    with _need("av").open(BytesIO(clip)) as container:
        total = container.streams.video[0].frames
        wanted = {total * number // count for number in range(count)}
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted:
                yield frame.to_image()
            if number >= max(wanted):
                return


def _encoded(image: "Image", kind: Literal["WEBP", "JPEG"]) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()
