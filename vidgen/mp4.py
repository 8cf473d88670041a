"""
Tell a whole video from everything else while its bytes flow by, without holding them.

An MP4 or QuickTime file is a row of boxes, each headed by its length and a four-letter type:

    ftyp  moov(index)  mdat(pictures and sound)              the usual file, index first or last
    ftyp  moov(mvex)  moof  mdat  moof  mdat  …              a fragmented one

Media is skipped by counting; only the indexes (`moov`, `moof`) are kept for a moment and read.
Every byte is hostile: sizes are bounded, and a bad file raises `ResultInvalidError`, nothing else.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from vidgen.errors import ResultInvalidError

# An index holds some 20 bytes per frame: 32 MiB is hours of video.
MAX_INDEX_BYTES = 32 << 20
# A box of eight bytes costs about 1 µs to walk, so this many cost less than a second.
MAX_BOXES = 200_000

_INDEXES = frozenset({b"moov", b"moof"})
_UNKNOWN_32 = 0xFFFF_FFFF
_UNKNOWN_64 = 0xFFFF_FFFF_FFFF_FFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Mp4Facts:
    """
    What the file says about itself; None where it does not say.

    Attributes:
        width: Pixels of the largest video track as it is shown, so after rotation.
    """

    duration_s: float | None
    width: int | None
    height: int | None


@dataclass(slots=True, kw_only=True)
class _Track:
    """What is learned about one track while boxes are read."""

    timescale: int = 0
    is_video: bool = False
    width: int = 0
    height: int = 0
    default_ticks: int = 0  # per frame, where a fragment does not say
    fragment_ticks: int = 0


class Mp4Inspector:
    """Reads a video as it flows by: `feed` every chunk in order, then `finish`."""

    def __init__(self) -> None:
        """Expect the first byte of a file."""
        self._head = bytearray()  # of the box whose header is not complete yet
        self._type = b""
        self._left: int | None = 0  # of the current box's body; None: it goes on to the end
        self._index: bytearray | None = None
        self._boxes = 0
        self._media_bytes = 0
        self._movie: _Movie | None = None

    def feed(self, chunk: bytes | bytearray | memoryview) -> None:
        """
        Take the next bytes.

        Raises:
            ResultInvalidError: This is no MP4, or a damaged one; more bytes cannot mend it.
        """
        rest = memoryview(chunk)
        while rest:
            if self._left == 0:
                taken = self._take_header(rest)
            else:
                taken = len(rest) if self._left is None else min(len(rest), self._left)
                self._take_body(rest[:taken])
            rest = rest[taken:]

    def finish(self) -> Mp4Facts:
        """
        What the file says, once its last byte was fed.

        Raises:
            ResultInvalidError: The file is empty, cut, or lacks its index or its media.
        """
        if not self._boxes:
            raise ResultInvalidError(f"Wanted an MP4 video, got {_describe(bytes(self._head))}.")
        if self._left is None:
            self._close_box()
        if self._head or self._left:
            raise ResultInvalidError("The video is cut: its last part is not complete.")
        if self._movie is None:
            raise ResultInvalidError("The video is cut or damaged: it has no index (moov).")
        if not self._media_bytes:
            raise ResultInvalidError("The video is cut or damaged: it holds no media (mdat).")
        return self._movie.facts()

    def _take_header(self, rest: memoryview) -> int:
        """Read the header of the next box, or as much of it as is there; how many bytes it took."""
        wanted = 16 if len(self._head) >= 8 and self._head[:4] == b"\0\0\0\1" else 8
        taken = min(wanted - len(self._head), len(rest))
        self._head += rest[:taken]
        if len(self._head) < wanted:
            return taken
        size, kind = struct.unpack_from(">I4s", self._head)
        if not self._boxes and kind not in {b"ftyp", b"styp"}:
            # The rest of this chunk only serves to name what came.
            came = bytes(self._head) + bytes(rest[taken : taken + 64])
            raise ResultInvalidError(f"Wanted an MP4 video, got {_describe(came)}.")
        if size == 1:
            if wanted == 8:
                return taken
            (size,) = struct.unpack_from(">Q", self._head, 8)
        self._open_box(kind, size, header=wanted)
        return taken

    def _open_box(self, kind: bytes, size: int, *, header: int) -> None:
        self._boxes += 1
        if self._boxes > MAX_BOXES:
            raise ResultInvalidError(f"The video is damaged: more than {MAX_BOXES} parts.")
        if size and size < header:
            raise ResultInvalidError("The video is damaged: a part is shorter than its header.")
        self._head.clear()
        self._type = kind
        self._left = size - header if size else None
        if kind in _INDEXES:
            if size > MAX_INDEX_BYTES:
                raise ResultInvalidError(f"The video's index is over {MAX_INDEX_BYTES} bytes.")
            self._index = bytearray()
        if self._left == 0:
            self._close_box()

    def _take_body(self, body: memoryview) -> None:
        if self._index is not None:
            self._index += body
            if len(self._index) > MAX_INDEX_BYTES:
                raise ResultInvalidError(f"The video's index is over {MAX_INDEX_BYTES} bytes.")
        elif self._type == b"mdat":
            self._media_bytes += len(body)
        if self._left is not None:
            self._left -= len(body)
            if not self._left:
                self._close_box()

    def _close_box(self) -> None:
        self._left = 0
        if self._index is None:
            return
        index, self._index = memoryview(self._index).toreadonly(), None
        try:
            if self._type == b"moov":
                self._movie = _Movie(index)
            elif self._movie is not None:
                self._movie.add_fragment(index)
        except (struct.error, IndexError) as error:
            raise ResultInvalidError("The video is damaged: its index cannot be read.") from error


class _Movie:
    """The index of a file: what `moov` says, and what the fragments add to it."""

    def __init__(self, moov: memoryview) -> None:
        """Read the body of `moov`."""
        self._timescale = 0
        self._ticks = 0
        self._tracks: dict[int, _Track] = {}
        found = False
        for kind, box in _boxes(moov):
            if kind == b"mvhd":
                found = True
                self._timescale, self._ticks = _scale_and_duration(box)
            elif kind == b"trak":
                self._add_track(box)
            elif kind == b"mvex":
                self._read_extension(box)
        if not found:
            raise ResultInvalidError("The video is damaged: its index has no header (mvhd).")

    def facts(self) -> Mp4Facts:
        """Duration and picture size."""
        shown = [track for track in self._tracks.values() if track.is_video and track.width]
        largest = max(shown, key=lambda track: track.width * track.height, default=_Track())
        return Mp4Facts(
            duration_s=self._duration_s(),
            width=largest.width or None,
            height=largest.height or None,
        )

    def add_fragment(self, moof: memoryview) -> None:
        """Count the time that one fragment adds."""
        for kind, traf in _boxes(moof):
            if kind != b"traf":
                continue
            track, ticks = _Track(), 0
            for inner, box in _boxes(traf):
                if inner == b"tfhd":
                    track = self._track(struct.unpack_from(">I", box, 4)[0])
                    ticks = _default_ticks(box, track.default_ticks)
                elif inner == b"trun":
                    track.fragment_ticks += _run_ticks(box, ticks)

    def _duration_s(self) -> float | None:
        if self._timescale and self._ticks:
            return self._ticks / self._timescale
        return (
            max(
                (t.fragment_ticks / t.timescale for t in self._tracks.values() if t.timescale),
                default=None,
            )
            or None
        )

    def _track(self, track_id: int) -> _Track:
        return self._tracks.setdefault(track_id, _Track())

    def _add_track(self, trak: memoryview) -> None:
        boxes = dict(_boxes(trak))
        if b"tkhd" not in boxes:
            return
        header = boxes[b"tkhd"]
        wide = _version(header) == 1
        track = self._track(struct.unpack_from(">I", header, 20 if wide else 12)[0])
        media = dict(_boxes(boxes.get(b"mdia", memoryview(b""))))
        if b"hdlr" in media:
            track.is_video = bytes(media[b"hdlr"][8:12]) == b"vide"
        if b"mdhd" in media:
            track.timescale, _ = _scale_and_duration(media[b"mdhd"])
        start = 52 if wide else 40
        matrix = struct.unpack_from(">9i", header, start)
        width, height = (side >> 16 for side in struct.unpack_from(">2I", header, start + 36))
        upright = bool(matrix[0] or matrix[4]) or not (matrix[1] or matrix[3])
        track.width, track.height = (width, height) if upright else (height, width)

    def _read_extension(self, mvex: memoryview) -> None:
        for kind, box in _boxes(mvex):
            if kind == b"mehd":
                # The header of a fragmented movie counts only what is not in fragments: nothing.
                (ticks,) = struct.unpack_from(">Q" if _version(box) == 1 else ">I", box, 4)
                self._ticks = max(self._ticks, ticks)
            elif kind == b"trex":
                track_id, _, ticks = struct.unpack_from(">3I", box, 4)
                self._track(track_id).default_ticks = ticks


def _boxes(body: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Type and body of each box inside *body*."""
    at = count = 0
    while at + 8 <= len(body):
        size, kind = struct.unpack_from(">I4s", body, at)
        header = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", body, at + 8)
            header = 16
        end = at + size if size else len(body)
        count += 1
        if end > len(body) or end < at + header or count > MAX_BOXES:
            raise ResultInvalidError("The video is damaged: a part of its index does not fit.")
        yield kind, body[at + header : end]
        at = end


