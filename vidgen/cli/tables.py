"""What the command line tells: tables on a terminal, tab-separated lines elsewhere, JSON."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vidgen.dev import screen
from vidgen.document import iso, job_document
from vidgen.job import JobEvent, JsonValue, VideoJob

PROMPT_CHARS = 60
WIDE = 110  # columns of a terminal that has room for model and cost beside the prompt


def write_json(document: object) -> None:
    """Write one JSON document as one line: times as ISO 8601 with Z, enums as words."""
    # UUIDs of PostgreSQL are of a class of their own, which orjson does not know: as text.
    line = orjson.dumps(document, default=str, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE)
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def listed(job: VideoJob) -> dict[str, JsonValue]:
    """*job* for a JSON list: with the beginning of its prompt."""
    return job_document(job) | {"prompt": screen.shortened(job.prompt, PROMPT_CHARS)}


def show_jobs(jobs: Sequence[VideoJob], out: Console) -> None:
    """A row for each job."""
    if not out.is_terminal:
        _plain_jobs(jobs, out)
        return
    if not jobs:
        out.print("[dim]no jobs[/]")
        return
    now = datetime.now(UTC)
    is_wide = out.width >= WIDE
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("Job", no_wrap=True, min_width=36)
    table.add_column("Status", no_wrap=True, min_width=10)
    table.add_column("Created", no_wrap=True, min_width=10)
    if is_wide:
        table.add_column("Cost", no_wrap=True, justify="right", min_width=5)
        table.add_column("Model", no_wrap=True, overflow="ellipsis", min_width=12)
    table.add_column("Prompt", no_wrap=True, overflow="ellipsis", ratio=1)
    for job in jobs:
        more = [screen.money(cost_micros(job)), screen.plain(job.model)] if is_wide else []
        table.add_row(
            str(job.id),
            status(job),
            screen.ago(job.created_at, now),
            *more,
            Text(screen.shortened(job.prompt, PROMPT_CHARS), style="dim"),
        )
    out.print(table)


def show_job(job: VideoJob, history: Sequence[JobEvent], url: str | None, out: Console) -> None:
    """Everything about one job, and what happened to it."""
    grid = Table.grid(padding=(0, 3, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in _facts(job, url):
        if value is not None:
            grid.add_row(name, value if isinstance(value, Text) else screen.plain(value))
    out.print(grid, soft_wrap=False)
    out.print("\n[bold]What happened[/]\n")
    start = job.created_at
    timeline = Table.grid(padding=(0, 3, 0, 0))
    timeline.add_column(justify="right", style="dim", no_wrap=True)
    timeline.add_column(no_wrap=True)
    timeline.add_column(overflow="fold", style="dim")
    for event in history:
        after_s = (event.at - start).total_seconds()
        word = Text(event.type.value, style=screen.STYLES[event.status])
        timeline.add_row(f"{after_s:+.1f} s", word, screen.plain(_told(event)))
    out.print(timeline, soft_wrap=False)


def show_counts(counts: dict[str, int], out: Console) -> None:
    """How many jobs are where."""
    grid = Table.grid(padding=(0, 3, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(justify="right")
    for name, count in counts.items():
        grid.add_row(name, str(count), style="bold" if name == "total" else None)
    out.print(grid)


def status(job: VideoJob) -> Text:
    """Where the job is, in its colour."""
    percent = f" {job.progress} %" if not job.is_final and job.progress else ""
    return Text(f"{job.status}{percent}", style=screen.STYLES[job.status])


def cost_micros(job: VideoJob) -> int | None:
    """What it cost if that is known, else what it is estimated to cost."""
    actual = job.actual_cost_micros
    return job.estimated_cost_micros if actual is None else actual


def _plain_jobs(jobs: Sequence[VideoJob], out: Console) -> None:
    rows = [("job", "status", "progress", "provider", "model", "cost", "created", "prompt")]
    rows += [
        (
            str(job.id),
            job.status.value,
            str(job.progress),
            job.provider,
            job.model,
            screen.money(cost_micros(job)),
            _iso(job.created_at) or "",
            screen.shortened(job.prompt, PROMPT_CHARS),
        )
        for job in jobs
    ]
    for row in rows:
        out.file.write("\t".join(screen.plain(cell) for cell in row) + "\n")


def _facts(job: VideoJob, url: str | None) -> list[tuple[str, str | Text | None]]:
    parameters = {
        name: value for name, value in job.parameters.items() if value not in (None, [], {})
    }
    result = None
    if job.storage_key:
        clip = f"{job.duration_s or 0:.1f} s, {job.width}x{job.height}"
        result = f"{clip}, {screen.size(job.size_bytes)}, {job.content_type}"
    return [
        ("job", str(job.id)),
        ("status", status(job)),
        ("stage", job.stage.value),
        ("error", f"[{job.error_code}] {job.error_message}" if job.error_code else None),
        ("model", f"{job.provider}/{job.model}"),
        ("prompt", job.prompt or None),
        ("parameters", _json(parameters)),
        ("scene", job.scene_id),
        ("user", job.user_id),
        ("idempotency key", job.idempotency_key),
        ("priority", str(job.priority)),
        ("metadata", _json(job.metadata) if job.metadata else None),
        ("webhook", job.webhook_url),
        ("attempts", f"{job.attempt} of at most {job.max_attempts}"),
        ("operation", job.operation.id if job.operation else None),
        ("estimated cost", screen.money(job.estimated_cost_micros)),
        ("actual cost", screen.money(job.actual_cost_micros)),
        ("result", result),
        ("storage key", job.storage_key),
        ("sha256", job.sha256),
        ("thumbnail key", job.thumbnail_key),
        ("spritesheet key", job.spritesheet_key),
        ("url", url),
        ("worker", str(job.worker_id) if job.worker_id else None),
        ("due", _iso(job.due_at)),
        ("created", _iso(job.created_at)),
        ("started", _iso(job.started_at)),
        ("submitted", _iso(job.submitted_at)),
        ("generated", _iso(job.generated_at)),
        ("completed", _iso(job.completed_at)),
        ("deadline", _iso(job.deadline_at)),
    ]


def _told(event: JobEvent) -> str:
    attempt = f"attempt {event.attempt}" if event.attempt else ""
    detail = ", ".join(f"{name}: {value}" for name, value in event.detail.items())
    return ", ".join(part for part in (attempt, detail) if part)


def _iso(at: datetime | None) -> str | None:
    return None if at is None else iso(at)


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
