"""
`vidgen demo`: whole lives of a few videos on this machine, from the wish to files to look at.

Servers, providers and a worker are started for it and stopped with it; only the files stay.
"""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from uuid import UUID

from rich.console import Console
from rich.table import Table

from vidgen.dev import screen
from vidgen.dev.live import Offer
from vidgen.dev.stack import Stack, Worker
from vidgen.errors import InternalError, StorageError, VidgenError
from vidgen.job import JobStatus, VideoJob, VideoRequest
from vidgen.queue import VideoQueue
from vidgen.resources import bucket_of
from vidgen.settings import Settings
from vidgen.storage import Storage

Choice = Literal["sora", "veo", "all"]

LOOK_AT_WORKER_EVERY_S = 0.2
DOWNLOAD_TIMEOUT_S = 300.0
# What the demo asks for: the three wire formats, wide and tall.
WISHES = (
    VideoRequest(
        provider="sora",
        model="sora-2",
        prompt="A paper boat sails down a rainy street, past glowing shop windows",
        seconds=4,
        size="1280x720",
    ),
    VideoRequest(
        provider="veo",
        model="veo-3.1-fast-generate-preview",
        prompt="A lighthouse at dusk, waves rolling in, gulls over the bay",
        seconds=6,
        aspect_ratio="16:9",
    ),
    VideoRequest(
        provider="veo",
        model="veo-3.1-fast-generate-001",
        prompt="A slow walk through a birch forest in the first snow",
        seconds=4,
        aspect_ratio="9:16",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """
    What one run shall do.

    Attributes:
        output: Folder of the finished files; made when missing.
        prompt: For every video instead of the demo's own ones.
        live: The real providers to ask; None simulates all of them.
        generation_s: How long a simulated provider takes for a video.
    """

    output: Path
    prompt: str | None = None
    provider: Choice = "all"
    live: Offer | None = None
    generation_s: float = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Clip:
    """A file in the output folder, as a player sees it."""

    path: Path
    job: VideoJob
    seconds: float
    width: int
    height: int
    size_bytes: int


def run(demo: Demo) -> int:
    """
    Make the videos; 0 if every one is a playable file in the output folder, else 1.

    Raises:
        VidgenError: A server or the worker did not start; the sentence says why.
    """
    out = screen.console()
    out.print("\n[bold]vidgen demo[/]  from a prompt to a video in your bucket\n")
    with _temporary_folder() as folder:
        say = _Steps(out).say
        log = folder / "worker.log"
        with Stack(folder, durable=False, generation_s=demo.generation_s, say=say) as stack:
            settings = stack.settings if demo.live is None else demo.live.over(stack.settings)
            with Worker(settings, log) as worker:
                say("Worker", "arq vidgen.worker.WorkerSettings")
                try:
                    clips, failed = asyncio.run(_make(demo, settings, worker, out))
                except VidgenError:
                    _keep(log, demo.output, out)
                    raise
        if failed:
            _tell_failures(failed, out)
            _keep(log, demo.output, out)
    _tell_clips(clips, out, simulated=demo.live is None)
    if not failed:
        _tell_what_next(clips, out)
    return 1 if failed else 0


class _Steps:
    """One line for each server that is up."""

    def __init__(self, out: Console) -> None:
        self._out = out

    def say(self, what: str, where: str) -> None:
        """Tell that *what* runs."""
        mark = "[green]✓[/] " if self._out.is_terminal else "started  "
        self._out.print(f"  {mark}{what:<24} [dim]{where}[/]", overflow="ellipsis", no_wrap=True)


async def _make(
    demo: Demo, settings: Settings, worker: Worker, out: Console
) -> tuple[list[_Clip], list[VideoJob]]:
    wishes = demo.live.requests if demo.live is not None else WISHES
    async with VideoQueue(settings) as queue:
        jobs = [
            await queue.enqueue(replace(wish, prompt=demo.prompt or wish.prompt))
            for wish in wishes
            if demo.provider in {"all", wish.provider}
        ]
        out.print(f"\n  {len(jobs)} videos asked for\n" if len(jobs) > 1 else "\n  1 video\n")
        done = await _follow(queue, jobs, worker, out)
    ready = [job for job in done if job.status is JobStatus.COMPLETED]
    return (
        await _download(ready, settings, demo.output),
        [job for job in done if job.status is not JobStatus.COMPLETED],
    )


async def _follow(
    queue: VideoQueue, jobs: Sequence[VideoJob], worker: Worker, out: Console
) -> list[VideoJob]:
    """Show the jobs until they are final, or the worker is gone."""

    async def watch() -> None:
        nonlocal final
        final = await screen.follow(queue, jobs, out)

    final: dict[UUID, VideoJob] = {}
    async with asyncio.TaskGroup() as group:
        following = group.create_task(watch())
        while not following.done() and worker.exit_code is None:
            await asyncio.wait([following], timeout=LOOK_AT_WORKER_EVERY_S)
        following.cancel()
    if not final:
        raise InternalError(f"the worker ended with exit code {worker.exit_code}")
    return [final[job.id] for job in jobs]


async def _download(jobs: Sequence[VideoJob], settings: Settings, output: Path) -> list[_Clip]:
    clips = []
    async with Storage.open(bucket_of(settings)) as storage:
        for number, job in enumerate(jobs, 1):
            path = output / f"{number}-{job.provider}-{job.model}.mp4"
            await fetch(storage, job, path)
            clips.append(await asyncio.to_thread(_inspect, path, job))
    return clips


async def fetch(storage: Storage, job: VideoJob, path: Path) -> None:
    """
    Bring the video of a completed *job* to *path*, whole or not at all.

    Raises:
        StorageError: The bucket gives it not, or *path* cannot be written.
    """
    assert job.storage_key is not None  # CHECK promises it for completed jobs
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            async with asyncio.timeout(DOWNLOAD_TIMEOUT_S), storage.download(job.storage_key) as it:
                async for chunk in it.chunks:
                    file.write(chunk)
        part.rename(path)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def _inspect(path: Path, job: VideoJob) -> _Clip:
    """Open the file as a player would."""
    import av

    with av.open(str(path)) as container:
        [picture] = container.streams.video
        assert container.duration is not None  # an MP4 has one
        return _Clip(
            path=path,
            job=job,
            seconds=container.duration / av.time_base,
            width=picture.width,
            height=picture.height,
            size_bytes=path.stat().st_size,
        )
