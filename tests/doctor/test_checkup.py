"""All checks together."""

from pydantic import SecretStr
from redis.asyncio import Redis

from tests.builders import a_worker
from tests.conftest import BUCKET
from tests.doctor.conftest import NOBODY, changed
from vidgen.doctor import checkup
from vidgen.doctor.finding import Finding, State
from vidgen.errors import SettingsError
from vidgen.resources import bucket_of
from vidgen.settings import Settings
from vidgen.simulator.s3 import S3Server
from vidgen.simulator.server import SimulatorServer
from vidgen.storage import Storage
from vidgen.store import workers
from vidgen.store.pool import connect


async def examined(settings: Settings) -> dict[str, Finding]:
    return {finding.name: finding for finding in await checkup.examine(lambda: settings)}


async def test_a_healthy_world_is_well_and_stays_as_it_was(
    well: Settings, s3: S3Server, simulator: SimulatorServer
) -> None:
    async with connect(well.database_url) as connection:
        await workers.heartbeat(connection, a_worker())

    found = await examined(well)

    assert {finding.name: finding for finding in found.values() if finding.remedy} == {}
    assert {finding.state for finding in found.values()} == {State.OK}
    assert list(found) == [checkup.SETTINGS, *checkup.checks()]
    assert simulator.sora.bill == simulator.veo.bill == []
    async with (
        Storage.open(bucket_of(well)) as storage,
        Redis.from_url(well.redis_url) as redis,
    ):
        assert await storage.keys("", 10) == []
        assert await redis.keys("*") == []
    operations = [request.operation for request in s3.requests]
    assert operations.count("CreateMultipartUpload") == 1
    assert operations.count("AbortMultipartUpload") == 1


async def test_one_mishap_is_told_once(well: Settings) -> None:
    found = await examined(
        changed(
            well,
            database_url=f"postgresql://vidgen@{NOBODY}/none",
            redis_url=f"redis://{NOBODY}/0",
        )
    )

    problems = {name for name, each in found.items() if each.state is State.PROBLEM}
    assert problems == {"postgresql", "redis"}
    for name, cause in (("schema", "postgresql"), ("workers", "schema"), ("redis memory", "redis")):
        assert (found[name].sentence, found[name].remedy) == ("not looked at", f"see {cause}")


async def test_what_cannot_be_looked_at_for_a_reason_of_its_own_is_a_problem(
    well: Settings,
) -> None:
    place = well.database_url.partition("@")[2]
    async with connect(well.database_url) as connection:
        await connection.execute("CREATE ROLE guest LOGIN")
        try:
            found = await examined(
                # A warning about PostgreSQL does not excuse the schema.
                changed(well, database_url=f"postgresql://guest@{place}", database_pool_size=500)
            )
        finally:
            await connection.execute("DROP ROLE guest")

    assert found["postgresql"].state is State.WARNING
    assert found["schema"].state is State.PROBLEM
    assert found["schema"].sentence.startswith("[database_refused] ")
    assert found["workers"].sentence == "not looked at"


async def test_without_usable_settings_nothing_else_is_looked_at() -> None:
    def load() -> Settings:
        raise SettingsError("The settings are not usable:\n  REDIS_URL: nothing came")

    [finding] = await checkup.examine(load)

    assert (finding.name, finding.state) == ("settings", State.PROBLEM)
    assert "REDIS_URL: nothing came" in finding.sentence
    assert finding.remedy


async def test_whatever_is_wrong_a_finding_tells_no_secret(well: Settings) -> None:
    secrets = ("a-database-secret", "a-redis-secret", "wrong-sk-secret", "a-bucket-secret")
    broken = changed(
        well,
        database_url=f"postgresql://vidgen:{secrets[0]}@{NOBODY}/none",
        redis_url=f"redis://:{secrets[1]}@{NOBODY}/0",
        openai_api_key=SecretStr(secrets[2]),
        aws_secret_access_key=SecretStr(secrets[3]),
    )

    told = repr(list((await examined(broken)).values()))

    assert BUCKET in told
    for secret in (*secrets, "X-Amz-Signature"):
        assert secret not in told
