"""
Providers at the wire, for `vidgen demo`, `vidgen dev` and the tests: no key, no money, real bytes.

    async with SimulatorServer() as simulators:
        simulators.sora.script(Rule(deed="poll", outcome="503", times=3))
        ...  # point OPENAI_BASE_URL at simulators.sora.url

What they do wrong is scripted by `Rule`s, or by directives in the prompt: `[[sim:moderation]]`,
`[[sim:poll-503 x3]]`, `[[sim:generate 20s]]`; `vidgen.simulator.faults` lists every word.
"""

from vidgen.simulator.cloud import service_account_file
from vidgen.simulator.control import ProviderSimulator, Rule
from vidgen.simulator.server import SimulatorServer

__all__ = ["ProviderSimulator", "Rule", "SimulatorServer", "service_account_file"]
