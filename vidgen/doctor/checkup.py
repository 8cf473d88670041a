"""All checks, side by side: the slowest decides how long it takes."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Set
from functools import partial

from vidgen.doctor import bucket, clocks, providers, secrets, servers
from vidgen.doctor.finding import Finding, State, ok, problem, warning
from vidgen.errors import SettingsError, TransientError, VidgenError
from vidgen.settings import Settings

CHECK_TIMEOUT_S = 45.0

Check = Callable[[Settings], Awaitable[Finding]]

# In the order in which they are told: what others need comes first.
CHECKS: Mapping[str, Check] = {
    servers.POSTGRESQL: servers.postgresql,
    servers.SCHEMA: servers.schema,
    servers.REDIS: servers.redis,
    servers.EVICTION: servers.eviction,
    bucket.BUCKET: bucket.bucket,
    clocks.CLOCKS: clocks.clocks,
    providers.PLUGINS: providers.plugins,
    providers.MODELS: providers.models,
    secrets.WEBHOOKS: secrets.webhooks,
    secrets.SEALING: secrets.sealing,
    secrets.TOKENS: secrets.tokens,
    servers.BUDGETS: servers.money,
    servers.WORKERS: servers.workers,
}
# Without these no worker gets anywhere, while each of the others may wait.
SERVERS: Mapping[str, Check] = {
    name: CHECKS[name]
    for name in (servers.POSTGRESQL, servers.REDIS, servers.EVICTION, bucket.BUCKET)
}
# What cannot be looked at if another one is not well.
NEEDS: Mapping[str, str] = {
    servers.SCHEMA: servers.POSTGRESQL,
    servers.WORKERS: servers.SCHEMA,
    servers.BUDGETS: servers.SCHEMA,
    servers.EVICTION: servers.REDIS,
}
SETTINGS = "settings"


def checks() -> dict[str, Check]:
    """Every check by its name, those of the providers' keys among them."""
    found: dict[str, Check] = {}
    for name, check in CHECKS.items():
        if name == providers.PLUGINS:
            found |= {
                interface.key_name: partial(providers.key, vendor=vendor, interface=interface)
                for vendor, interface in providers.interfaces()
            }
        found[name] = check
    return found


async def examine(
    load: Callable[[], Settings], only: Mapping[str, Check] | None = None
) -> list[Finding]:
    """
    Look at everything that the settings name; without usable ones at nothing else.

    Args:
        load: Gives them, or raises `SettingsError`.
        only: The checks to make; None makes every one.
    """
    try:
        settings = load()
    except SettingsError as error:
        return [
            problem(
                SETTINGS,
                error.message,
                "correct them in the environment or in .env; deploy/env.example has them all",
            )
        ]
    findings = {SETTINGS: ok(SETTINGS, f"usable; {len(settings.model_fields_set)} are set")}
    async with asyncio.TaskGroup() as group:
        running = {
            name: group.create_task(_outcome(check, settings))
            for name, check in (checks() if only is None else only).items()
        }
    ill: set[str] = set()
    for name, task in running.items():
        outcome = task.result()
        finding = outcome if isinstance(outcome, Finding) else _unseen(name, outcome, ill)
        findings[name] = finding
        if finding is not outcome or finding.state is State.PROBLEM:
            ill.add(name)
    return list(findings.values())


async def _outcome(check: Check, settings: Settings) -> Finding | VidgenError:
    """What *check* finds, or why it could not look."""
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            return await check(settings)
    except VidgenError as error:
        return error
    except TimeoutError:
        return TransientError(f"no answer within {CHECK_TIMEOUT_S:.0f} s")


def _unseen(name: str, error: VidgenError, ill: Set[str]) -> Finding:
    """One mishap is told once: what depends on what is *ill* is only not looked at."""
    needed = NEEDS.get(name)
    if needed in ill:
        return warning(name, "not looked at", f"see {needed}")
    return problem(
        name, f"[{error.code}] {error.message}", "mend what the sentence names, and look again"
    )
