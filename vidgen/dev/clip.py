"""Finished videos as files on this machine: fetched from the bucket, and looked at."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from vidgen.errors import InvalidRequestError, ResultInvalidError, StorageUnavailableError
from vidgen.job import VideoJob
from vidgen.resources import open_storage
from vidgen.settings import Settings

FETCH_TIMEOUT_S = 600.0
LENGTH_TOLERANCE_S = 0.5  # clips end with a whole frame, and sound with a whole block


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A video file as a player sees it; *seconds* from its container."""

    path: Path
    seconds: float
    width: int
    height: int
    size_bytes: int


async def fetch(settings: Settings, job: VideoJob, path: Path) -> None:
    """
    Bring the video of a completed *job* to *path*, whole or not at all.

    Raises:
        InvalidRequestError: *path* cannot be written, or the object is gone.
        StorageError: The bucket does not hand it out.
    """
    assert job.storage_key is not None  # CHECK promises it for completed jobs
    try:
        async with asyncio.timeout(FETCH_TIMEOUT_S), open_storage(settings) as storage:
            with _whole_file(path) as file:
                async with storage.download(job.storage_key) as object_:
                    async for chunk in object_.chunks:
                        file.write(chunk)
    except TimeoutError as error:
        raise StorageUnavailableError(
            f"The video did not arrive within {FETCH_TIMEOUT_S:.0f} s."
        ) from error


def look_at(path: Path, job: VideoJob) -> Clip:
    """
    Open the file of *job* as a player would.

    Raises:
        ResultInvalidError: It does not play, or is not what was asked for.
    """
    import av

    try:
        with av.open(str(path)) as container:
            [picture] = container.streams.video
            seconds = (container.duration or 0) / av.time_base
            frame = next(container.decode(picture))
    except (av.FFmpegError, ValueError, StopIteration) as error:
        raise ResultInvalidError(f"{path.name} does not play: {error}") from error
    wanted = job.parameters.get("seconds")
    if isinstance(wanted, int) and abs(seconds - wanted) > LENGTH_TOLERANCE_S:
        raise ResultInvalidError(f"{path.name} lasts {seconds:.1f} s; {wanted} s were asked for")
    return Clip(
        path=path,
        seconds=seconds,
        width=frame.width,
        height=frame.height,
        size_bytes=path.stat().st_size,
    )


@contextmanager
def _whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that gets its name once it is whole."""
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            yield file
        part.replace(path)
    except TimeoutError:  # an OSError, too, but not of the file
        raise
    except OSError as error:
        raise InvalidRequestError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
