"""
What tests and demos script and read: one `ProviderSimulator` for each simulated provider.

    async with SimulatorServer() as simulators:
        simulators.sora.script(Rule(deed="submit", outcome="429-retry-after", argument="2"))
        ...
        await simulators.sora.arrived("poll", 3)
        assert len(simulators.sora.bill) == 1

The bill is what judges of "paid twice" read: one charge for each submit that was accepted, whether
its answer ever reached anybody or not. A generation costs no task: where it stands follows from
the clock, so ten thousand of them are ten thousand small records.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from vidgen.job import JsonValue
from vidgen.simulator import faults
from vidgen.simulator.faults import MODIFIERS, VERDICTS, Deed, Outcome

RECEIVED_LIMIT = 20_000
# Failures of which the vendor keeps the money though nobody gets a video: it was made.
_MADE = frozenset({"expired", "never"})
_DECIDED_AT_SUBMIT = frozenset({"generate", "hidden"})


def unix_now() -> float:
    """Seconds since 1970: the wire formats speak of them, and they outlive the process."""
    return datetime.now(UTC).timestamp()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """
    One scripted outcome: of *deed*, for prompts that contain *prompt*.

    Attributes:
        outcome: A name of `vidgen.simulator.faults`, e.g. `503`, `moderation`, `redirect-foreign`.
        argument: What the outcome calls for, e.g. `2`, `500ms`, `64k`.
        nth: Only the nth matching request, counted from 1.
        times: How often, None means always. A verdict counts generations, everything else requests.
    """

    deed: Deed
    outcome: str
    argument: str | None = None
    prompt: str | None = None
    nth: int | None = None
    times: int | None = None

    def __post_init__(self) -> None:
        """Refuse a misspelt outcome here, where the test that wrote it can be seen."""
        faults.check(self.deed, Outcome(name=self.outcome, argument=self.argument))


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """
    One request as it came in.

    Attributes:
        headers: Names in lower case.
        body: JSON as parsed; of a form its fields, each file as `{filename, content_type,
            size_bytes, sha256}`.
        at: The loop's time.
        host: The `Host` header: which of our names the client used.
    """

    deed: Deed | None
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: JsonValue
    at: float
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """One accepted submit on the bill; *at* is the loop's time."""

    operation_id: str
    prompt: str
    model: str
    seconds: int
    cost_micros: int
    at: float
    parameters: Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a valid submit asks for, read from its wire format, every default filled in."""

    operation_id: str
    prompt: str
    model: str
    seconds: int
    width: int
    height: int
    audio: bool
    cost_micros: int
    samples: int = 1
    project: str = ""
    parameters: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Generation:
    """
    One accepted wish on its way. Times are unix seconds.

    Attributes:
        fate: How it ended if not well; decided at the first look after *ready_at*.
        listed_at: From when on the list shows it.
        shown_at: The moment of the answer that is being made: all in it is of one moment, or it
            would call finished what had no fate yet a line before.
    """

    wish: Wish
    created_at: float
    ready_at: float
    listed_at: float
    shown_at: float | None = None
    fate: Outcome | None = None
    fate_is_sealed: bool = False

    @property
    def id(self) -> str:
        """The provider's name for it."""
        return self.wish.operation_id

    def is_due(self) -> bool:
        """Its time has come (and it is not one that never ends)."""
        now = unix_now() if self.shown_at is None else self.shown_at
        return now >= self.ready_at and not (self.fate and self.fate.name == "never")

    def show(self) -> None:
        """Begin an answer, of which nothing is awaited until it is made."""
        self.shown_at = unix_now()
        asyncio.get_running_loop().call_soon(self._answered)

    def percent(self) -> int:
        """0 to 99 while it runs, 100 when due."""
        if self.is_due():
            return 100
        now = unix_now()
        if now >= self.ready_at:
            return 99  # one that never ends, or is about to
        return max(0, int((now - self.created_at) / (self.ready_at - self.created_at) * 99))

    def _answered(self) -> None:
        self.shown_at = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """What the script wants for one request: at most one *outcome* in place of the answer."""

    outcome: Outcome | None = None
    modifiers: Mapping[str, Outcome] = field(default_factory=dict)

    def number(self, name: str, default: float = 0) -> float:
        """The argument of the modifier *name*, *default* if it was not drawn."""
        found = self.modifiers.get(name)
        return default if found is None else found.number(default)


