"""What an input image is, read from its own bytes: never from a name somebody sent. Pure."""

from dataclasses import dataclass

from vidgen.errors import InvalidRequestError

MAX_IMAGE_BYTES = 20 * 1024 * 1024
# What decoders would have to unpack: 8192 × 8192, or 256 MiB of RGBA. The largest video has 8 MP.
MAX_PIXELS = 8192 * 8192

# Start-of-frame markers carry the size. C4, C8 and CC look alike but are tables and extensions.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a length


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """What a provider must be told about an image; width and height in pixels."""

    content_type: str
    width: int
    height: int


def recognise(data: bytes) -> ImageFacts:
    """
    Tell the type and size of a PNG, JPEG or WebP file of at most 20 MiB and 67 megapixels.

    Raises:
        InvalidRequestError: Empty, too big, cut off, or another kind of file.
    """
    if not data:
        raise InvalidRequestError("The image is empty; wanted a PNG, JPEG or WebP file.")
    if len(data) > MAX_IMAGE_BYTES:
        raise InvalidRequestError(
            f"The image has {len(data)} bytes; at most {MAX_IMAGE_BYTES} (20 MiB) are allowed."
        )
    facts = _of_type(data)
    if facts.width == 0 or facts.height == 0:
        raise _broken(facts.content_type)
    if facts.width * facts.height > MAX_PIXELS:
        raise InvalidRequestError(
            f"The image has {facts.width} × {facts.height} pixels; at most {MAX_PIXELS} are"
            " allowed."
        )
    return facts


def _of_type(data: bytes) -> ImageFacts:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png(data)
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    raise InvalidRequestError("The image is no PNG, JPEG or WebP file.")


def _broken(content_type: str) -> InvalidRequestError:
    return InvalidRequestError(f"The image begins as {content_type} but is cut off or damaged.")


def _png(data: bytes) -> ImageFacts:
    if data[8:16] != b"\x00\x00\x00\rIHDR" or data.rfind(b"IEND") < 33:
        raise _broken("image/png")
    return ImageFacts(
        content_type="image/png",
        width=int.from_bytes(data[16:20], "big"),
        height=int.from_bytes(data[20:24], "big"),
    )


def _jpeg(data: bytes) -> ImageFacts:
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in _JPEG_BARE:
            at += 2
        elif marker in _JPEG_FRAMES and data.rfind(b"\xff\xd9") > at:
            return ImageFacts(
                content_type="image/jpeg",
                height=int.from_bytes(data[at + 5 : at + 7], "big"),
                width=int.from_bytes(data[at + 7 : at + 9], "big"),
            )
        else:
            # A length below 2 would stand still or run backwards: hostile bytes must not loop.
            at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
    raise _broken("image/jpeg")


def _webp(data: bytes) -> ImageFacts:
    if len(data) < 30 or int.from_bytes(data[4:8], "little") + 8 > len(data):
        raise _broken("image/webp")
    match data[12:16]:
        case b"VP8X":
            width = int.from_bytes(data[24:27], "little") + 1
            height = int.from_bytes(data[27:30], "little") + 1
        case b"VP8L" if data[20] == 0x2F:
            bits = int.from_bytes(data[21:25], "little")
            width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 " if data[23:26] == b"\x9d\x01\x2a":
            width = int.from_bytes(data[26:28], "little") & 0x3FFF
            height = int.from_bytes(data[28:30], "little") & 0x3FFF
        case _:
            raise _broken("image/webp")
    return ImageFacts(content_type="image/webp", width=width, height=height)
