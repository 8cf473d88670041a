"""
Every provider as the first target, and every fault that its wire has: the bills of all simulators
are the judge, and there are never two for one video.

A world holds many cells, a fault at a provider each, with another provider behind it: all are
carried at once and judged at the end. Faults that a breaker counts share one up to four.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import pytest
from pydantic import SecretStr

from tests.ledger import assert_kept
from tests.pipeline.conftest import Carrier
from tests.pipeline.test_failures import a_rule, quick
from tests.providers.formats.all import FORMATS
from vidgen import Fallback, JobStatus, VideoJob, VideoRequest, catalog
from vidgen.job import REROUTES_BY_DEFAULT, EventType, RerouteReason
from vidgen.settings import Settings
from vidgen.simulator.server import SimulatorServer
from vidgen.store import ledger
from vidgen.testing.provider_wire import Format

__all__ = ["quick"]

# One wire for each provider: two would have one breaker, and five refusals open it.
FIRST = {each.request.provider: each for each in reversed(FORMATS.values())}
TEXT_ONLY = {"fal": "fal-ai/veo3.1/fast"}  # where the model of the format wants an image

# Whether a lost receipt can be looked for decides what becomes of it.
LISTING = frozenset({"sora", "replicate", "luma", "kling"})
# What moderation blocks after the submit is billed there (at Runway if it was the input).
CHARGES_BLOCKED = frozenset({"runway", "fal", "xai"})
POLICY, CHARGED = RerouteReason.POLICY, RerouteReason.CHARGED


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """
    What became of one job.

    Attributes:
        moved: Why it left its first provider; None if it did not.
        ended: `completed`, or the code of its failure.
        delivered: How many whole videos are on the bills of the first provider, of the one behind
            it, and of all others.
        entered: The ledger, entry by entry; `?` where only the provider knows.
    """

    moved: str | None
    ended: str
    delivered: tuple[int, int, int]
    entered: str


def moves(reason: str) -> Cell:
    return Cell(
        moved=reason,
        ended="completed",
        delivered=(0, 1, 0),
        entered="reserved released reserved charged",
    )


def refused(code: str) -> Cell:
    return Cell(moved=None, ended=code, delivered=(0, 0, 0), entered="reserved released")


MADE = Cell(moved=None, ended="completed", delivered=(1, 0, 0), entered="reserved charged")
LOST = Cell(moved=None, ended="submit_unknown", delivered=(1, 0, 0), entered="reserved wasted?")
NEVER_SEEN = replace(LOST, delivered=(0, 0, 0))
PAID_FOR_NOTHING = Cell(
    moved=None, ended="content_blocked", delivered=(0, 0, 0), entered="reserved wasted"
)
PAID_AND_MOVED = replace(moves("policy"), entered="reserved wasted reserved charged")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """
    One column of the matrix.

    Attributes:
        rules: What happens at a wire, each in a cell of its own; none: it has no such fault.
        outcome: What becomes of the job, by the name of its first provider.
        allows: What it may be moved on for, beside the usual.
    """

    rules: Callable[[Format], tuple[str, ...]]
    outcome: Callable[[str], Cell]
    allows: tuple[str, ...] = ()


def always(rule: str) -> Callable[[Format], tuple[str, ...]]:
    """*rule* for each format, but for those whose vendor has no such refusal."""

    def rules(wire: Format) -> tuple[str, ...]:
        outcome = rule.partition(" ")[2]
        return () if wire.refusals.get(outcome, Exception) is None else (rule,)

    return rules


def each(cell: Cell) -> Callable[[str], Cell]:
    return lambda _provider: cell


def accepted(provider: str) -> Cell:
    """It was accepted and nobody was told."""
    return MADE if provider in LISTING else LOST


def blocked(moved: Cell, charged: Cell) -> Callable[[str], Cell]:
    return lambda provider: charged if provider in CHARGES_BLOCKED else moved


POLICY_AT_SUBMIT = always("submit 400-moderation")


def policy_as_a_verdict(wire: Format) -> tuple[str, ...]:
    return tuple(f"poll {verdict}" for verdict in wire.blocked[:1])


POLICIES: Mapping[str, Fault] = {
    "policy": Fault(rules=POLICY_AT_SUBMIT, outcome=each(refused("content_blocked"))),
    "policy, allowed": Fault(
        rules=POLICY_AT_SUBMIT, outcome=each(moves("policy")), allows=(POLICY,)
    ),
    "policy, late": Fault(
        rules=policy_as_a_verdict, outcome=blocked(refused("content_blocked"), PAID_FOR_NOTHING)
    ),
    "policy, late and allowed": Fault(
        rules=policy_as_a_verdict,
        outcome=blocked(moves("policy"), PAID_FOR_NOTHING),
        allows=(POLICY,),
    ),
    "policy, late and allowed with a charge": Fault(
        rules=policy_as_a_verdict,
        outcome=blocked(moves("policy"), PAID_AND_MOVED),
        allows=(POLICY, CHARGED),
    ),
}
REFUSALS: Mapping[str, Fault] = {
    "429 for long": Fault(
        rules=lambda wire: ("submit 429-retry-after 90",) * ("429-retry-after" in wire.hints),
        outcome=each(moves("refused")),
    ),
    "404": Fault(rules=always("submit 404-model"), outcome=each(moves("retired"))),
    "410": Fault(rules=always("submit 410"), outcome=each(moves("retired"))),
    "quota": Fault(
        rules=lambda wire: tuple(f"submit {refusal}" for refusal in wire.money),
        outcome=each(moves("quota")),
    ),
    "401": Fault(rules=always("submit 401"), outcome=each(moves("auth"))),
    "400": Fault(rules=always("submit 400"), outcome=each(refused("input_rejected"))),
    "failed": Fault(
        rules=lambda wire: () if wire.charges_failures else (f"poll {wire.failed[0]}",),
        outcome=each(moves("failed")),
    ),
    "no receipt": Fault(rules=always("submit missing-id"), outcome=accepted),
}
DOWN: Mapping[str, Fault] = {
    "503": Fault(rules=always("submit 503"), outcome=each(moves("refused")))
}
ACCEPTED: Mapping[str, Fault] = {
    "timeout": Fault(rules=always("submit accept-then-hang"), outcome=accepted),
    "cut": Fault(rules=always("submit accept-then-disconnect"), outcome=accepted),
    "500": Fault(rules=always("submit accept-then-500"), outcome=accepted),
    "502": Fault(rules=always("submit accept-then-502"), outcome=accepted),
}
ASIDE: Mapping[str, Fault] = {
    "303": Fault(rules=always("submit accept-then-303"), outcome=accepted),
    "409": Fault(rules=always("submit accept-then-409"), outcome=accepted),
    "503": Fault(rules=always("submit accept-then-503-connection-termination"), outcome=accepted),
    "307": Fault(
        rules=always("submit 307"),
        outcome=each(moves("rejected")),
        allows=(RerouteReason.REJECTED,),
    ),
}
NOT_ACCEPTED: Mapping[str, Fault] = {
    "cut": Fault(
        rules=always("submit disconnect"),
        outcome=lambda provider: moves("absent") if provider in LISTING else NEVER_SEEN,
    )
}


@pytest.fixture
def settings(settings: Settings, simulator: SimulatorServer) -> Settings:
    """With every simulated vendor, and a key for each."""
    addresses = simulator.addresses()
    update: dict[str, object] = {
        "settle_s": 0.2,
        "submit_timeout_s": 2,
        "lease_ttl_s": 15,  # hundreds of jobs at once keep one loop busy
    }
    for variable, address in addresses.items():
        update |= dict.fromkeys(Settings.of_variables({variable}), address)
    keys = Settings.of_variables(catalog.key_variables(addresses))
    return settings.model_copy(update=update | dict.fromkeys(keys, SecretStr("sk-test")))


def wish(provider: str, prompt: str) -> VideoRequest:
    """What the format of *provider* is asked for, in other words."""
    wanted: VideoRequest = FIRST[provider].request
    model = TEXT_ONLY.get(provider, wanted.model)
    return replace(wanted, model=model, prompt=prompt, audio=None)


def routed(provider: str, prompt: str, allows: tuple[str, ...]) -> VideoRequest:
    """The same, with the provider before it behind it."""
    names = [*FIRST]
    behind = wish(names[names.index(provider) - 1], prompt)
    there = Fallback(
        provider=behind.provider,
        model=behind.model,
        seconds=behind.seconds,
        size=behind.size,
        aspect_ratio=behind.aspect_ratio,
        resolution=behind.resolution,
    )
    return replace(
        wish(provider, prompt),
        fallbacks=[there],
        reroute_on=[*REROUTES_BY_DEFAULT, *allows],
        max_cost_micros=100_000_000,
    )


async def judged(carrier: Carrier, simulator: SimulatorServer, job: VideoJob) -> Cell:
    """What became of *job*, by its timeline, by the ledger, and by what each simulator billed."""
    first, behind = (target.provider for target in job.targets)
    delivered = dict.fromkeys((first, behind, "others"), 0)
    billed: dict[str, int] = {}
    for name, vendor in simulator.simulators.items():
        for charge in vendor.bill:
            if charge.prompt != job.prompt:
                continue
            billed[name] = billed.get(name, 0) + charge.cost_micros
            if vendor.generations[charge.operation_id].fate is None:
                delivered[name if name in delivered else "others"] += 1
    moved = [
        str(event.detail["reason"])
        for event in await carrier.queue.history(job.id)
        if event.type is EventType.REROUTED
    ]
    async with carrier.resources.database.connection() as connection:
        entries = await ledger.of_job(connection, job.id)
    paid = {
        entry.provider: entry.micros for entry in entries if entry.kind in {"charged", "wasted"}
    }
    assert paid.items() <= billed.items() or job.error_code == "submit_unknown", (paid, billed)
    assert len(moved) <= 1
    return Cell(
        moved=moved[0] if moved else None,
        ended=str(job.error_code if job.status is JobStatus.FAILED else job.status),
        delivered=(delivered[first], delivered[behind], delivered["others"]),
        entered=" ".join(f"{entry.kind}{'?' * entry.uncertain}" for entry in entries),
    )


async def finished(carrier: Carrier, *requests: VideoRequest) -> list[VideoJob]:
    """All of them at once, carried to their ends."""
    jobs = [await carrier.enqueue(request) for request in requests]
    async with asyncio.TaskGroup() as group:
        carried = [group.create_task(carrier.finish(job)) for job in jobs]
    return [task.result() for task in carried]


async def meet(
    carrier: Carrier, simulator: SimulatorServer, faults: Mapping[str, Fault]
) -> tuple[dict[str, Cell], dict[str, Cell]]:
    """What became of all cells of *faults*, and what ought to."""
    requests: dict[str, VideoRequest] = {}
    wanted: dict[str, Cell] = {}
    for name, fault in faults.items():
        for provider, wire in FIRST.items():
            for rule in fault.rules(wire):
                cell = f"{name} ({rule}) at {provider}"
                requests[cell] = routed(provider, f"a tram in the rain; {cell}", fault.allows)
                wanted[cell] = fault.outcome(provider)
                here = replace(a_rule(rule), prompt=cell)
                simulator.simulators[provider].script(here)
    jobs = await finished(carrier, *requests.values())
    found = {
        cell: await judged(carrier, simulator, job)
        for cell, job in zip(requests, jobs, strict=True)
    }
    async with carrier.resources.database.connection() as connection:
        await assert_kept(connection, *jobs)
    assert not [name for name, vendor in simulator.simulators.items() if vendor.paid_twice()]
    return found, wanted


@pytest.mark.parametrize(
    "faults",
    [POLICIES, REFUSALS, DOWN, ACCEPTED, ASIDE],
    ids=["policies", "refusals", "down", "accepted", "aside"],
)
async def test_only_a_proof_moves_a_job_on_from_any_provider_and_one_video_is_billed_once(
    carrier: Carrier, simulator: SimulatorServer, faults: Mapping[str, Fault]
) -> None:
    found, wanted = await meet(carrier, simulator, faults)

    assert found == wanted


async def test_from_providers_whose_lists_prove_that_nothing_arrived_a_job_moves_on(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    providers = carrier.resources.providers
    assert {name for name in FIRST if providers.finder(name) is not None} == LISTING
    await finished(carrier, *(wish(provider, "shows that the list lists") for provider in LISTING))

    found, wanted = await meet(carrier, simulator, NOT_ACCEPTED)

    assert found == wanted


def test_every_provider_of_ours_is_in_the_matrix() -> None:
    assert {vendor.name for vendor in catalog.vendors()} == set(FIRST)