def _version(box: memoryview) -> int:
    return box[0]


def _scale_and_duration(box: memoryview) -> tuple[int, int]:
    """Ticks per second and length in ticks of an `mvhd` or `mdhd`; zero means unknown."""
    if _version(box) == 1:
        scale, ticks = struct.unpack_from(">IQ", box, 20)
        return scale, 0 if ticks == _UNKNOWN_64 else ticks
    scale, ticks = struct.unpack_from(">II", box, 12)
    return scale, 0 if ticks == _UNKNOWN_32 else ticks


def _default_ticks(tfhd: memoryview, otherwise: int) -> int:
    """How long a frame of this fragment lasts unless its run says more."""
    flags = int.from_bytes(tfhd[1:4], "big")
    if not flags & 0x8:
        return otherwise
    at = 8 + (8 if flags & 0x1 else 0) + (4 if flags & 0x2 else 0)
    return int(struct.unpack_from(">I", tfhd, at)[0])


def _run_ticks(trun: memoryview, default_ticks: int) -> int:
    """How long all frames of one run last."""
    flags = int.from_bytes(trun[1:4], "big")
    (frames,) = struct.unpack_from(">I", trun, 4)
    if not flags & 0x100:
        return int(frames) * default_ticks
    at = 8 + (4 if flags & 0x1 else 0) + (4 if flags & 0x4 else 0)
    fields = (flags >> 8 & 0xF).bit_count()
    if at + frames * fields * 4 > len(trun):
        raise ResultInvalidError("The video is damaged: a fragment lists frames it does not hold.")
    return sum(struct.unpack_from(f">{frames * fields}I", trun, at)[::fields])


def _describe(start: bytes) -> str:
    """A word for what came instead; never the bytes themselves, which may hold anything."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        return "an empty body"
    if text.startswith((b"<!doct", b"<html", b"<head", b"<body")):
        return "an HTML page"
    if text.startswith(b"<"):
        return "an XML document"
    if text.startswith((b"{", b"[")):
        return "JSON"
    for magic, name in (
        (b"\x1a\x45\xdf\xa3", "a WebM or Matroska video"),
        (b"\x89PNG", "a PNG image"),
        (b"\xff\xd8\xff", "a JPEG image"),
        (b"GIF8", "a GIF image"),
        (b"RIFF", "a RIFF file (WebP, AVI or WAV)"),
        (b"\x1f\x8b", "a gzip archive"),
        (b"PK\x03\x04", "a ZIP archive"),
    ):
        if start.startswith(magic):
            return name
    return "plain text" if start.isascii() and b"\0" not in start else "unknown bytes"
