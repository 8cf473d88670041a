"""
What people see of jobs: words, colours and live bars on a terminal, plain lines anywhere else.
"""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import IO
from uuid import UUID

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from vidgen.job import EventType, JobEvent, JobStatus, Stage, VideoJob
from vidgen.queue import VideoQueue

PLAIN_WIDTH = 200  # where no terminal has a width: rows are not broken
PLAIN_STEP_PERCENT = 25
MAX_LABEL_WIDTH = 30
OTHER_COLUMNS_WIDTH = 50

STYLES = {
    JobStatus.PENDING: "yellow",
    JobStatus.PROCESSING: "cyan",
    JobStatus.COMPLETED: "green",
    JobStatus.FAILED: "red",
    JobStatus.CANCELLED: "bright_black",
}
_WORDS = {
    Stage.QUEUED: "waiting",
    Stage.SUBMITTING: "submitting",
    Stage.GENERATING: "generating",
    Stage.TRANSFERRING: "storing",
}


def console(stream: IO[str] | None = None) -> Console:
    """A console on *stream* (stdout): colours on a terminal, not one escape anywhere else."""
    stream = stream or sys.stdout
    is_terminal = stream.isatty()
    return Console(
        file=stream,
        force_terminal=is_terminal,  # whatever FORCE_COLOR says about pipes
        width=None if is_terminal else PLAIN_WIDTH,
        highlight=False,
        soft_wrap=not is_terminal,
    )


def plain(text: object) -> str:
    """*text* on one line, without anything that a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in str(text))


def shortened(text: str, limit: int = 60) -> str:
    """*text* on one line, its end cut off if need be."""
    line = " ".join(plain(text).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def size(size_bytes: int | None) -> str:
    """Bytes as people say them: `812 kB`, `1.3 MB`."""
    if size_bytes is None:
        return "–"
    value = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit in {"B", "kB"} else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def money(micros: int | None) -> str:
    """Micro-dollars as dollars."""
    return "–" if micros is None else f"${micros / 1_000_000:.2f}"


def span(seconds: float) -> str:
    """A length of time as people say it: `8 s`, `3 min`, `2 h`, `5 d`."""
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def ago(at: datetime | None, now: datetime) -> str:
    """When *at* was, seen from *now*; `in 5 min` if it is still to come."""
    if at is None:
        return "–"
    seconds = (now - at).total_seconds()
    return f"in {span(-seconds)}" if seconds <= -1 else f"{span(max(seconds, 0))} ago"


def place(job: VideoJob) -> str:
    """Which provider and model make it."""
    return plain(f"{job.provider}/{job.model}")


@dataclass(slots=True, kw_only=True)
class _View:
    """One job as it is shown now."""

    label: str
    word: str = "waiting"
    status: JobStatus = JobStatus.PENDING
    percent: int = 0
    told: tuple[str, int] | None = None

    def take(self, event: JobEvent) -> None:
        """Show what happened."""
        self.status = event.status
        self.percent = event.progress
        self.word = _word(event)


def _word(event: JobEvent) -> str:
    match event.type:
        case EventType.ERRORED | EventType.REATTEMPTED:
            new = "new attempt" if event.type is EventType.REATTEMPTED else "again"
            code = plain(event.detail.get("code", "error"))
            return f"{new} in {event.detail.get('wait_s', 0):.0f} s ({code})"
        case EventType.POSTPONED:
            return f"rate limit, {event.detail.get('wait_s', 0):.0f} s"
        case EventType.REROUTED:
            to = event.detail.get("to")
            return f"on to {plain(to['provider'])}" if isinstance(to, dict) else "moved on"
        case EventType.FAILED:
            return f"failed ({plain(event.detail.get('code', 'error'))})"
        case EventType.CANCEL_REQUESTED:
            return "cancelling"
        case EventType.COMPLETED | EventType.CANCELLED:
            return event.status.value
        case _:
            return _WORDS[event.stage]


async def follow(
    queue: VideoQueue, jobs: Sequence[VideoJob], screen: Console
) -> dict[UUID, VideoJob]:
    """
    Show *jobs* until all are final, and return them as they are then.

    Raises:
        JobNotFoundError, DatabaseError: As the queue says.
    """
    views = {job.id: _View(label=plain(job.model)) for job in jobs}
    display = _Bars(screen) if screen.is_terminal else _Lines(screen)
    final: dict[UUID, VideoJob] = {}

    async def follow_one(job_id: UUID) -> None:
        async for event in queue.events(job_id):
            views[job_id].take(event)
            display.show(job_id, views[job_id])
        final[job_id] = await queue.get(job_id)

    for job_id, view in views.items():
        display.show(job_id, view)
    try:
        with display:
            async with asyncio.TaskGroup() as group:
                for job_id in views:
                    group.create_task(follow_one(job_id))
    except ExceptionGroup as group:
        raise _first(group) from group
    return final


def _first(group: ExceptionGroup[Exception]) -> Exception:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first


class _Bars:
    """One live bar per job."""

    def __init__(self, screen: Console) -> None:
        self._progress = Progress(
            TextColumn("  {task.description}"),
            BarColumn(
                bar_width=20, complete_style="cyan", finished_style="green", pulse_style="cyan"
            ),
            _State(),
            TimeElapsedColumn(),
            console=screen,
        )
        self._width = min(MAX_LABEL_WIDTH, max(screen.width - OTHER_COLUMNS_WIDTH, 12))
        self._bars: dict[UUID, TaskID] = {}

    def __enter__(self) -> None:
        self._progress.start()

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, job_id: UUID, view: _View) -> None:
        if job_id not in self._bars:
            label = shortened(view.label, self._width).ljust(self._width)
            self._bars[job_id] = self._progress.add_task(escape(label), total=100, view=view)
        bar = self._bars[job_id]
        # A provider that tells no percentage gets a bar that moves.
        blind = view.word == "generating" and view.percent == 0
        self._progress.tasks[bar].total = None if blind else 100  # `update` takes no None for it
        self._progress.update(bar, completed=view.percent)
        if view.status.is_final:
            self._progress.stop_task(bar)


class _State(ProgressColumn):
    """Where the job is, in its colour."""

    def render(self, task: Task) -> Text:
        view: _View = task.fields["view"]
        percent = f" {view.percent} %" if view.word == "generating" and view.percent else ""
        return Text(f"{view.word}{percent}".ljust(16), style=STYLES[view.status])


class _Lines:
    """One line for each thing that happens."""

    def __init__(self, screen: Console) -> None:
        self._screen = screen
        self._start = asyncio.get_running_loop().time()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, job_id: UUID, view: _View) -> None:
        step = view.percent // PLAIN_STEP_PERCENT * PLAIN_STEP_PERCENT
        step = step if view.word == "generating" else 0
        if view.told == (view.word, step):
            return
        view.told = (view.word, step)
        seconds = asyncio.get_running_loop().time() - self._start
        percent = f" {step} %" if step else ""
        line = f"{seconds:6.1f} s  {job_id}  {view.label}  {view.word}{percent}"
        self._screen.print(line, markup=False)
