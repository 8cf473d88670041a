"""
For the tests of services that use vidgen: what was enqueued, and a worker that runs in the test.

    job = await assert_enqueued(queue, provider="sora", prompt=containing("tram"))
    [done] = await vidgen_worker.drain()

The fixtures come by themselves with pytest, see `vidgen.testing.fixtures`; none of them starts
anything before a test asks for it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vidgen.simulator.control import Rule
    from vidgen.testing.enqueued import all_enqueued, assert_enqueued, refute_enqueued
    from vidgen.testing.expectation import containing
    from vidgen.testing.servers import Servers
    from vidgen.testing.simulated import Simulated, SimulatedProvider
    from vidgen.testing.worker import InlineWorker

__all__ = [
    "InlineWorker",
    "Rule",
    "Servers",
    "Simulated",
    "SimulatedProvider",
    "all_enqueued",
    "assert_enqueued",
    "containing",
    "refute_enqueued",
]

_HOMES = {
    "InlineWorker": "vidgen.testing.worker",
    "Rule": "vidgen.simulator.control",
    "Servers": "vidgen.testing.servers",
    "Simulated": "vidgen.testing.simulated",
    "SimulatedProvider": "vidgen.testing.simulated",
    "all_enqueued": "vidgen.testing.enqueued",
    "assert_enqueued": "vidgen.testing.enqueued",
    "containing": "vidgen.testing.expectation",
    "refute_enqueued": "vidgen.testing.enqueued",
}


def __getattr__(name: str) -> object:
    # pytest loads the plug-in below in every run of whoever has vidgen installed: it must not
    # bring the worker, the simulators or even asyncpg along.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
