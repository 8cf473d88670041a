"""What the command line tells: tables on a terminal, tab-separated lines elsewhere, JSON."""

import sys
from collections.abc import Mapping, Sequence, Set
from datetime import UTC, date, datetime
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vidgen import lifecycle
from vidgen.dev import screen
from vidgen.doctor.finding import Finding, State
from vidgen.document import iso, job_document, without_query
from vidgen.forecast import Outlook
from vidgen.job import JobEvent, JobStatus, JsonValue, Stage, VideoJob
from vidgen.queue import RetryPlan
from vidgen.store.budgets import Budget
from vidgen.store.deliveries import Delivery, DeliveryState
from vidgen.store.ledger import Spend
from vidgen.store.steering import AuditEntry
from vidgen.store.workers import ListedWorker

PROMPT_CHARS = 60
SEALED_PROMPT = "(sealed, and does not open with ENCRYPTION_KEYS here)"
WIDE = 110  # columns of a terminal that has room for model and cost beside the prompt

_COUNTED = ("waiting", "active", "completed", "failed", "delayed", "cancelled")
_DELIVERY_STYLES = {
    DeliveryState.PENDING: "yellow",
    DeliveryState.DELIVERED: "green",
    DeliveryState.FAILED: "red",
    DeliveryState.GONE: "bright_black",
}
_MARKS = {
    State.OK: ("ok", "green"),
    State.WARNING: ("warning", "yellow"),
    State.PROBLEM: ("PROBLEM", "bold red"),
}


def write_json(document: object) -> None:
    """Write one JSON document as one line: times as ISO 8601 with Z, enums as words."""
    # UUIDs of PostgreSQL are of a class of their own, which orjson does not know: as text.
    line = orjson.dumps(document, default=str, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE)
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def listed(job: VideoJob) -> dict[str, JsonValue]:
    """*job* for a JSON list: with the beginning of its prompt."""
    prompt = None if job.sealed is not None else screen.shortened(job.prompt, PROMPT_CHARS)
    return job_document(job) | {"prompt": prompt}


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
    # Expanded, for only then the last column gives way instead of all the others.
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold", expand=True)
    table.add_column("Job", no_wrap=True, min_width=36)
    table.add_column("Status", no_wrap=True, min_width=10)
    table.add_column("Created", no_wrap=True, min_width=10)
    if is_wide:
        table.add_column("Cost", no_wrap=True, justify="right", min_width=5)
        table.add_column("Model", no_wrap=True, overflow="ellipsis", min_width=12)
    table.add_column("Prompt", no_wrap=True, overflow="ellipsis", ratio=1)
    for job in jobs:
        more = [cost(job), screen.plain(job.model)] if is_wide else []
        table.add_row(
            str(job.id),
            status(job),
            screen.ago(job.created_at, now),
            *more,
            _about(job),
        )
    out.print(table)


def show_job(
    job: VideoJob, outlook: Outlook, plan: RetryPlan | None, url: str | None, out: Console
) -> None:
    """Everything about one job; *plan* is what a retry would do, if one can be made."""
    facts = _facts(job, url)
    facts[2:2] = _expected(outlook, datetime.now(UTC))
    if plan is not None:
        how = "paid again" if plan.pays_again else "from its paid result"
        price = f", about {screen.money(plan.cost_micros)}" if plan.pays_again else ""
        facts.append(("a retry", f"goes on at {plan.stage}, {how}{price}"))
    _show_facts(facts, out)


def show_history(job: VideoJob, history: Sequence[JobEvent], out: Console) -> None:
    """What happened to a job."""
    out.print("\n[bold]What happened[/]\n")
    start = job.created_at
    timeline = Table.grid(padding=(0, 3, 0, 0))
    timeline.add_column(justify="right", style="dim", no_wrap=True)
    timeline.add_column(no_wrap=True)
    timeline.add_column(overflow="fold", style="dim")
    for event in history:
        after_s = (event.at - start).total_seconds()
        word = Text(event.type.value, style=screen.STYLES[event.status])
        timeline.add_row(f"{after_s:+.1f} s", word, Text(screen.plain(_told(event))))
    out.print(timeline, soft_wrap=False)


