"""
`vidgen demo`: whole lives of a few videos on this machine, from the wish to files to look at.

Servers, providers and a worker are started for it and stopped with it; only the files stay.
"""

import asyncio
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vidgen.dev import clip, screen
from vidgen.dev.clip import Clip
from vidgen.dev.live import Offer
from vidgen.dev.stack import Stack, Worker
from vidgen.errors import InternalError, InvalidRequestError, VidgenError
from vidgen.job import JobStatus, VideoJob, VideoRequest
from vidgen.queue import VideoQueue
from vidgen.settings import Settings

LOOK_AT_WORKER_EVERY_S = 0.2
# Three wire formats, wide and tall.
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
        provider: Whose videos; `all` is a few wire formats, wide and tall.
        prompt: For every video instead of the demo's own ones.
        live: The real providers to ask; None simulates all of them.
        generation_s: How long a simulated provider takes for a video.
    """

    output: Path
    prompt: str | None = None
    provider: str = "all"
    live: Offer | None = None
    generation_s: float = 8.0


def run(demo: Demo) -> int:
    """
    Make the videos; 0 if every one is a playable file in the output folder, else 1.

    Raises:
        VidgenError: A server or the worker did not start, or a file is not right; says why.
    """
    _make_folder(demo.output)  # before anything is started, or paid
    out = screen.console()
    out.print("\n[bold]vidgen demo[/]: from a prompt to a video in your bucket, on this machine\n")
    with _temporary_folder() as folder:
        log = folder / "worker.log"
        try:
            jobs, clips = _make(demo, folder, log, out)
        except VidgenError:
            _keep_log(log, demo.output, out)
            raise
        if len(clips) < len(jobs):
            _keep_log(log, demo.output, out)
    _tell(jobs, clips, out, simulated=demo.live is None)
    return 0 if len(clips) == len(jobs) else 1


def _make(
    demo: Demo, folder: Path, log: Path, out: Console
) -> tuple[list[VideoJob], dict[UUID, Clip]]:
    """Start everything, carry the videos through, stop everything."""

    def say(what: str, where: str) -> None:
        mark = "[green]✓[/]" if out.is_terminal else "started"
        out.print(f"  {mark} {what:<24} [dim]{where}[/]", overflow="ellipsis", no_wrap=True)

    with Stack(folder, durable=False, generation_s=demo.generation_s, say=say) as stack:
        settings = stack.settings if demo.live is None else demo.live.over(stack.settings)
        with Worker(settings, log) as worker:
            say("Worker", "arq vidgen.worker.WorkerSettings")
            made = asyncio.run(_carry(demo, settings, worker, out))
        out.print("  [dim]everything stopped again[/]\n")
        return made


async def _carry(
    demo: Demo, settings: Settings, worker: Worker, out: Console
) -> tuple[list[VideoJob], dict[UUID, Clip]]:
    async with VideoQueue(settings) as queue:
        jobs = [await queue.enqueue(wish) for wish in _wishes(demo)]
        out.print()
        out.print(_asked(jobs))
        out.print()
        jobs = await _follow(queue, jobs, worker, out)
    out.print()
    clips = {}
    for number, job in enumerate(jobs, 1):
        if job.status is JobStatus.COMPLETED:
            path = demo.output / f"{number}-{job.provider}.mp4"
            await clip.fetch(settings, job, path)
            clips[job.id] = await asyncio.to_thread(clip.look_at, path, job)
    return jobs, clips


def _wishes(demo: Demo) -> list[VideoRequest]:
    wishes = [wish for wish in WISHES if demo.provider in {"all", wish.provider}]
    if not wishes:
        wishes = [VideoRequest(provider=demo.provider, prompt=WISHES[0].prompt)]
    if demo.live is not None:
        wishes = [
            replace(quote.request, prompt=WISHES[number % len(WISHES)].prompt)
            for number, quote in enumerate(demo.live.quotes)
        ]
    if demo.prompt is not None:
        wishes = [replace(wish, prompt=demo.prompt) for wish in wishes]
    return wishes


async def _follow(
    queue: VideoQueue, jobs: Sequence[VideoJob], worker: Worker, out: Console
) -> list[VideoJob]:
    """Show the jobs until they are final, or the worker is gone."""
    final: dict[UUID, VideoJob] = {}

    async def follow() -> None:
        final.update(await screen.follow(queue, jobs, out))

    try:
        async with asyncio.TaskGroup() as group:
            following = group.create_task(follow())
            while not following.done() and worker.exit_code is None:
                await asyncio.wait([following], timeout=LOOK_AT_WORKER_EVERY_S)
            following.cancel()
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    if not final:
        raise InternalError(f"the worker ended by itself, with exit code {worker.exit_code}")
    return [final[job.id] for job in jobs]


def _tell(
    jobs: Sequence[VideoJob], clips: dict[UUID, Clip], out: Console, *, simulated: bool
) -> None:
    for job in jobs:
        if job.id not in clips:
            reason = screen.plain(job.error_message or job.status)
            line = f"  {screen.place(job)} {job.status} [{job.error_code}]: {reason}"
            out.print(line, style="red", markup=False)
    if not clips:
        return
    folder = shlex.quote(str(next(iter(clips.values())).path.parent))
    out.print(_made(jobs, clips))
    if simulated:
        out.print("\n  [dim]Costs are what the real providers charge; here nothing was paid.[/]")
    one = jobs[0].provider if len({job.provider for job in jobs}) == 1 else None
    out.print(
        "\n[bold]What to do next[/]\n"
        f"  Look at them          open the files in {folder}\n"
        "  Keep it running       vidgen dev, and in another terminal: source .vidgen/env\n"
        f'                        vidgen submit --provider {one or "veo"} "a tram in rain" --wait\n'
        "  Ask from Python       async with VideoQueue.from_env() as queue:\n"
        "                            job = await queue.enqueue(VideoRequest(…))\n"
        "  Real providers        set their keys, then: vidgen demo"
        f"{f' --provider {one}' if one else ''} --live\n"
    )


def _asked(jobs: Sequence[VideoJob]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, min_width=screen.MAX_LABEL_WIDTH + 2)
    grid.add_column(no_wrap=True, overflow="ellipsis", style="dim")
    for job in jobs:
        grid.add_row(f"  {screen.plain(job.model)}", Text(screen.shortened(job.prompt, 100)))
    return grid


def _made(jobs: Sequence[VideoJob], clips: dict[UUID, Clip]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("  File", no_wrap=True)
    table.add_column("Model", overflow="ellipsis")  # the one that gives way when it gets narrow
    for name in ("Length", "Picture", "Size", "Cost", "Took", "Tries"):
        table.add_column(name, justify="right", no_wrap=True)
    for job in jobs:
        if file := clips.get(job.id):
            assert job.completed_at is not None  # CHECK promises it for completed jobs
            took_s = (job.completed_at - job.created_at).total_seconds()
            table.add_row(
                f"  {file.path.name}",
                screen.plain(job.model),
                f"{file.seconds:.1f} s",
                f"{file.width}x{file.height}",
                screen.size(file.size_bytes),
                screen.money(job.actual_cost_micros),
                f"{took_s:.0f} s",
                str(job.attempt),
            )
    return table


def _make_folder(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequestError(f"{output} cannot be a folder: {error.strerror}") from error


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="vidgen-demo-"))
    if os.geteuid() == 0:
        folder.chmod(0o755)  # PostgreSQL then runs as somebody else; secrets in it are 0600
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _keep_log(log: Path, output: Path, out: Console) -> None:
    """Save the worker's log from the end of the temporary folder."""
    if log.exists():
        kept = shutil.copy(log, output / "worker.log")
        out.print(f"  the worker's log is in {kept}", style="yellow", markup=False)
