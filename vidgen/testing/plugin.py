"""
What pytest loads by the entry point `vidgen`, in every run where vidgen is installed.

Only two settings are declared here, and where the fixtures are; `-p no:vidgen` leaves it all out.
"""

import pytest

# Its sentences tell what differs, as tests do.
pytest.register_assert_rewrite("vidgen.testing.provider_conformance")

DATABASE_URL = "vidgen_database_url"
REDIS_URL = "vidgen_redis_url"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the settings of pytest.ini, pyproject.toml or `-o`; `$NAME` is the environment's."""
    parser.addini(
        DATABASE_URL,
        "PostgreSQL for vidgen's fixtures, e.g. $TEST_DATABASE_URL; its name must say test, its"
        " vidgen tables are emptied. Empty: one of their own.",
        default="",
    )
    parser.addini(
        REDIS_URL,
        "Redis for vidgen's fixtures, e.g. $TEST_REDIS_URL. Empty: one of their own.",
        default="",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Offer the fixtures, now that it is known which plug-in runs asynchronous ones."""
    from vidgen.testing import fixtures

    config.pluginmanager.register(fixtures, "vidgen-fixtures")