def show_webhooks(deliveries: Sequence[Delivery], out: Console) -> None:
    """The webhooks of one job, if it has any."""
    if deliveries:
        out.print("\n[bold]Webhooks[/]\n")
        show_deliveries(deliveries, out)


def show_deliveries(deliveries: Sequence[Delivery], out: Console) -> None:
    """A row for each webhook."""
    now = datetime.now(UTC)
    columns = ["delivery", "type", "state", "tries", "next try", "last answer", "address"]
    rows: list[list[str | Text]] = [
        [
            str(one.id),
            one.type.value,
            Text(one.state.value, style=_DELIVERY_STYLES[one.state]),
            str(one.attempts),
            "now" if _is_due(one, now, out) else _when(one.next_at, now, out),
            " ".join(str(part) for part in (one.last_status, one.last_error) if part),
            without_query(one.url),
        ]
        for one in deliveries
    ]
    narrow = {"type", "address"} if out.width < WIDE else set()
    _show_rows(columns, rows, out, nothing="no webhooks", narrow=narrow, last="last answer")


def show_workers(workers: Sequence[ListedWorker], out: Console) -> None:
    """A row for each worker."""
    now = datetime.now(UTC)
    columns = ["worker", "state", "holds", "of", "version", "started", "host", "pid"]
    rows: list[list[str | Text]] = [
        [
            str(worker.id),
            Text("alive", style="green")
            if worker.alive
            else Text(f"silent for {screen.span(_since_s(worker.heartbeat_at, now))}", style="red"),
            str(worker.held),
            str(worker.concurrency),
            worker.version,
            _when(worker.started_at, now, out),
            worker.hostname,
            str(worker.pid),
        ]
        for worker in workers
    ]
    narrow = {"version", "host", "pid"} if out.width < WIDE else set()
    _show_rows(columns, rows, out, nothing="no workers", narrow=narrow, last="state")


def show_audit(entries: Sequence[AuditEntry], out: Console) -> None:
    """A row for each action."""
    now = datetime.now(UTC)
    columns = ["seq", "when", "who", "action", "target", "detail", "role", "from"]
    rows: list[list[str | Text]] = [
        [
            str(entry.seq),
            _when(entry.at, now, out),
            entry.who,
            entry.action,
            entry.target,
            ", ".join(f"{name}: {value}" for name, value in entry.detail.items()),
            entry.role,
            entry.address,
        ]
        for entry in entries
    ]
    narrow = {"detail", "role", "from"} if out.width < WIDE else set()
    _show_rows(columns, rows, out, nothing="no actions", narrow=narrow, last="target")


def show_budgets(budgets: Sequence[Budget], out: Console) -> None:
    """A row for each budget."""
    columns = ["scope", "period", "limit", "spent", "reserved", "used", "frees", "by"]
    rows: list[list[str | Text]] = [
        [
            budget.scope,
            budget.period,
            screen.money(budget.limit_micros),
            screen.money(budget.spent_micros),
            screen.money(budget.reserved_micros),
            _used(budget),
            f"{budget.frees_at:%Y-%m-%dT%H:%MZ}" if budget.frees_at else "",
            budget.by,
        ]
        for budget in budgets
    ]
    narrow = {"frees", "by"} if out.width < WIDE else set()
    _show_rows(columns, rows, out, nothing="no budgets", narrow=narrow)


def _used(budget: Budget) -> Text:
    used_micros = budget.spent_micros + budget.reserved_micros
    if budget.limit_micros == 0:
        return Text("all", style="red")
    style = "yellow" if budget.near else ""
    return Text(f"{used_micros * 100 // budget.limit_micros} %", style=style)


