"""Commands about jobs: ask for a video, follow it, look at it, end it, let it go on."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar
from uuid import UUID

import typer

from vidgen.cli import words
from vidgen.cli.app import REFUSED, WRONG_SETTINGS, AsJson, app, run
from vidgen.cli.door import Door, open_door, signed
from vidgen.document import delivery_document, event_document, job_document, json_value
from vidgen.errors import DatabaseError, DispatchError, InvalidRequestError, VidgenError
from vidgen.job import REROUTES, InputImage, JobStatus, Stage, VideoJob, VideoRequest

if TYPE_CHECKING:
    from vidgen.queue import RetryPlan, VideoQueue
    from vidgen.settings import Settings

T = TypeVar("T")

PANEL = "Videos"
MAX_RETRIED = 1000
MAX_PROMPT_BYTES = 1024 * 1024  # far above any model's limit, which the catalog tells

JobId = Annotated[UUID, typer.Argument(metavar="ID", help="The job's id.", show_default=False)]
JobIds = Annotated[
    list[UUID], typer.Argument(metavar="ID", help="One id or several.", show_default=False)
]
_THE_VIDEO, _INSTEAD, _THE_JOB, _THEN = "The video", "If that fails", "The job", "Then"
_OF_THE_FAILED = "Which of the failed"


@app.command(rich_help_panel=PANEL)
def submit(
    prompt: Annotated[
        str,
        typer.Argument(
            metavar="PROMPT",
            help="What the video shows; - reads it from stdin.",
            show_default=False,
        ),
    ],
    provider: Annotated[
        str | None,
        typer.Option(
            help="sora, veo, …; vidgen providers has them all. Left out with --route.",
            rich_help_panel=_THE_VIDEO,
            show_default=False,
            autocompletion=words.providers,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="e.g. veo-3.1-generate-001.",
            rich_help_panel=_THE_VIDEO,
            autocompletion=words.models,
        ),
    ] = None,
    seconds: Annotated[
        int | None, typer.Option(help="Length of the clip.", rich_help_panel=_THE_VIDEO)
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="Pixels, e.g. 1280x720.", rich_help_panel=_THE_VIDEO)
    ] = None,
    aspect_ratio: Annotated[
        str | None, typer.Option(help="16:9 or 9:16, for Veo.", rich_help_panel=_THE_VIDEO)
    ] = None,
    resolution: Annotated[
        str | None, typer.Option(help="720p, 1080p or 4k, for Veo.", rich_help_panel=_THE_VIDEO)
    ] = None,
    negative_prompt: Annotated[
        str | None, typer.Option(help="What it shall not show.", rich_help_panel=_THE_VIDEO)
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="The same one gives a similar video.", rich_help_panel=_THE_VIDEO),
    ] = None,
    audio: Annotated[
        bool | None,
        typer.Option("--audio/--no-audio", help="With sound.", rich_help_panel=_THE_VIDEO),
    ] = None,
    first_frame: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|URL",
            help="Image to begin with; key:KEY takes one of the bucket.",
            rich_help_panel=_THE_VIDEO,
        ),
    ] = None,
    last_frame: Annotated[
        str | None,
        typer.Option(metavar="FILE|URL", help="Image to end with.", rich_help_panel=_THE_VIDEO),
    ] = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE|URL",
            help="Image of what shall appear; may be repeated.",
            rich_help_panel=_THE_VIDEO,
        ),
    ] = None,
    extra: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=JSON",
            help="A field of the provider's own; may be repeated.",
            rich_help_panel=_THE_VIDEO,
        ),
    ] = None,
    fallback: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PROVIDER/MODEL",
            help="Who makes it if nobody before does; may be repeated.",
            rich_help_panel=_INSTEAD,
        ),
    ] = None,
    route: Annotated[
        str | None,
        typer.Option(
            help="One of VIDGEN_ROUTES_FILE, in place of all these.", rich_help_panel=_INSTEAD
        ),
    ] = None,
    reroute_on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REASON",
            help=f"{', '.join(REROUTES)}; may be repeated.",
            rich_help_panel=_INSTEAD,
            autocompletion=words.reasons,
        ),
    ] = None,
    max_cost: Annotated[
        str | None,
        typer.Option(
            metavar="DOLLARS",
            help="What all attempts together may cost.",
            rich_help_panel=_INSTEAD,
        ),
    ] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(help="The same key gives the same job.", rich_help_panel=_THE_JOB),
    ] = None,
    priority: Annotated[
        int, typer.Option(help="0 to 9, higher ones go first.", rich_help_panel=_THE_JOB)
    ] = 0,
    run_at: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Not before 2026-12-24T18:00:00Z, or +10m from now.",
            rich_help_panel=_THE_JOB,
        ),
    ] = None,
    deadline: Annotated[
        int | None,
        typer.Option(
            metavar="SECONDS",
            help="From first attempt to stored video, waiting left out.",
            rich_help_panel=_THE_JOB,
        ),
    ] = None,
    reuse_within: Annotated[
        int | None,
        typer.Option(
            metavar="SECONDS",
            help="Take the same video if it was stored since, at no cost.",
            rich_help_panel=_THE_JOB,
        ),
    ] = None,
    webhook_url: Annotated[
        str | None, typer.Option(help="Who is told of the end.", rich_help_panel=_THE_JOB)
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Yours; may be repeated.", rich_help_panel=_THE_JOB),
    ] = None,
    scene_id: Annotated[
        str | None, typer.Option(help="Yours, to find it by.", rich_help_panel=_THE_JOB)
    ] = None,
    user_id: Annotated[
        str | None, typer.Option(help="Yours, to find it by.", rich_help_panel=_THE_JOB)
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Watch until it is final.", rich_help_panel=_THEN)
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Wait, and save the video here.", rich_help_panel=_THEN),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """
    Ask for a video. Prints the job's id.

    With --wait or --output the exit code is 0 only if the video was made.
    """
    if provider is None and route is None:
        raise typer.BadParameter("say who makes it: --provider, or --route")
    images = [
        *([words.image("first_frame", first_frame)] if first_frame is not None else []),
        *([words.image("last_frame", last_frame)] if last_frame is not None else []),
        *(words.image("reference", text) for text in reference or ()),
    ]
    request = VideoRequest(
        provider=provider or "",
        prompt=_read_stdin() if prompt == "-" else prompt,
        model=model,
        seconds=seconds,
        size=size,
        aspect_ratio=aspect_ratio,
        resolution=resolution,
        negative_prompt=negative_prompt,
        seed=seed,
        audio=audio,
        images=tuple[InputImage, ...](images),
        extra=words.pairs("--extra", extra or (), as_json=True),
        fallbacks=[words.fallback(text) for text in fallback or ()],
        route=route,
        reroute_on=reroute_on or None,
        max_cost_micros=None if max_cost is None else words.micros("--max-cost", max_cost),
    )
    not_before = None if run_at is None else words.moment(run_at, datetime.now(UTC))
    details = words.pairs("--metadata", metadata or (), as_json=False)

    async def work() -> bool:
        async with open_door() as door:
            named = {"provider": provider, "model": model, "route": route}
            number = await door.write(
                "enqueue", **{name: text for name, text in named.items() if text}
            )
            job = await door.queue.enqueue(
                request,
                idempotency_key=idempotency_key,
                priority=priority,
                run_at=not_before,
                webhook_url=webhook_url,
                metadata=details,
                scene_id=scene_id,
                user_id=user_id,
                deadline_s=deadline,
                reuse_within_s=reuse_within,
            )
            await door.aim(number, job.id)
            if wait or output is not None:
                return await _finish(door, job, output, as_json=as_json)
            _tell_accepted(job, as_json=as_json)
            return True

    _exit_unless(run(work()))


@app.command(rich_help_panel=PANEL)
def watch(ids: JobIds, as_json: AsJson = False) -> None:
    """
    Follow jobs live until all are final. Exit code 0 only if all of them are completed.

    With --json one line for each event.
    """
    from vidgen.dev import screen

    async def work() -> bool:
        async with open_door() as door:
            # The same id twice is one job.
            jobs = [await door.queue.get(job_id) for job_id in dict.fromkeys(ids)]
            if as_json:
                final = await _stream(door.queue, jobs)
            else:
                final = list((await screen.follow(door.queue, jobs, screen.console())).values())
                _tell_reasons(final)
            return all(job.status is JobStatus.COMPLETED for job in final)

    _exit_unless(run(work()))


@app.command("jobs", rich_help_panel=PANEL)
def jobs_(
    status: Annotated[
        JobStatus | None,
        typer.Option(metavar="STATUS", help="pending, processing, completed, failed or cancelled."),
    ] = None,
    provider: Annotated[
        str | None,
        typer.Option(
            help="sora, veo, …; vidgen providers has them all.", autocompletion=words.providers
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Only jobs of this model.", autocompletion=words.models),
    ] = None,
    code: Annotated[
        str | None,
        typer.Option(help="Only jobs with this error code.", autocompletion=words.codes),
    ] = None,
    user_id: Annotated[str | None, typer.Option(help="Only jobs of this user.")] = None,
    scene_id: Annotated[str | None, typer.Option(help="Only jobs of this scene.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="At most so many.")] = 20,
    before: Annotated[
        UUID | None,
        typer.Option(metavar="ID", help="Only older ones: the last of the page before."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, the newest first."""
    from vidgen.cli import tables
    from vidgen.dev import screen

    async def work() -> list[VideoJob]:
        async with open_door() as door:
            return await door.queue.recent(
                status=status,
                provider=provider,
                model=model,
                code=code,
                user_id=user_id,
                scene_id=scene_id,
                before=before,
                limit=limit,
            )

    found = run(work())
    if as_json:
        tables.write_json([tables.listed(job) for job in found])
    else:
        tables.show_jobs(found, screen.console())


