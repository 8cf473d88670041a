"""A provider of another package: installed by pip, found by vidgen, tried by its own tests."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.testing.conftest import ROOT, Run

EXAMPLE = ROOT / "tests" / "plugin_example"
INSTALL_TIMEOUT_S = 60

pytestmark = pytest.mark.timeout(200)


@pytest.fixture
def installed(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example in a folder of its own, which children look into."""
    target = tmp_path / "target"
    source = shutil.copytree(EXAMPLE, tmp_path / "source")
    words = ("-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index")
    told = subprocess.run(
        [sys.executable, *words, "--target", str(target), str(source)],
        capture_output=True,
        text=True,
        timeout=INSTALL_TIMEOUT_S,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    monkeypatch.setenv("PYTHONPATH", str(target), prepend=":")
    return target


def test_a_provider_that_pip_installed_makes_videos_and_keeps_what_the_kit_says(
    pytester: pytest.Pytester, run: Run, installed: Path
) -> None:
    shutil.copy(EXAMPLE / "checks" / "test_acme.py", pytester.path)

    result = run("-q", "test_acme.py")

    outcomes = result.parseoutcomes()
    assert outcomes.keys() == {"passed"}
    assert outcomes["passed"] > 100