@dataclass(slots=True)
class _Scripted:
    """
    A rule and how often it has matched and been used.

    Rules of a test count over all requests; those of a prompt's directives count for each
    operation on its own, so that a hundred videos of one prompt behave alike.
    """

    rule: Rule
    from_prompt: bool = False
    seen: Counter[str] = field(default_factory=Counter)
    used: Counter[str] = field(default_factory=Counter)

    def matches(self, deed: Deed, prompt: str) -> bool:
        wanted = self.rule.prompt
        return self.rule.deed == deed and (wanted is None or wanted in prompt)

    def is_due(self, scope: str) -> bool:
        self.seen[scope] += 1
        rule = self.rule
        if rule.nth is not None and self.seen[scope] != rule.nth:
            return False
        return rule.times is None or self.used[scope] < rule.times


def refunded(wish: Wish, fate: Outcome) -> int:
    """What is owed for a failure where the vendor bills what it has made, and nothing else."""
    return wish.cost_micros if fate.name in _MADE else 0


@dataclass(slots=True, kw_only=True)
class ProviderSimulator:
    """
    One simulated provider: its script, its record of what came, its bill, its generations.

    Attributes:
        origin: `http://host:port` it listens at, set once the server is up.
        generation_s: Time until a video is ready; a callable is asked once for each (jitter).
        keys: The accepted API keys. None means any that does not start with `wrong`.
        clip: Served in place of rendered clips, for tests that count bytes and not pictures.
        dialect: Whose manners the OpenAI protocol has, see `sora_request.DIALECTS`.
        poll_after_ms: Sent as `openai-poll-after-ms`, None means not at all.
        token_lifetime_s: How long an access token of the token endpoint is good.
        tokens: Access tokens and when (loop's time) each ends.
        failure_cost: What it bills for a wish that ended so, in micro-dollars.
    """

    name: str
    generation_s: float | Callable[[], float] = 2.0
    origin: str = ""
    keys: frozenset[str] | None = None
    clip: bytes | None = None
    dialect: str = "openai"
    poll_after_ms: int | None = None
    token_lifetime_s: float = 3600.0
    tokens: dict[str, float] = field(default_factory=dict)
    failure_cost: Callable[[Wish, Outcome], int] = refunded
    received: deque[Received] = field(default_factory=lambda: deque(maxlen=RECEIVED_LIMIT))
    bill: list[Charge] = field(default_factory=list)
    generations: dict[str, Generation] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    on_change: Callable[[Generation | None, str], None] | None = None
    _scripted: list[_Scripted] = field(default_factory=list)
    _directed: dict[str, tuple[_Scripted, ...]] = field(default_factory=dict)
    _arrival: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        """Base URL of the OpenAI protocol; of the foreign host, of anything at all."""
        return f"{self.origin}/v1"

    @property
    def gemini_url(self) -> str:
        """Base URL of the Gemini API."""
        return f"{self.origin}/v1beta"

    @property
    def vertex_url(self) -> str:
        """Base URL of Vertex AI."""
        return f"{self.origin}/v1"

    @property
    def gcs_url(self) -> str:
        """Base URL of Google Cloud Storage, before `/storage/v1`."""
        return self.origin

    @property
    def token_url(self) -> str:
        """Where service accounts get their access tokens."""
        return f"{self.origin}/token"

    @property
    def submits(self) -> list[Charge]:
        """The accepted paid submits: the bill."""
        return self.bill

    def owed_micros(self, charge: Charge) -> int:
        """What of *charge* has to be paid, as things stand: of a failure maybe not all."""
        generation = self.generations.get(charge.operation_id)
        if generation is None or generation.fate is None:
            return charge.cost_micros
        return self.failure_cost(generation.wish, generation.fate)

    def paid_twice(self) -> list[str]:
        """The prompts that were billed more than once."""
        return [
            prompt for prompt, times in Counter(c.prompt for c in self.bill).items() if times > 1
        ]

    def script(self, *rules: Rule) -> None:
        """Add *rules*; earlier ones win."""
        self._scripted.extend(map(_Scripted, rules))

    def reset(self) -> None:
        """Forget the script, the record, the bill and every generation."""
        for store in (self.received, self.bill, self.generations, self.counts, self.tokens):
            store.clear()
        self._scripted.clear()
        self._directed.clear()
        if self.on_change is not None:
            self.on_change(None, "reset")

    async def arrived(self, deed: Deed, count: int = 1) -> None:
        """Return once *count* requests of *deed* have come in all (put it under a timeout)."""
        while self.counts[deed] < count:
            await self._arrival.wait()

    def of(self, deed: Deed) -> list[Received]:
        """The received requests of one deed, oldest first."""
        return [request for request in self.received if request.deed == deed]

    def record(self, request: Received) -> None:
        """Remember *request* and wake those who wait for it."""
        self.received.append(request)
        if request.deed is not None:
            self.counts[request.deed] += 1
        self._arrival.set()
        self._arrival = asyncio.Event()

    def accept(self, wish: Wish, *, at: float) -> Generation:
        """Bill *wish* and start it: from here on it costs money, answered or not."""
        hidden = self.draw("list", prompt=wish.prompt, only=_DECIDED_AT_SUBMIT)
        chosen = self.draw("submit", prompt=wish.prompt, only=_DECIDED_AT_SUBMIT)
        usual_s = self.generation_s() if callable(self.generation_s) else self.generation_s
        now = unix_now()
        generation = Generation(
            wish=wish,
            created_at=now,
            ready_at=now + chosen.number("generate", usual_s),
            listed_at=now + hidden.number("hidden"),
        )
        self.generations[wish.operation_id] = generation
        self.bill.append(
            Charge(
                operation_id=wish.operation_id,
                prompt=wish.prompt,
                model=wish.model,
                seconds=wish.seconds,
                cost_micros=wish.cost_micros,
                at=at,
                parameters=wish.parameters,
            )
        )
        if self.on_change is not None:
            self.on_change(generation, "accepted")
        return generation

    def listed(self, project: str) -> list[Generation]:
        """What a list shows to the keys of *project* by now, the newest first."""
        now = unix_now()
        return [
            generation
            for generation in reversed(self.generations.values())
            if generation.wish.project == project and generation.listed_at <= now
        ]

    def forget(self, generation: Generation) -> None:
        """Delete *generation* as its owner asked; the bill keeps it."""
        del self.generations[generation.id]
        if self.on_change is not None:
            self.on_change(generation, "deleted")

    def settle(self, generation: Generation) -> Outcome | None:
        """The verdict over a due *generation* as scripted, None if it went well or still runs."""
        generation.show()
        if generation.is_due() and not generation.fate_is_sealed:
            generation.fate_is_sealed = True
            wish = generation.wish
            # Counted by the prompt: `[[sim:failed x1]]` fails the first attempt, not each one.
            generation.fate = self.draw("poll", prompt=wish.prompt, only=VERDICTS).outcome
        return generation.fate if generation.is_due() else None

    def draw(
        self,
        deed: Deed,
        *,
        prompt: str = "",
        operation_id: str = "",
        only: frozenset[str] | None = None,
    ) -> Drawn:
        """
        What the script and the prompt's directives want for one request, counted as used.

        *only* asks for these names; None for all that concern a single request, which leaves out
        verdicts and what was decided at submit.
        """
        outcome: Outcome | None = None
        modifiers: dict[str, Outcome] = {}
        for scripted in self._relevant(deed, prompt, only):
            scope = (operation_id or prompt) if scripted.from_prompt else ""
            found = Outcome(name=scripted.rule.outcome, argument=scripted.rule.argument)
            is_modifier = found.name in MODIFIERS
            if not scripted.is_due(scope) or (not is_modifier and outcome is not None):
                continue
            scripted.used[scope] += 1
            self.counts[found.name] += 1
            if is_modifier:
                modifiers.setdefault(found.name, found)
            else:
                outcome = found
        return Drawn(outcome=outcome, modifiers=modifiers)

    def _relevant(
        self, deed: Deed, prompt: str, only: frozenset[str] | None
    ) -> Iterator[_Scripted]:
        for scripted in (*self._scripted, *self._directives(prompt)):
            name = scripted.rule.outcome
            wanted = name in only if only else name not in VERDICTS | _DECIDED_AT_SUBMIT
            if wanted and scripted.matches(deed, prompt):
                yield scripted

    def _directives(self, prompt: str) -> tuple[_Scripted, ...]:
        if "[[sim:" not in prompt:
            return ()
        if prompt not in self._directed:
            self._directed[prompt] = tuple(
                _Scripted(
                    Rule(
                        deed=directive.deed,
                        outcome=directive.outcome.name,
                        argument=directive.outcome.argument,
                        times=directive.times,
                    ),
                    from_prompt=True,
                )
                for directive in faults.directives(prompt)
            )
        return self._directed[prompt]
