"""Fixtures of the provider tests: a simulator, and each wire format against it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.providers.formats.all import FORMATS
from vidgen import catalog
from vidgen.providers.registry import ProvidersConfig
from vidgen.simulator.cloud import service_account_file
from vidgen.simulator.server import SimulatorServer
from vidgen.testing.provider_wire import CLIP, KEY, Wire, opened


@pytest.fixture(scope="session")
def account(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A service account, made once: its key takes a while. It has no token address yet."""
    path = service_account_file(Path(tmp_path_factory.mktemp("account")), "http://none.invalid")
    found: dict[str, Any] = orjson.loads(path.read_bytes())
    return found


@pytest.fixture
async def simulators() -> AsyncIterator[SimulatorServer]:
    async with SimulatorServer(generation_s=0) as server:
        for simulator in server.simulators.values():
            simulator.clip = CLIP
        yield server


@pytest.fixture
def config(simulators: SimulatorServer, account: dict[str, Any]) -> ProvidersConfig:
    addresses = simulators.addresses()
    return ProvidersConfig.of(
        **addresses,
        **dict.fromkeys(catalog.key_variables(addresses), KEY),
        GOOGLE_CLOUD_PROJECT_ID="studio",
        GOOGLE_APPLICATION_CREDENTIALS=orjson.dumps(
            account | {"token_uri": simulators.veo.token_url}
        ).decode(),
    )


@pytest.fixture(params=FORMATS)
async def wire(
    request: pytest.FixtureRequest, simulators: SimulatorServer, config: ProvidersConfig
) -> AsyncIterator[Wire]:
    """One wire format after the other."""
    async with opened(FORMATS[request.param], simulators, config) as found:
        yield found
