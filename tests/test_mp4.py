"""vidgen.mp4: whole videos are told from cut ones and from everything else."""

import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidgen.errors import ResultInvalidError
from vidgen.mp4 import MAX_INDEX_BYTES, Mp4Facts, Mp4Inspector

UPRIGHT = (0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
TURNED = (0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000)


def box(kind: bytes, *bodies: bytes) -> bytes:
    body = b"".join(bodies)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def long_box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4sQ", 1, kind, 16 + len(body)) + body


def mvhd(*, ticks: int = 8000, version: int = 0) -> bytes:
    if version:
        return box(b"mvhd", struct.pack(">I QQ I Q", version << 24, 0, 0, 1000, ticks), bytes(80))
    return box(b"mvhd", struct.pack(">5I", 0, 0, 0, 1000, ticks), bytes(80))


def trak(*, kind: bytes = b"vide", matrix: tuple[int, ...] = UPRIGHT, version: int = 0) -> bytes:
    head = struct.pack(">I QQ I I Q", version << 24, 0, 0, 1, 0, 8000)
    if not version:
        head = struct.pack(">6I", 0, 0, 0, 1, 0, 8000)
    tkhd = box(b"tkhd", head, bytes(16), struct.pack(">9i2I", *matrix, 1280 << 16, 720 << 16))
    mdhd = box(b"mdhd", struct.pack(">5I", 0, 0, 0, 12800, 0), bytes(4))
    hdlr = box(b"hdlr", bytes(8), kind, bytes(13))
    return box(b"trak", tkhd, box(b"mdia", mdhd, hdlr))


FTYP = box(b"ftyp", b"isom\0\0\2\0isomiso2mp41")


def a_video(media_bytes: int = 1000, *, moov: bytes | None = None) -> bytes:
    """A small whole file with the index first and *media_bytes* of media."""
    index = box(b"moov", mvhd(), trak()) if moov is None else moov
    return FTYP + index + box(b"mdat", b"\x5a" * media_bytes)


def inspect(data: bytes, *, step: int = 1 << 16) -> Mp4Facts:
    inspector = Mp4Inspector()
    for at in range(0, len(data), step):
        inspector.feed(data[at : at + step])
    return inspector.finish()


def a_real_clip(path: Path, options: dict[str, str]) -> bytes:
    av = pytest.importorskip("av", reason="PyAV is in the extra `embedded`")
    with av.open(str(path), "w", format="mp4", options=options) as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
        for _ in range(48):
            container.mux(stream.encode(av.VideoFrame(320, 180, "yuv420p")))
        container.mux(stream.encode())
    return path.read_bytes()


@pytest.mark.parametrize("step", [1, 3, 17, 4096])
def test_the_facts_do_not_depend_on_how_the_file_is_cut_into_chunks(step: int) -> None:
    assert inspect(a_video(), step=step) == Mp4Facts(duration_s=8.0, width=1280, height=720)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"movflags": "faststart"},
        {"movflags": "frag_keyframe+empty_moov+default_base_moof"},
        {"movflags": "frag_keyframe+empty_moov"},
    ],
    ids=lambda options: options.get("movflags", "plain"),
)
def test_a_real_clip_tells_its_length_and_size(tmp_path: Path, options: dict[str, str]) -> None:
    facts = inspect(a_real_clip(tmp_path / "clip.mp4", options))

    assert (facts.width, facts.height) == (320, 180)
    assert facts.duration_s == pytest.approx(2.0, abs=0.1)


def test_a_file_cut_anywhere_is_refused() -> None:
    whole = a_video(64)

    for end in range(len(whole)):
        with pytest.raises(ResultInvalidError):
            inspect(whole[:end])


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "an empty body"),
        (b"<!DOCTYPE html><html></html>", "an HTML page"),
        (b"\n  <html>", "an HTML page"),
        (b'<?xml version="1.0"?><Error/>', "an XML document"),
        (b'{"error": {"code": 404}}', "JSON"),
        (b"\x89PNG\r\n\x1a\n" + bytes(20), "a PNG image"),
        (b"\x1a\x45\xdf\xa3" + bytes(20), "a WebM"),
        (b"Not found, sorry", "plain text"),
        (b"oops", "plain text"),
        (bytes(range(200, 256)), "unknown bytes"),
    ],
)
def test_what_came_instead_of_a_video_is_named(data: bytes, word: str) -> None:
    with pytest.raises(ResultInvalidError, match=word):
        inspect(data)