def show_spend(spend: Sequence[Spend], by: str, out: Console) -> None:
    """A row for each day, provider, model or user."""
    columns = [by, "payer", "charged", "wasted", "of it uncertain", "jobs"]
    rows: list[list[str | Text]] = [
        [
            each.key or "-",
            each.payer,
            screen.money(each.charged_micros),
            screen.money(each.wasted_micros),
            screen.money(each.uncertain_micros),
            str(each.jobs),
        ]
        for each in spend
    ]
    _show_rows(columns, rows, out, nothing="nothing was spent")


def show_providers(providers: Sequence[dict[str, Any]], out: Console) -> None:
    """A line for each provider, and below it a row for each of its models."""
    columns = ["provider", "model", "state", "seconds", "$ per second"]
    rows = []
    for provider in providers:
        for model in provider["models"]:
            prices = [f"{micros / 1e6:.2f}" for micros in model["price_micros_per_second"].values()]
            lowest, highest = min(prices, default=""), max(prices, default="")
            rows.append(
                [
                    provider["name"],
                    model["name"],
                    _model_state(provider, model),
                    ",".join(map(str, model["seconds"])),
                    lowest if lowest == highest else f"{lowest} to {highest}",
                ]
            )
    if out.is_terminal:
        for provider in providers:
            out.print(f"[bold]{provider['name']}[/]  {_pressure(provider)}")
        out.print()
    _show_rows(columns, rows, out, nothing="no providers")


