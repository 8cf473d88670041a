"""
How it stands with the targets of a job: asked before money is spent, and before it moves on.

What moves it, and where to, is decided in `lifecycle.onward`.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from loguru import logger

from vidgen import catalog, lifecycle
from vidgen.errors import (
    BudgetError,
    DatabaseError,
    DispatchError,
    KeyUnreadableError,
    ModelRetiredError,
    PluginBrokenError,
    ProviderNotConfiguredError,
    TransientError,
    UnknownProviderError,
)
from vidgen.job import EventType, RerouteReason, Stage, VideoJob
from vidgen.lifecycle import Prospect, Transition
from vidgen.pipeline import credentials
from vidgen.pipeline.leases import Held
from vidgen.resources import Resources
from vidgen.store import steering

Decision = TypeVar("Decision", bound=Transition | None)

# A refusal must be written soon: should the worker die before, nobody would know that it was one.
LOOK_TIMEOUT_S = 2.0
ALL = "*"  # the pause of every provider


def check(resources: Resources, job: VideoJob) -> None:
    """
    See that the target in force is worth a submit.

    Raises:
        CostCeilingError: All attempts together could cost more than the job may.
        ModelRetiredError: Its model was switched off since, and the job has other targets.
    """
    lifecycle.check_affordable(job)
    if job.targets and _is_retired(resources, job):
        raise ModelRetiredError(f"{job.provider}/{job.model} was switched off by its vendor")


async def prospects(resources: Resources, job: VideoJob) -> tuple[Prospect, ...]:
    """
    Every target behind the one in force, and what is in its way now.

    What cannot be looked at in time counts as free: the next submit looks again.
    """
    behind = range(job.target + 1, len(job.targets))
    found = {target: Prospect(target=target) for target in behind}
    try:
        async with asyncio.timeout(LOOK_TIMEOUT_S):
            paused = await _paused(resources) if found else frozenset()
            for target in behind:
                there = job.targets[target]
                # As the job would be.
                moved = replace(
                    job,
                    stage=Stage.QUEUED,
                    provider=there.provider,
                    model=there.model,
                    operation=None,
                    credential_id=None,
                )
                obstacle = await _obstacle(resources, moved, paused)
                found[target] = Prospect(target=target, obstacle=obstacle)
    except (DatabaseError, DispatchError, TimeoutError) as error:
        logger.warning("targets not looked at", reason=str(error) or "no answer in time")
    return tuple(found.values())


async def move(
    resources: Resources, held: Held, decide: Callable[[Sequence[Prospect]], Decision]
) -> Decision:
    """
    Write what *decide* makes of the targets behind, and return it; None if it decides for nothing.

    A target whose price no budget bears is passed over: the reservation for it is made with the
    move, or neither.
    """
    found = await prospects(resources, held.job)
    while True:
        change = decide(found)
        if change is None:
            return change
        try:
            job = await held.apply(change)
        except BudgetError:
            if change.event is not EventType.REROUTED:
                raise
            to = change.changes["target"]
            found = tuple(
                replace(each, obstacle=RerouteReason.BUDGET) if each.target == to else each
                for each in found
            )
            continue
        if change.event is EventType.REROUTED:
            logger.info(
                "job moved on",
                reason=change.detail["reason"],
                target=job.target,
                to=job.provider,
                model=job.model,
            )
        return change


async def leave_closed(resources: Resources, held: Held) -> bool:
    """Move a job on whose provider is left alone now; False if it has to wait for it."""
    job = held.job
    if RerouteReason.DOWN not in job.reroute_on:
        return False
    error = TransientError(f"{job.provider} does not answer, and submits to it pause")

    def decide(found: Sequence[Prospect]) -> Transition | None:
        now = resources.clock.now()
        return lifecycle.onward(job, error, RerouteReason.DOWN, found, now=now, patient=True)

    return await move(resources, held, decide) is not None


async def _paused(resources: Resources) -> frozenset[str]:
    async with resources.database.connection() as connection:
        return frozenset(pause.provider or ALL for pause in await steering.pauses(connection))


async def _obstacle(resources: Resources, job: VideoJob, paused: frozenset[str]) -> str | None:
    try:
        if _is_retired(resources, job):
            return RerouteReason.RETIRED
        credential = await credentials.resolve(resources, job)
        account = resources.providers.account(job.provider, job.model, credential)
    except (PluginBrokenError, ProviderNotConfiguredError, UnknownProviderError):
        return RerouteReason.UNCONFIGURED
    except KeyUnreadableError as error:
        return error.code
    if paused & {job.provider, ALL}:
        return "paused"
    state = await resources.breakers.state(job.provider, account)
    return RerouteReason.DOWN if state.is_open else None


def _is_retired(resources: Resources, job: VideoJob) -> bool:
    model = catalog.find(job.provider, job.model)
    return model is not None and catalog.is_retired(
        model,
        today=resources.clock.now().date(),
        endpoints=resources.providers.config.endpoints,
    )
