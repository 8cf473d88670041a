"""
Who lost, who paid twice, and how long it took: bills, rows, events, bucket and logs side by side.
"""

import hashlib
import re
import signal
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from vidgen.job import EventType, JobStatus
from vidgen.resources import Clock, bucket_of
from vidgen.settings import Settings
from vidgen.simulator.control import Charge
from vidgen.simulator.s3 import S3Server
from vidgen.simulator.server import SimulatorServer
from vidgen.storage import Storage
from vidgen.store import budgets
from vidgen.store.pool import Database

MAX_BYTES = 64 * 1024 * 1024
# Before our own log is set up.
ARQ_GREETS = re.compile(r"\d\d:\d\d:\d\d: (Starting worker|redis_version)")
UPLOADS = {"PutObject", "CompleteMultipartUpload"}
FREEING = frozenset(
    {
        EventType.RELEASED,
        EventType.POSTPONED,
        EventType.ERRORED,
        EventType.REATTEMPTED,
        EventType.REROUTED,
        EventType.FAILED,
        EventType.COMPLETED,
        EventType.CANCELLED,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blow:
    """A worker that was killed, told to end, or frozen for longer than its lease, and when."""

    signal: signal.Signals
    at: datetime
    log: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """
    One accepted submit, and what has to be paid for it.

    Attributes:
        may_deliver: Its provider has not called it failed.
    """

    charge: Charge
    owed_micros: int
    may_deliver: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorecard:
    """
    What came of it all.

    Attributes:
        lost: Jobs that are not final, or completed without the very video in the bucket.
        paid_twice: Charges beyond the attempts the row knows, or beside one that may deliver.
        unknown: Jobs that say that nobody knows whether they were paid.
        silent: Charges that belong to no attempt, of jobs that do not say so.
        moved: How often jobs moved on to another provider, by the reason.
        recovered_s, hand_over_s: From each kill or freeze, each SIGTERM to a peer's claim, by job.
        repeated_uploads: Videos begun to be stored more often than once.
        orphaned_uploads: Unfinished multiparts that the cleanup aborted.
        open_uploads: Those that were open after it.
        books_off_micros: By how much the ledger differs from the bills, over all jobs; what only
            the provider knows may be on its bill or not.
        uncertain_micros: How much of the ledger that is.
        wasted_micros: What else brought no video, as its provider's verdict was: it has failed, and
            is charged.
        budgets_off: Budgets that are overdrawn, or whose count is not what the ledger says.
        defects: What workers logged that nobody planned.
        ended_alone: Workers that ended though nobody had told them to.
    """

    jobs: int
    completed: int
    failed: dict[str, int]
    lost: int
    paid_twice: int
    unknown: int
    silent: int
    moved: dict[str, int]
    recovered_s: tuple[float, ...]
    hand_over_s: tuple[float, ...]
    repeated_uploads: int
    orphaned_uploads: int
    open_uploads: int
    books_off_micros: int
    uncertain_micros: int
    wasted_micros: int
    budgets_off: int
    defects: tuple[str, ...]
    ended_alone: int

    def figures(self) -> dict[str, Any]:
        """As one line of JSON; percentiles in seconds."""
        return {
            "jobs": self.jobs,
            "completed": self.completed,
            "failed": self.failed,
            "lost": self.lost,
            "paid_twice": self.paid_twice,
            "unknown": self.unknown,
            "silent": self.silent,
            "moved": self.moved,
            "recovered": len(self.recovered_s),
            "recovered_p50_s": percentile(self.recovered_s, 50),
            "recovered_p99_s": percentile(self.recovered_s, 99),
            "handed_over": len(self.hand_over_s),
            "hand_over_p50_s": percentile(self.hand_over_s, 50),
            "hand_over_p99_s": percentile(self.hand_over_s, 99),
            "repeated_uploads": self.repeated_uploads,
            "orphaned_uploads": self.orphaned_uploads,
            "open_uploads": self.open_uploads,
            "books_off_micros": self.books_off_micros,
            "uncertain_micros": self.uncertain_micros,
            "wasted_micros": self.wasted_micros,
            "budgets_off": self.budgets_off,
            "defects": len(self.defects),
            "ended_alone": self.ended_alone,
        }


def percentile(values: Sequence[float], percent: int) -> float | None:
    """The value that *percent* of the sorted *values* do not exceed; None without any."""
    if not values:
        return None
    return round(values[min(len(values) * percent // 100, len(values) - 1)], 2)


async def judged(
    settings: Settings,
    simulator: SimulatorServer,
    s3: S3Server,
    logs: Path,
    blows: Sequence[Blow],
    ended_alone: int,
) -> Scorecard:
    """The score, once every worker has ended."""
    s3.faults.clear()  # what was meant for the workers must not meet the judge
    jobs, events, books = await _read(settings)
    bills = _bills(simulator)
    by_prompt: dict[str, list[Bill]] = defaultdict(list)
    for bill in bills:
        by_prompt[bill.charge.prompt].append(bill)
    told = {EventType.SUBMITTED, EventType.OVERTAKEN}
    known = {event["operation_id"] for event in events if event["type"] in told}
    surfaced = {job["prompt"] for job in jobs if job["error_code"] == "submit_unknown"}
    completed = [job for job in jobs if job["status"] == JobStatus.COMPLETED]
    orphaned, missing = await _bucket(settings, completed)
    unfinished = sum(job["status"] not in {"completed", "failed", "cancelled"} for job in jobs)
    return Scorecard(
        jobs=len(jobs),
        completed=len(completed),
        failed=dict(Counter(job["error_code"] for job in jobs if job["status"] == "failed")),
        lost=unfinished + missing,
        paid_twice=sum(_too_many(job["attempt"], by_prompt[job["prompt"]]) for job in jobs),
        unknown=len(surfaced),
        silent=sum(
            bill.charge.operation_id not in known and bill.charge.prompt not in surfaced
            for bill in bills
        ),
        moved=dict(
            Counter(event["reason"] for event in events if event["type"] == EventType.REROUTED)
        ),
        recovered_s=_gaps(blows, {signal.SIGKILL, signal.SIGSTOP}, events),
        hand_over_s=_gaps(blows, {signal.SIGTERM}, events),
        repeated_uploads=_repeated(s3),
        orphaned_uploads=orphaned,
        open_uploads=len(s3.uploads()),
        books_off_micros=sum(
            _books_off(books.get(job["id"]), by_prompt[job["prompt"]]) for job in jobs
        ),
        uncertain_micros=sum(entered["uncertain"] for entered in books.values()),
        wasted_micros=sum(entered["wasted"] for entered in books.values()),
        budgets_off=await _budgets_off(settings),
        defects=tuple(_defects(logs)),
        ended_alone=ended_alone,
    )


async def _read(
    settings: Settings,
) -> "tuple[list[asyncpg.Record], list[asyncpg.Record], dict[UUID, asyncpg.Record]]":
    """Jobs, their events, and the sums of the ledger by job."""
    connection = await asyncpg.connect(settings.database_url, timeout=10, command_timeout=30)
    try:
        jobs = await connection.fetch(
            "SELECT id, prompt, status, attempt, error_code, storage_key, sha256 FROM video_jobs"
        )
        events = await connection.fetch(
            """
            SELECT job_id, type, at, worker_id, detail ->> 'operation_id' AS operation_id,
                   detail ->> 'reason' AS reason
            FROM job_events ORDER BY job_id, seq
            """
        )
        books = await connection.fetch(
            """
            SELECT job_id,
                   coalesce(sum(micros) FILTER (
                       WHERE kind IN ('charged', 'wasted') AND NOT uncertain
                   ), 0)::bigint AS certain,
                   coalesce(sum(micros) FILTER (
                       WHERE kind = 'wasted' AND NOT uncertain
                   ), 0)::bigint AS wasted,
                   coalesce(sum(micros) FILTER (WHERE uncertain), 0)::bigint AS uncertain,
                   sum(
                       CASE kind WHEN 'reserved' THEN micros ELSE -micros END
                   )::bigint AS still_open
            FROM ledger GROUP BY job_id
            """
        )
    finally:
        await connection.close(timeout=10)
    return jobs, events, {row["job_id"]: row for row in books}


def _bills(simulator: SimulatorServer) -> list[Bill]:
    """What every simulated provider wants to be paid for."""
    return [
        Bill(
            charge=charge,
            owed_micros=one.owed_micros(charge),
            may_deliver=one.generations[charge.operation_id].fate is None,  # nobody cancels here
        )
        for one in simulator.simulators.values()
        for charge in one.bill
    ]


def _books_off(entered: "asyncpg.Record | None", bills: Sequence[Bill]) -> int:
    """How far the bills of a job are from what the ledger has."""
    billed = sum(bill.owed_micros for bill in bills)
    if entered is None:
        return billed
    lowest, uncertain, still_open = entered["certain"], entered["uncertain"], entered["still_open"]
    highest = lowest + uncertain
    off: int = max(lowest - billed, billed - highest, 0) + abs(still_open)
    return off


def _too_many(attempt: int, bills: Sequence[Bill]) -> int:
    return max(len(bills) - attempt, sum(bill.may_deliver for bill in bills) - 1, 0)


async def _budgets_off(settings: Settings) -> int:
    database = Database(settings.database_url, size=1)
    async with database, database.connection() as connection:
        wrong = await budgets.discrepancies(connection)
        overdrawn = [
            each
            for each in await budgets.listed(connection)
            if each.spent_micros + each.reserved_micros > each.limit_micros
        ]
    return len(wrong) + len(overdrawn)


async def _bucket(settings: Settings, completed: "list[asyncpg.Record]") -> tuple[int, int]:
    """How many unfinished uploads were aborted, and how many videos are not as their row says."""
    wrong = 0
    async with Storage.open(bucket_of(settings)) as storage:
        for job in completed:
            data = await storage.read(job["storage_key"], MAX_BYTES)
            wrong += hashlib.sha256(data).hexdigest() != job["sha256"]
        # S3 tells whole seconds.
        now = Clock().now() + timedelta(seconds=2)
        return await storage.abort_uploads_older_than("videos/", timedelta(), now), wrong


def _repeated(s3: S3Server) -> int:
    stored = Counter(
        one.key for one in s3.requests if one.operation in UPLOADS and one.key.endswith(".mp4")
    )
    return sum(times - 1 for times in stored.values())


def _gaps(
    blows: Sequence[Blow], kinds: set[signal.Signals], events: "Sequence[asyncpg.Record]"
) -> tuple[float, ...]:
    """Seconds from each blow of this kind to a peer's claim of each job that was held then."""
    by_job: dict[UUID, list[asyncpg.Record]] = defaultdict(list)
    for event in events:
        by_job[event["job_id"]].append(event)
    gaps: list[float] = []
    for blow in blows:
        worker = _worker_of(blow.log)
        if blow.signal in kinds and worker is not None:
            gaps += _gaps_of(worker, blow.at, by_job.values())
    return tuple(sorted(gaps))


def _gaps_of(
    worker: UUID, at: datetime, histories: "Iterable[list[asyncpg.Record]]"
) -> list[float]:
    gaps = []
    for history in histories:
        before = [event for event in history if event["at"] <= at]
        after = [event for event in history if event["at"] > at]
        if _holder(before) != worker:
            continue
        for one, next_ in pairwise(after):
            if one["type"] == EventType.RELEASED and next_["type"] == EventType.CLAIMED:
                gaps.append((next_["at"] - at).total_seconds())
            if one["type"] in FREEING:
                break  # what it ended itself was not handed over
    return gaps


def _holder(history: "Sequence[asyncpg.Record]") -> UUID | None:
    holder: UUID | None = None
    for event in history:
        if event["type"] == EventType.CLAIMED:
            holder = event["worker_id"]
        elif event["type"] in FREEING:
            holder = None
    return holder


def _worker_of(log: Path) -> UUID | None:
    for line in _lines(log):
        if isinstance(line, dict) and line["message"] == "worker ready":
            return UUID(line["workerId"])
    return None


def _defects(logs: Path) -> list[str]:
    found = []
    for log in sorted(logs.iterdir()):
        for line in _lines(log):
            if isinstance(line, str):
                found += [line] * (ARQ_GREETS.match(line) is None)
            elif line["level"] == "critical" or "defect" in line["message"]:
                found.append(orjson.dumps(line).decode())
    return found


def _lines(log: Path) -> Iterable[dict[str, Any] | str]:
    """Each line of *log*, parsed if it is one of ours; a kill may have cut the last one."""
    for raw in log.read_bytes().splitlines(keepends=True):
        if not raw.endswith(b"\n"):
            return
        try:
            yield orjson.loads(raw)
        except orjson.JSONDecodeError:
            yield raw.decode(errors="replace").rstrip()
