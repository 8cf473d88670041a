"""Fixtures of the provider tests: a simulator, and each wire format against it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.providers.wires import CLIP, KEY, NAMES, Wire, opened
from vidgen.providers.registry import ProvidersConfig
from vidgen.simulator.cloud import service_account_file
from vidgen.simulator.server import SimulatorServer


@pytest.fixture(scope="session")
def account(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A service account, made once: its key takes a while. It has no token address yet."""
    path = service_account_file(Path(tmp_path_factory.mktemp("account")), "http://none.invalid")
    found: dict[str, Any] = orjson.loads(path.read_bytes())
    return found


@pytest.fixture
async def simulators() -> AsyncIterator[SimulatorServer]:
    async with SimulatorServer(generation_s=0) as server:
        server.sora.clip = server.veo.clip = CLIP
        yield server


@pytest.fixture
def config(simulators: SimulatorServer, account: dict[str, Any]) -> ProvidersConfig:
    return ProvidersConfig(
        openai_base_url=simulators.sora.url,
        openai_api_key=KEY,
        gemini_base_url=simulators.veo.gemini_url,
        gemini_api_key=KEY,
        vertex_project="studio",
        vertex_base_url=simulators.veo.vertex_url,
        vertex_credentials=orjson.dumps(account | {"token_uri": simulators.veo.token_url}).decode(),
        gcs_base_url=simulators.veo.gcs_url,
    )


@pytest.fixture(params=NAMES)
async def wire(
    request: pytest.FixtureRequest, simulators: SimulatorServer, config: ProvidersConfig
) -> AsyncIterator[Wire]:
    """One wire format after the other."""
    async with opened(request.param, simulators, config) as found:
        yield found
