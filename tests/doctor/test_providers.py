"""Keys that are accepted and keys that are not, and models that end."""

from datetime import date, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.doctor.conftest import NOBODY, changed
from vidgen import catalog
from vidgen.catalog.sora import OFF_ON as SORA_OFF_ON
from vidgen.catalog.sora import ORIGIN as OPENAI_ORIGIN
from vidgen.catalog.veo import GEMINI_OFF_ON as VEO_GEMINI_OFF_ON
from vidgen.catalog.veo import GEMINI_ORIGIN
from vidgen.doctor import providers
from vidgen.doctor.finding import Finding, State
from vidgen.settings import Settings
from vidgen.simulator import Rule
from vidgen.simulator.cloud import service_account_file
from vidgen.simulator.server import SimulatorServer

DAY = timedelta(days=1)
WRONG = SecretStr("wrong-key")


async def look(settings: Settings, provider: str, api: str) -> Finding:
    vendor = catalog.vendor(provider)
    return await providers.key(settings, vendor, vendor.interface(api))


async def sora(settings: Settings) -> Finding:
    return await look(settings, "sora", "openai")


async def gemini(settings: Settings) -> Finding:
    return await look(settings, "veo", "gemini")


async def vertex(settings: Settings) -> Finding:
    return await look(settings, "veo", "vertex")


@pytest.fixture
def at_vendors(well: Settings) -> Settings:
    """With keys for the vendors' own endpoints, which nobody asks here."""
    return changed(
        well, openai_base_url=f"{OPENAI_ORIGIN}/v1", gemini_base_url=f"{GEMINI_ORIGIN}/v1beta"
    )


async def test_right_keys_are_accepted_and_nothing_is_paid(
    well: Settings, simulator: SimulatorServer
) -> None:
    at_openai, at_gemini = await sora(well), await gemini(well)

    assert (at_openai.state, at_openai.sentence) == (State.OK, "accepted")
    assert (at_gemini.state, at_gemini.sentence) == (State.OK, "accepted")
    assert simulator.sora.bill == simulator.veo.bill == []


async def test_wrong_keys_are_problems(well: Settings) -> None:
    at_openai = await sora(changed(well, openai_api_key=WRONG))
    at_gemini = await gemini(changed(well, gemini_api_key=WRONG))

    for finding, variable in ((at_openai, "OPENAI_API_KEY"), (at_gemini, "GEMINI_API_KEY")):
        assert finding.state is State.PROBLEM
        assert finding.sentence.startswith("it is refused: ")
        assert finding.remedy == f"correct {variable}"
        assert "wrong-key" not in finding.sentence


async def test_a_key_of_a_server_that_lists_nothing_is_taken_on_trust(
    well: Settings, simulator: SimulatorServer
) -> None:
    simulator.sora.script(Rule(deed="list", outcome="404"))

    finding = await sora(well)

    assert finding.state is State.OK
    assert "offers nothing free to try it with" in finding.sentence


async def test_a_server_that_is_away_leaves_it_open(well: Settings) -> None:
    finding = await sora(changed(well, openai_base_url=f"http://{NOBODY}/v1"))

    assert finding.state is State.WARNING
    assert "OPENAI_BASE_URL" in finding.remedy


async def test_google_gives_a_token_for_a_right_credential_only(
    well: Settings, simulator: SimulatorServer, tmp_path: Path
) -> None:
    account = service_account_file(tmp_path, simulator.veo.token_url)
    broken = tmp_path / "broken.json"
    broken.write_text('{"type": "service_account"}')
    on_vertex = changed(well, google_cloud_project_id="studio")

    def by(path: Path) -> Settings:
        return changed(on_vertex, google_application_credentials=SecretStr(str(path)))

    right, wrong = await vertex(by(account)), await vertex(by(broken))

    assert (right.state, right.sentence) == (State.OK, "accepted")
    assert wrong.state is State.PROBLEM
    assert wrong.remedy == "correct GOOGLE_APPLICATION_CREDENTIALS"


async def test_what_is_not_set_is_no_problem_and_nobody_is_asked(at_vendors: Settings) -> None:
    without = changed(at_vendors, openai_api_key=None, gemini_api_key=None)

    for check in (sora, gemini, vertex):
        finding = await check(without)

        assert finding.state is State.OK
        assert finding.sentence.startswith("not set: ")


async def test_without_any_key_there_is_a_problem(at_vendors: Settings) -> None:
    finding = await providers.models(changed(at_vendors, openai_api_key=None, gemini_api_key=None))

    assert finding.state is State.PROBLEM
    assert finding.sentence == "no provider has a key: every request will be refused"


@pytest.mark.parametrize(
    ("today", "state", "words"),
    [
        (date(2026, 3, 1), State.OK, "can be used"),
        (SORA_OFF_ON - DAY, State.WARNING, f"sora-2-2025-10-06 and 2 more end on {SORA_OFF_ON}"),
        (SORA_OFF_ON, State.WARNING, f"sora-2-2025-10-06 and 2 more ended on {SORA_OFF_ON}"),
    ],
    ids=["early", "the day before", "the day"],
)
async def test_models_that_end_are_told_before_and_after(
    at_vendors: Settings, today: date, state: State, words: str
) -> None:
    finding = await providers.models(at_vendors, today=today)

    assert finding.state is state
    assert words in finding.sentence


async def test_when_all_have_ended_there_is_a_problem(at_vendors: Settings) -> None:
    alone = changed(at_vendors, gemini_api_key=None)

    finding = await providers.models(alone, today=SORA_OFF_ON)

    assert finding.state is State.PROBLEM
    assert "none can be used: " in finding.sentence


async def test_what_ends_at_a_vendor_goes_on_at_compatible_servers_and_on_vertex(
    well: Settings, at_vendors: Settings
) -> None:
    late = VEO_GEMINI_OFF_ON + DAY
    compatible = await providers.models(well, today=late)
    vertex = await providers.models(
        changed(at_vendors, google_cloud_project_id="studio", gemini_api_key=None), today=late
    )

    assert compatible.state is State.OK
    assert vertex.state is State.OK
    assert vertex.sentence.startswith("veo-3.1-generate-001, ")
