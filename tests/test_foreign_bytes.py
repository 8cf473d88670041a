"""Whatever bytes come, each reader of them ends with a value or an error of ours."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.foreign import TARGETS, Target

KEPT = [(target, path) for target in TARGETS.values() for path in target.corpus()]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", TARGETS)
def test_no_bytes_break_a_reader(name: str) -> None:
    target = TARGETS[name]
    with asyncio.Runner() as runner:
        runner.run(target.tried(b""))  # what is imported or built once does not count

        @settings(
            max_examples=target.examples,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(st.data())
        def drawn(data: st.DataObject) -> None:
            runner.run(target.measured(data.draw(target.data)))

        drawn()


@pytest.mark.parametrize(
    ("target", "path"), KEPT, ids=[f"{target.name}-{path.stem}" for target, path in KEPT]
)
def test_what_broke_a_reader_once_does_so_no_more(target: Target, path: Path) -> None:
    with asyncio.Runner() as runner:
        runner.run(target.tried(b""))

        runner.run(target.measured(path.read_bytes()))
