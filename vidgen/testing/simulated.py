"""
The simulated providers as a test sees them; they themselves live in the loop of the servers.

    vidgen_simulator.sora.script(Rule(deed="poll", outcome="moderation", prompt="a fight"))
    ...
    assert vidgen_simulator.sora.bill == []

`vidgen.simulator.faults` lists the outcomes; a prompt may name one itself: `[[sim:moderation]]`.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from vidgen.simulator.control import Charge, ProviderSimulator, Received, Rule
from vidgen.simulator.faults import Deed

T = TypeVar("T")

ANSWER_TIMEOUT_S = 10.0


class SimulatedProvider:
    """One simulated provider: its script, what it received, its bill. For any thread and loop."""

    def __init__(self, provider: ProviderSimulator, loop: asyncio.AbstractEventLoop) -> None:
        """Speak to *provider* in *loop*, where its server runs."""
        self._provider = provider
        self._loop = loop
        self._defaults = (provider.generation_s, provider.clip)

    @property
    def bill(self) -> list[Charge]:
        """One charge for each submit that was accepted, whether its answer arrived or not."""
        return self._ask(lambda provider: list(provider.bill))

    @property
    def received(self) -> list[Received]:
        """Every request as it came in, oldest first."""
        return self._ask(lambda provider: list(provider.received))

    def script(self, *rules: Rule) -> None:
        """Let happen what *rules* say; earlier ones win. Without any, everything goes well."""
        self._ask(lambda provider: provider.script(*rules))

    def generate_in(self, seconds: float) -> None:
        """Let each generation of this test take *seconds*."""
        self._ask(lambda provider: setattr(provider, "generation_s", seconds))

    def deliver(self, clip: bytes | None) -> None:
        """
        Hand out the MP4 *clip* for every video of this test; None renders each one as it was asked
        for, in its length and size, which takes up to a second.
        """
        self._ask(lambda provider: setattr(provider, "clip", clip))

    async def arrived(self, deed: Deed, count: int = 1) -> None:
        """Return once *count* requests of *deed* have come in this test; put it under a timeout."""
        await asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(self._provider.arrived(deed, count), self._loop)
        )

    def reset(self) -> None:
        """Forget script, requests, bill and generations, and do all that this test changed."""

        def forget(provider: ProviderSimulator) -> None:
            provider.reset()
            provider.generation_s, provider.clip = self._defaults

        self._ask(forget)

    def _ask(self, question: Callable[[ProviderSimulator], T]) -> T:
        async def answer() -> T:
            return question(self._provider)

        future = asyncio.run_coroutine_threadsafe(answer(), self._loop)
        return future.result(ANSWER_TIMEOUT_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """
    The simulated providers: `vidgen_simulator["fal"]`, or `vidgen_simulator.sora` and `.veo`.

    Attributes:
        by_name: Every provider that has a simulator, and the host that is foreign to all.
    """

    by_name: Mapping[str, SimulatedProvider]

    def __getitem__(self, name: str) -> SimulatedProvider:
        """The simulated provider *name*."""
        return self.by_name[name]

    @property
    def sora(self) -> SimulatedProvider:
        """Speaks the OpenAI Videos protocol."""
        return self.by_name["sora"]

    @property
    def veo(self) -> SimulatedProvider:
        """Speaks the Gemini API and Vertex AI."""
        return self.by_name["veo"]