def show_standing(standing: Mapping[str, Any], out: Console) -> None:
    """How the queue stands."""
    grid = Table.grid(padding=(0, 3, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(justify="right")
    for name in (*_COUNTED, "total"):
        grid.add_row(name, str(standing[name]), style="bold" if name == "total" else None)
    out.print(grid)
    out.print()
    spent, wasted = standing["spend_today_micros"], standing["waste_today_micros"]
    under_way, given_up = standing["webhooks_pending"], standing["webhooks_failed"]
    facts: list[tuple[str, str | Text | None]] = [
        ("oldest waiting", screen.span(standing["oldest_waiting_s"])),
        ("workers alive", str(standing["workers"])),
        ("spent today", f"{screen.money(spent)}, {screen.money(wasted)} of it without a video"),
        ("webhooks", f"{under_way} on their way, {given_up} given up"),
    ]
    facts += [("paused", Text(_paused(pause), style="yellow")) for pause in standing["paused"]]
    facts += [
        ("failed", f"{group['jobs']} of {group['provider']} by {group['code']}")
        for group in standing["failed_by_code"]
    ]
    _show_facts(facts, out)


def show_findings(findings: Sequence[Finding], out: Console) -> None:
    """What a check-up found: a line for each check, and below it how to mend what is wrong."""
    width = max(len(finding.name) for finding in findings)
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, min_width=width)
    grid.add_column(overflow="fold")
    for finding in findings:
        mark, style = _MARKS[finding.state]
        lines = [screen.plain(line) for line in finding.sentence.splitlines()]
        grid.add_row(Text(mark, style=style), finding.name, Text("\n".join(lines)))
        if finding.remedy:
            grid.add_row("", "", Text(f"→ {screen.plain(finding.remedy)}", style="bold"))
    out.print(grid, soft_wrap=False)
    problems = sum(finding.state is State.PROBLEM for finding in findings)
    warnings = sum(finding.state is State.WARNING for finding in findings)
    out.print(f"\n{_counted(problems, 'problem')}, {_counted(warnings, 'warning')}")


def status(job: VideoJob) -> Text:
    """Where the job is, in its colour."""
    percent = f" {job.progress} %" if not job.is_final and job.progress else ""
    return Text(f"{job.status}{percent}", style=screen.STYLES[job.status])


def cost(job: VideoJob) -> str:
    """
    What a job that ended cost over all its attempts, `?` being what only the provider knows; of
    another what it will have cost.
    """
    known = job.actual_cost_micros
    if not job.is_final:
        if not lifecycle.outstanding(job) and job.stage is not Stage.QUEUED:
            return screen.money(known)
        estimate = job.estimated_cost_micros
        return screen.money(known if estimate is None else (known or 0) + estimate)
    if lifecycle.unknown_attempts(job):
        return "?" if known is None else f"{screen.money(known)} + ?"
    return screen.money(known)


def _about(job: VideoJob) -> Text:
    """The beginning of the prompt; before it why it failed."""
    prompt = (_prompt(job), "dim")
    if job.status is JobStatus.FAILED:
        return Text.assemble((screen.plain(job.error_code), "red"), "  ", prompt)
    return Text.assemble(prompt)


def _prompt(job: VideoJob) -> str:
    return SEALED_PROMPT if job.sealed is not None else screen.shortened(job.prompt, PROMPT_CHARS)


def _plain_jobs(jobs: Sequence[VideoJob], out: Console) -> None:
    rows = [("job", "status", "progress", "provider", "model", "cost", "created", "prompt")]
    rows += [
        (
            str(job.id),
            job.status.value,
            str(job.progress),
            job.provider,
            job.model,
            cost(job),
            _iso(job.created_at) or "",
            _prompt(job),
        )
        for job in jobs
    ]
    for row in rows:
        out.file.write("\t".join(screen.plain(cell) for cell in row) + "\n")


def _targets(job: VideoJob) -> list[tuple[str, str | Text | None]]:
    """Who may make it, with a mark at the one in force."""
    told: list[tuple[str, str | Text | None]] = []
    for number, target in enumerate(job.targets):
        mark = ">" if number == job.target else " "
        price = screen.money(target.estimated_cost_micros)
        mapped = f" ({'; '.join(target.mapped)})" if target.mapped else ""
        told.append(
            (
                "targets" if number == 0 else "",
                f"{mark} {target.provider}/{target.model}, {price}{mapped}",
            )
        )
    if job.targets:
        told.append(("moves on", ", ".join(job.reroute_on) or "for nothing"))
    if job.max_cost_micros is not None:
        told.append(("costs at most", screen.money(job.max_cost_micros)))
    return told


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
        ("route", job.route),
        *_targets(job),
        ("prompt", job.prompt or (SEALED_PROMPT if job.sealed is not None else None)),
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
        ("only the provider knows", _unknown(job)),
        ("paid for nothing", screen.money(job.lost_cost_micros) if job.lost_cost_micros else None),
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


def _expected(outlook: Outlook, now: datetime) -> list[tuple[str, str | Text | None]]:
    place, eta = outlook.queue_position, outlook.eta
    told: list[tuple[str, str | Text | None]] = []
    if place is not None:
        told.append(("queue position", str(place)))
    if eta is not None:
        basis = f"from {eta.samples} like it" if eta.samples else "a rule of thumb"
        half, nearly = screen.ago(eta.p50, now), screen.ago(eta.p90, now)
        told.append(("ready", f"{half}, with nine of ten {nearly} ({basis})"))
    return told


def _show_facts(facts: Sequence[tuple[str, str | Text | None]], out: Console) -> None:
    grid = Table.grid(padding=(0, 3, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts:
        if value is not None:
            # As Text: of a str rich would take `[code]` for a style.
            grid.add_row(name, value if isinstance(value, Text) else Text(screen.plain(value)))
    out.print(grid, soft_wrap=False)


def _show_rows(
    columns: Sequence[str],
    rows: Sequence[Sequence[str | Text]],
    out: Console,
    *,
    nothing: str,
    narrow: Set[str] = frozenset(),
    last: str | None = None,
) -> None:
    """
    A table on a terminal, tab-separated lines under a header elsewhere.

    Args:
        nothing: What a terminal is told instead of an empty table.
        narrow: Columns that a terminal has no room for.
        last: The column that takes what room there is, at the end.
    """
    if not out.is_terminal:
        for row in (columns, *rows):
            out.file.write("\t".join(screen.plain(cell) for cell in row) + "\n")
        return
    if not rows:
        out.print(f"[dim]{nothing}[/]")
        return
    order = [index for index, name in enumerate(columns) if name not in narrow and name != last]
    order += [columns.index(last)] if last else []
    table = Table(
        box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold", expand=last is not None
    )
    for index in order:
        name = columns[index]
        table.add_column(
            name.capitalize(),
            no_wrap=True,
            overflow="ellipsis",
            ratio=1 if name == last else None,
        )
    for row in rows:
        cells = [row[index] for index in order]
        table.add_row(
            *(cell if isinstance(cell, Text) else Text(screen.plain(cell)) for cell in cells)
        )
    out.print(table)


def _model_state(provider: dict[str, Any], model: dict[str, Any]) -> str:
    ends_on = model["retires_on"]
    is_over = ends_on is not None and date.fromisoformat(ends_on) <= datetime.now(UTC).date()
    if model["available"]:  # also at a compatible server, for which the vendor's day means nothing
        return f"usable until {ends_on}" if ends_on and not is_over else "usable"
    return f"ended on {ends_on}" if provider["configured"] and is_over else "no key"


def _pressure(provider: dict[str, Any]) -> str:
    if not provider["configured"]:
        return "no key"
    used = provider["turns_used"]
    turns = "Redis is away" if used is None else f"{used} of {provider['limit_per_min']}"
    told = [f"{turns} submits in the last minute"]
    if (breaker := provider["breaker"]) and breaker["open"]:
        told.append(f"does not answer: left alone for {screen.span(breaker['pause_s'])}")
    if provider["paused"]:
        told.append("paused")
    return ", ".join(told)


def _paused(pause: Mapping[str, Any]) -> str:
    what = pause["provider"] or "everything: a drain"
    why = f": {pause['reason']}" if pause["reason"] not in {"", "drain"} else ""
    return f"{what}, by {pause['by']}{why}"


def _counted(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}" if count == 1 else f"{count or 'no'} {noun}s"


def _told(event: JobEvent) -> str:
    attempt = f"attempt {event.attempt}" if event.attempt else ""
    detail = ", ".join(
        f"{name}: {_word(value)}" for name, value in event.detail.items() if value != []
    )
    by = f"by {event.by}" if event.by else ""
    worker = f"worker {event.worker_id}" if event.worker_id else ""
    return ", ".join(part for part in (by, attempt, detail, worker) if part)


def _word(value: JsonValue) -> str:
    """*value* of a detail; a target by its name."""
    match value:
        case {"provider": provider, "model": model, "reason": reason}:
            return f"{provider}/{model} ({reason})"
        case {"provider": provider, "model": model}:
            return f"{provider}/{model}"
        case list():
            return " and ".join(map(_word, value))
        case _:
            return str(value)


def _unknown(job: VideoJob) -> str | None:
    count = lifecycle.unknown_attempts(job)
    if not count:
        return None
    each = screen.money(job.estimated_cost_micros)
    return f"the cost of {count} attempt{'s' if count > 1 else ''}, {each} each at list price"


def _is_due(delivery: Delivery, now: datetime, out: Console) -> bool:
    """Whether a person is told "now" instead of a moment that has passed."""
    return out.is_terminal and delivery.next_at is not None and delivery.next_at <= now


def _since_s(at: datetime, now: datetime) -> float:
    return max((now - at).total_seconds(), 0.0)


def _when(at: datetime | None, now: datetime, out: Console) -> str:
    """For people how long ago, for programs the moment itself."""
    return screen.ago(at, now) if out.is_terminal else _iso(at) or ""


def _iso(at: datetime | None) -> str | None:
    return None if at is None else iso(at)


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
