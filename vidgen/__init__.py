"""vidgen runs paid AI video generations: nothing is lost, nothing is paid twice."""

from typing import TYPE_CHECKING

from vidgen.errors import VidgenError
from vidgen.job import Fallback, InputImage, JobEvent, JobStatus, VideoJob, VideoRequest

if TYPE_CHECKING:
    from vidgen.queue import VideoQueue

__all__ = [
    "Fallback",
    "InputImage",
    "JobEvent",
    "JobStatus",
    "VideoJob",
    "VideoQueue",
    "VideoRequest",
    "VidgenError",
]


def __getattr__(name: str) -> object:
    # The queue brings asyncpg and redis along; those who only want the words need not wait for
    # them.
    if name == "VideoQueue":
        from vidgen.queue import VideoQueue

        return VideoQueue
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