def test_a_web_page_is_refused_with_its_first_bytes() -> None:
    inspector = Mp4Inspector()

    with pytest.raises(ResultInvalidError, match="HTML"):
        inspector.feed(b"<!DOCTYPE html>")


@pytest.mark.parametrize(
    "data",
    [
        FTYP,
        FTYP + box(b"moov", mvhd(), trak()),
        FTYP + box(b"mdat", bytes(100)),
        FTYP + box(b"moov", mvhd()) + box(b"mdat"),
        FTYP + box(b"moov") + box(b"mdat", bytes(9)),
        FTYP + struct.pack(">I4s", 4, b"free"),
        FTYP + box(b"moov", mvhd(), struct.pack(">I4s", 99, b"trak")) + box(b"mdat", bytes(9)),
        FTYP + box(b"moov", box(b"mvhd", b"\0")) + box(b"mdat", bytes(9)),
        FTYP + struct.pack(">I4s", MAX_INDEX_BYTES + 1, b"moov"),
        FTYP + box(b"free") * 300_000,
    ],
    ids=[
        "only ftyp",
        "no media",
        "no index",
        "empty media",
        "no mvhd",
        "box of 4 bytes",
        "child past the end",
        "short mvhd",
        "huge index",
        "endless small boxes",
    ],
)
def test_a_damaged_file_is_refused(data: bytes) -> None:
    with pytest.raises(ResultInvalidError):
        inspect(data)


def test_long_sizes_and_an_open_end_are_read() -> None:
    index = box(b"moov", mvhd(version=1), trak(version=1))

    long = FTYP + index + long_box(b"mdat", bytes(500))
    open_end = FTYP + index + struct.pack(">I4s", 0, b"mdat") + bytes(500)

    assert inspect(long, step=5) == inspect(open_end, step=5) == inspect(a_video())


def test_a_clip_on_its_side_tells_the_size_that_is_shown() -> None:
    facts = inspect(a_video(moov=box(b"moov", mvhd(), trak(matrix=TURNED))))

    assert (facts.width, facts.height) == (720, 1280)


def test_sound_alone_has_no_size() -> None:
    facts = inspect(a_video(moov=box(b"moov", mvhd(ticks=0), trak(kind=b"soun"))))

    assert facts == Mp4Facts(duration_s=None, width=None, height=None)


def test_a_fragmented_clip_counts_its_fragments() -> None:
    trex = box(b"trex", struct.pack(">6I", 0, 1, 1, 512, 0, 0))
    index = box(b"moov", mvhd(ticks=0), trak(), box(b"mvex", trex))
    fragment = box(b"moof", box(b"traf", box(b"tfhd", struct.pack(">2I", 0, 1)),
                                box(b"trun", struct.pack(">2I", 0, 25))))  # fmt: skip
    data = FTYP + index + (fragment + box(b"mdat", bytes(50))) * 3

    assert inspect(data).duration_s == 3.0


def test_finish_may_be_asked_again() -> None:
    inspector = Mp4Inspector()
    inspector.feed(a_video())

    assert inspector.finish() == inspector.finish()


def test_the_media_is_not_held() -> None:
    inspector = Mp4Inspector()
    inspector.feed(a_video(0)[:-8] + struct.pack(">I4s", 8 + (200 << 20), b"mdat"))
    chunk = bytes(1 << 20)

    tracemalloc.start()
    for _ in range(200):
        inspector.feed(chunk)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert inspector.finish().duration_s == 8.0
    assert peak < 1 << 20


@given(st.data())
def test_hostile_bytes_raise_nothing_else(data: st.DataObject) -> None:
    whole = bytearray(a_video(32))
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))

    try:
        inspect(bytes(whole), step=data.draw(st.integers(1, 64)))
    except ResultInvalidError:
        return


@given(st.binary(max_size=300))
def test_a_hostile_index_raises_nothing_else(body: bytes) -> None:
    for kind in (b"moov", b"moof"):
        try:
            inspect(FTYP + box(b"moov", mvhd(), trak()) + box(kind, body) + box(b"mdat", b"x"))
        except ResultInvalidError:
            continue
