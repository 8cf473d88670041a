"""What Prometheus scrapes: the counts of this process, and what PostgreSQL and Redis know."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web
from loguru import logger
from prometheus_client.exposition import choose_encoder

from vidgen import catalog, metrics
from vidgen.errors import PluginBrokenError, ProviderNotConfiguredError, VidgenError
from vidgen.resources import Resources
from vidgen.store import budgets
from vidgen.store.budgets import Budget
from vidgen.store.figures import figures

# However many scrape, and however often: more is not asked of the servers.
KEPT_S = 5.0
ASK_TIMEOUT_S = 2.0  # a scrape that takes long is no scrape: Prometheus gives up after 10 s

routes = web.RouteTableDef()


class Asked:
    """What is asked for at a scrape, kept for a few seconds."""

    def __init__(self, resources: Resources) -> None:
        """Ask nothing yet."""
        self._resources = resources
        self._alone = asyncio.Lock()
        self._fresh_until = -math.inf

    async def refresh(self) -> None:
        """Ask again unless it is fresh; what cannot be had is left out, and said so."""
        async with self._alone:
            loop = asyncio.get_running_loop()
            if loop.time() < self._fresh_until:
                return
            async with asyncio.TaskGroup() as group:
                group.create_task(_ask("postgres", self._queue, _forget_queue))
                group.create_task(_ask("redis", self._breakers, metrics.BREAKER_OPEN.clear))
            self._fresh_until = loop.time() + KEPT_S

    async def _queue(self) -> None:
        async with self._resources.database.connection() as connection:
            found = await figures(connection, self._resources.settings.lease_ttl_s)
            found_budgets = await budgets.listed(connection)
        _forget_queue()
        for provider in catalog.names():
            for status in ("waiting", "delayed", "active", "failed"):
                metrics.QUEUE_JOBS.labels(status, provider)
        for (status, provider), jobs in found.jobs.items():
            known = provider if catalog.is_provider(provider) else metrics.OTHER
            metrics.QUEUE_JOBS.labels(status, known).inc(jobs)
        _tell_budgets(found_budgets)
        metrics.QUEUE_OLDEST.set(found.oldest_s)
        metrics.WORKERS_ALIVE.set(found.workers)
        metrics.WEBHOOKS_PENDING.set(found.webhooks)
        for provider in catalog.names():
            metrics.PAUSED.labels(provider).set(int(bool(found.paused & {provider, "*"})))

    async def _breakers(self) -> None:
        for provider in catalog.names():
            states = [
                await self._resources.breakers.state(provider, account)
                for account in _accounts(self._resources, provider)
            ]
            is_open = any(state.is_open for state in states)
            metrics.BREAKER_OPEN.labels(provider).set(int(is_open))


ASKED = web.AppKey("asked", Asked)


@routes.get("/metrics")
async def scrape(request: web.Request) -> web.Response:
    """All metrics as text; as OpenMetrics for whoever accepts it."""
    await request.app[ASKED].refresh()
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return web.Response(body=encode(metrics.REGISTRY), headers={"Content-Type": content_type})


async def _ask(source: str, ask: Callable[[], Awaitable[None]], forget: Callable[[], None]) -> None:
    try:
        async with asyncio.timeout(ASK_TIMEOUT_S):
            await ask()
    except (VidgenError, TimeoutError) as error:
        forget()  # an old figure would look like a new one
        metrics.SCRAPE_ERROR.labels(source).set(1)
        code = error.code if isinstance(error, VidgenError) else "timeout"
        logger.warning("metrics are incomplete", source=source, code=code)
    else:
        metrics.SCRAPE_ERROR.labels(source).set(0)


def refused_for_money(code: str) -> None:
    """Count one request that no budget lets in."""
    metrics.BUDGET_REFUSALS.labels(code).inc()


def _tell_budgets(found: Sequence[Budget]) -> None:
    """Those of single users are counted only: an id is never a label."""
    near = dict.fromkeys(budgets.PERIODS, 0)
    for each in found:
        near[each.period] += each.near
        if not each.scope.startswith(budgets.USER):
            metrics.BUDGET_LIMIT.labels(each.scope, each.period).set(
                each.limit_micros / metrics.MICROS_PER_DOLLAR
            )
            metrics.BUDGET_USED.labels(each.scope, each.period).set(
                (each.spent_micros + each.reserved_micros) / metrics.MICROS_PER_DOLLAR
            )
    for period, count in near.items():
        metrics.BUDGETS_NEAR.labels(period).set(count)


def _forget_queue() -> None:
    for told in (metrics.BUDGET_LIMIT, metrics.BUDGET_USED, metrics.BUDGETS_NEAR):
        told.clear()
    metrics.QUEUE_JOBS.clear()
    metrics.PAUSED.clear()
    for gauge in (metrics.QUEUE_OLDEST, metrics.WORKERS_ALIVE, metrics.WEBHOOKS_PENDING):
        gauge.set(math.nan)


def _accounts(resources: Resources, provider: str) -> set[str]:
    """Whoever is asked for the models of *provider*; empty if no credential is set."""
    accounts: set[str] = set()
    for model in catalog.models():
        if model.provider == provider:
            try:
                accounts.add(resources.providers.account(provider, model.name))
            except (PluginBrokenError, ProviderNotConfiguredError):
                continue
    return accounts