@app.command(rich_help_panel=PANEL)
def show(
    job_id: JobId,
    url: Annotated[
        bool, typer.Option("--url", help="Add an address to download the video from.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """
    Tell everything about a job: what happened, its cost, its webhooks.

    For one that is under way also its place in the line and when it will be done.
    """
    from vidgen.cli import tables
    from vidgen.dev import screen
    from vidgen.queue import retry_plan

    async def work() -> None:
        async with open_door() as door:
            job = await door.queue.get(job_id)
            history = await door.queue.history(job_id)
            webhooks = await door.queue.deliveries(job_id)
            outlook = (await door.queue.outlooks([job]))[job_id]
            address = await _address(door.settings, job) if url else None
        can_retry = job.status in {JobStatus.FAILED, JobStatus.CANCELLED}
        plan = retry_plan(job) if can_retry else None
        if as_json:
            document = job_document(job, private=True) | {
                "events": [event_document(event) for event in history],
                "deliveries": [delivery_document(one, whole=True) for one in webhooks],
                "eta": json_value(outlook.eta),
                "queue_position": outlook.queue_position,
                "retry": json_value(plan),
            }
            tables.write_json(document | ({"url": address} if url else {}))
        else:
            out = screen.console()
            tables.show_job(job, outlook, plan, address, out)
            tables.show_history(job, history, out)
            tables.show_webhooks(webhooks, out)

    run(work())


@app.command(rich_help_panel=PANEL)
def cancel(
    ids: JobIds,
    discard: Annotated[
        bool, typer.Option("--discard", help="Throw a video away that is already made.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Ask for the end of jobs; what a provider has started may still be billed."""

    async def deed(door: Door, job_id: UUID) -> VideoJob:
        by = await door.note("cancel", job_id, discard=discard)
        return await door.queue.cancel(job_id, discard=discard, by=signed(by))

    run(_each(ids, deed, as_json=as_json))


@app.command(rich_help_panel=PANEL)
def retry(
    ids: Annotated[
        list[UUID] | None,
        typer.Argument(metavar="ID", help="One id or several.", show_default=False),
    ] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="All failed jobs that fit, the oldest first.")
    ] = False,
    provider: Annotated[
        str | None,
        typer.Option(
            help="sora, veo, …; vidgen providers has them all.",
            autocompletion=words.providers,
            rich_help_panel=_OF_THE_FAILED,
        ),
    ] = None,
    code: Annotated[
        str | None,
        typer.Option(
            help="Only jobs that failed with this code.",
            autocompletion=words.codes,
            rich_help_panel=_OF_THE_FAILED,
        ),
    ] = None,
    user_id: Annotated[
        str | None,
        typer.Option(help="Only jobs of this user.", rich_help_panel=_OF_THE_FAILED),
    ] = None,
    scene_id: Annotated[
        str | None,
        typer.Option(help="Only jobs of this scene.", rich_help_panel=_OF_THE_FAILED),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="At most so many; 1000 if not said.",
            rich_help_panel=_OF_THE_FAILED,
        ),
    ] = None,
    anew: Annotated[
        bool, typer.Option("--anew", help="Buy a new video, even if the paid one may exist.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what would happen and cost; do nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """
    Let failed or cancelled jobs go on: from the paid result if it may exist, else anew.

    Either those that are named, or with --failed all failed ones that fit.
    """
    filters = {"provider": provider, "code": code, "user_id": user_id, "scene_id": scene_id}
    narrowed = [name for name, value in filters.items() if value is not None]
    narrowed += [] if limit is None else ["limit"]
    if bool(ids) == failed:
        raise typer.BadParameter("name jobs by their ids, or say --failed for all that fit")
    if ids and narrowed:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in narrowed)
        raise typer.BadParameter(f"{named} goes with --failed, not with ids")

    async def deed(door: Door, job_id: UUID) -> VideoJob:
        by = await door.note("retry", job_id, anew=anew)
        return await door.queue.retry(job_id, anew=anew, by=signed(by))

    async def work() -> "list[RetryPlan]":
        async with open_door() as door:
            by = None
            if not dry_run:
                by = signed(await door.note("retry_failed", **filters, anew=anew))
            return await door.queue.retry_failed(
                **filters,
                limit=limit or MAX_RETRIED,
                anew=anew,
                dry_run=dry_run,
                by=by,
            )

    if failed:
        _tell_plans(run(work()), dry_run=dry_run, as_json=as_json)
    elif dry_run:
        run(_plan(ids or (), anew=anew, as_json=as_json))
    else:
        run(_each(ids or (), deed, as_json=as_json))


@app.command(
    "retry-failed",
    hidden=True,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
def retry_failed() -> None:
    """Say what this is called now; whoever has it in a script must not wonder."""
    sys.stderr.write(
        "vidgen retry-failed is now: vidgen retry --failed, with the same options;"
        " nothing was done\n"
    )
    raise typer.Exit(WRONG_SETTINGS)


def _exit_unless(succeeded: bool) -> None:
    if not succeeded:
        raise typer.Exit(REFUSED)


def _read_stdin() -> str:
    text = sys.stdin.buffer.read(MAX_PROMPT_BYTES)
    try:
        return text.decode().strip()
    except UnicodeDecodeError as error:
        raise InvalidRequestError("The prompt on stdin is no UTF-8 text.") from error


def _tell_accepted(job: VideoJob, *, as_json: bool, is_left: bool = True) -> None:
    from vidgen.cli import tables
    from vidgen.dev import screen

    if as_json:
        tables.write_json(job_document(job))
        return
    out = screen.console()
    if not out.is_terminal:  # for id=$(vidgen submit …)
        out.print(str(job.id), markup=False)
        return
    about = f"{screen.place(job)}, about {screen.money(job.estimated_cost_micros)}"
    out.print(f"[bold]{job.id}[/]  {about}")
    if is_left:
        out.print(f"[dim]follow it with: vidgen watch {job.id}[/]")


async def _finish(door: Door, job: VideoJob, output: Path | None, *, as_json: bool) -> bool:
    """Wait for the end of *job*, and bring the video to *output*; whether it was made."""
    from vidgen.cli import tables
    from vidgen.dev import screen

    if as_json:
        job = await door.queue.wait(job.id)
    else:
        _tell_accepted(job, as_json=False, is_left=False)
        job = (await screen.follow(door.queue, [job], screen.console(sys.stderr)))[job.id]
        _tell_reasons([job])
    made = job.status is JobStatus.COMPLETED
    if made and output is not None:
        from vidgen.dev import clip

        await clip.fetch(door.settings, job, output)
        if not as_json:
            size = screen.size(job.size_bytes)
            screen.console(sys.stderr).print(f"saved {output} ({size})", markup=False)
    if as_json:
        tables.write_json(job_document(job))
    return made


def _tell_reasons(jobs: Sequence[VideoJob]) -> None:
    for job in jobs:
        if job.status is JobStatus.FAILED:
            sys.stderr.write(f"job {job.id} failed [{job.error_code}]: {job.error_message}\n")


async def _stream(queue: "VideoQueue", jobs: Sequence[VideoJob]) -> list[VideoJob]:
    """Write the events of all *jobs* as they come; the jobs once all are final."""
    from vidgen.cli import tables

    async def stream(job: VideoJob) -> None:
        async for event in queue.events(job.id):
            tables.write_json(event_document(event))

    try:
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(stream(job))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    return [await queue.get(job.id) for job in jobs]


async def _address(settings: "Settings", job: VideoJob) -> str:
    from vidgen.resources import open_storage

    if job.archived_at is not None:
        raise InvalidRequestError(f"job {job.id} was archived: its video is no longer kept")
    if job.gone_at is not None:
        raise InvalidRequestError(f"job {job.id}: its video is not in the bucket any more")
    if job.storage_key is None:
        raise InvalidRequestError(f"job {job.id} is {job.status}: it has no video to point to")
    async with open_storage(settings) as storage:
        public = storage.public_url(job.storage_key)
        return public or await storage.presigned_url(
            job.storage_key, settings.presigned_url_expires_s
        )


async def _each(
    ids: Sequence[UUID],
    deed: Callable[[Door, UUID], Awaitable[VideoJob]],
    *,
    as_json: bool,
) -> None:
    """Do *deed* to each job; one that refuses does not keep the others from it."""
    from vidgen.cli import tables

    async with open_door() as door:
        await each(
            ids,
            lambda job_id: deed(door, job_id),
            lambda job: tables.write_json(job_document(job)) if as_json else typer.echo(_told(job)),
        )


async def _plan(ids: Sequence[UUID], *, anew: bool, as_json: bool) -> None:
    """Tell what a retry of each job would do, and cost."""
    from vidgen import lifecycle
    from vidgen.queue import retry_plan

    plans: list[RetryPlan] = []
    async with open_door() as door:

        async def plan(job_id: UUID) -> "RetryPlan":
            job = await door.queue.get(job_id)
            # Raises where the retry itself would.
            lifecycle.retried(job, max_attempts=door.settings.max_attempts, anew=anew)
            return retry_plan(job, anew=anew)

        try:
            await each(ids, plan, plans.append)
        finally:
            _tell_plans(plans, dry_run=True, as_json=as_json)


async def each(
    ids: Sequence[UUID],
    deed: Callable[[UUID], Awaitable[T]],
    tell: Callable[[T], None],
) -> None:
    """
    Do *deed* to each of *ids*, and *tell* what came of it; what refuses is told at the end and
    does not keep the others from it.
    """
    refusals: list[VidgenError] = []
    try:
        for one in dict.fromkeys(ids):  # the same id twice is one thing
            try:
                tell(await deed(one))
            except (DatabaseError, DispatchError):
                raise  # the others would fare no better
            except VidgenError as error:
                refusals.append(error)
    finally:
        for refusal in refusals:
            sys.stderr.write(f"error [{refusal.code}]: {refusal.message}\n")
    _exit_unless(not refusals)


def _tell_plans(plans: "Sequence[RetryPlan]", *, dry_run: bool, as_json: bool) -> None:
    from vidgen.cli import tables
    from vidgen.dev import screen

    if as_json:
        tables.write_json([asdict(plan) for plan in plans])
        return
    for plan in plans:
        price = screen.money(plan.cost_micros) if plan.pays_again else "nothing"
        typer.echo(f"{plan.job_id}  goes on at {plan.stage}, costs {price}")
    verb = "would be retried" if dry_run else "retried"
    again = [plan for plan in plans if plan.pays_again]
    unknown = any(plan.cost_micros is None for plan in again)
    total = screen.money(sum(plan.cost_micros or 0 for plan in again))
    price = f", for {'at least ' if unknown else ''}{total}" if again else ""
    typer.echo(f"{verb}: {len(plans)}; of these paid again: {len(again)}{price}")


def _told(job: VideoJob) -> str:
    if job.is_final:
        return f"{job.id}  {job.status}"
    if job.cancel_requested_at is not None and job.stage is Stage.SUBMITTING:
        return f"{job.id}  ends once the provider answers the paid request, which may be billed"
    if job.cancel_requested_at is not None:
        return f"{job.id}  its worker was asked to stop"
    how = "goes on with its paid result" if job.operation else "starts anew: it is paid again"
    return f"{job.id}  {how}"
