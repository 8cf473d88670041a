"""Settings for servers that are all well."""

from typing import Any

import pytest
from pydantic import SecretStr

from tests.receiver import SECRET
from vidgen.settings import Settings

NOBODY = "127.0.0.1:1"


@pytest.fixture
def well(settings: Settings) -> Settings:
    """Nothing to complain of, but that nobody works."""
    return changed(
        settings,
        lease_ttl_s=3600.0,  # who gave a heartbeat is alive, however busy the machine is
        webhook_secrets=SecretStr(SECRET),
        encryption_key=SecretStr("q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQAB4fxsOGm1o="),
    )


def changed(settings: Settings, **changes: Any) -> Settings:
    return settings.model_copy(update=changes)
