"""What all files about deployment share: the stage of the Dockerfile that makes everything."""

from pathlib import Path

import pytest

from tests.deploy import dockerfile


@pytest.fixture(scope="session")
def built(server_folder: Path) -> Path:
    """
    The folders /src, /wheels and /opt of the stage `build`, below this one.

    Takes half a minute, on a busy machine more, so what asks for it belongs into one group of
    pytest-xdist.
    """
    root = server_folder / "image"
    dockerfile.build("build", dockerfile.context(server_folder / "context"), root)
    return root
