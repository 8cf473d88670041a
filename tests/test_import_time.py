"""
What a service pays for importing us, counted in modules: clocks of busy machines lie. The time is
measured by `python -m tests.bench.start`.
"""

import subprocess
import sys

import pytest


def imported_by(statement: str) -> set[str]:
    """What is there after *statement* that was not there in a bare Python."""
    code = f"import sys; before = set(sys.modules); {statement}; "
    code += "sys.stdout.write('\\n'.join(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def packages(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


def test_the_words_alone_bring_no_library_along() -> None:
    brought = packages(imported_by("import vidgen"))

    others = brought - set(sys.stdlib_module_names) - {"vidgen"}
    assert others == set()
    assert not brought & {"asyncio", "ssl", "sqlite3"}


@pytest.mark.parametrize(
    "statement",
    [
        "import vidgen.queue",
        "from vidgen import VideoQueue",
        "from vidgen import VideoQueue, VideoRequest; VideoQueue.from_env",
    ],
)
def test_the_queue_brings_no_worker_no_provider_and_no_storage_along(statement: str) -> None:
    brought = imported_by(statement)

    heavy = {"aiohttp", "aiobotocore", "botocore", "google", "arq", "requests", "typer", "rich"}
    heavy |= {"prometheus_client", "opentelemetry"}
    assert not packages(brought) & heavy
    ours = {name for name in brought if name.startswith("vidgen.")}
    light = {"vidgen.providers", "vidgen.storage", "vidgen.worker", "vidgen.pipeline"}
    light |= {"vidgen.resources", "vidgen.server", "vidgen.simulator", "vidgen.dev", "vidgen.cli"}
    assert not ours & light


def test_the_worker_is_asked_for_before_it_reads_the_environment() -> None:
    assert "vidgen.worker" in imported_by("import vidgen.worker")


def test_the_public_names_are_all_there_is() -> None:
    import vidgen

    assert {name: hasattr(vidgen, name) for name in vidgen.__all__} == dict.fromkeys(
        vidgen.__all__, True
    )
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = vidgen.nothing
