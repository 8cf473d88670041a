"""The README says what the code has, and nothing else."""

import re
import shlex
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import typer

from vidgen import VideoRequest, catalog, errors
from vidgen.cli import app
from vidgen.errors import VidgenError
from vidgen.job import EventType
from vidgen.server import admin, health, metrics
from vidgen.server.app import operations
from vidgen.settings import describe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CODE_WORDS = re.compile(r"`([^`\n]+)`")


def test_every_setting_is_documented_with_its_default_and_sentence() -> None:
    rows = {
        f"| `{s.name}` | {f'`{s.default}`' if s.default else ''} | {s.sentence} |"
        for s in describe()
    }

    section = README.partition("## Settings")[2].partition("\n## ")[0]
    documented = {line for line in section.splitlines() if line.startswith("| `")}

    assert documented == rows


def test_every_error_code_is_documented_and_no_other() -> None:
    section = README.partition("## Errors")[2].partition("Events of a job")[0]
    documented = {
        word
        for line in section.splitlines()
        if line.startswith("| `")
        for word in CODE_WORDS.findall(line.split("|")[1])
    }

    assert documented == {kind.code for kind in _leaves()}


def test_every_event_is_documented_and_no_other() -> None:
    section = README.partition("Events of a job")[2].partition("\n## ")[0]

    assert set(CODE_WORDS.findall(section)) - {"history(id)"} == set(EventType)


@pytest.mark.parametrize(
    "routes", [health.routes, admin.routes, metrics.routes], ids=["health", "admin", "metrics"]
)
def test_every_route_is_documented(routes: list[object]) -> None:
    for route in routes:
        assert f"`{route.method} {route.path}`" in README  # type: ignore[attr-defined]


def test_the_python_example_is_valid() -> None:
    [example] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)

    compile(example, "README.md", "exec")


def _leaves() -> list[type[VidgenError]]:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, VidgenError)
    ]
    return [kind for kind in kinds if kind.code != VidgenError.code]


def test_every_command_is_documented() -> None:
    commands = _commands(app) | {
        f"{group.typer_instance.info.name} {name}"
        for group in app.registered_groups
        if group.typer_instance is not None
        for name in _commands(group.typer_instance)
    }

    for name in commands:
        assert f"`vidgen {name}" in README, name


def _commands(program: typer.Typer) -> set[str]:
    return {
        command.name or str(getattr(command.callback, "__name__", ""))
        for command in program.registered_commands
    }


def test_every_operation_is_documented() -> None:
    for operation in operations():
        assert f"`{operation.method} {operation.path}`" in README, operation.path


def test_the_threat_model_names_only_tests_that_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "deploy" / "THREAT-MODEL.md").read_text()))
    written = {
        name
        for path in (ROOT / "tests").rglob("*.py")
        for name in re.findall(r"def (test_\w+)\(", path.read_text())
    }

    assert len(named) > 25
    assert named <= written


def test_each_provider_has_three_lines_to_begin_with_and_the_price_is_right() -> None:
    blocks = re.findall(
        r"^```bash\nexport (.+)\nvidgen doctor .+\nvidgen submit (.+?) +# (\d\.\d\d) USD",
        README,
        re.MULTILINE,
    )
    begun = {}
    for exported, words, price in blocks:
        _, *options = shlex.split(words)
        wish: dict[str, Any] = {
            name[2:]: int(value) if name == "--seconds" else value
            for name, value in zip(options[::2], options[1::2], strict=True)
        }
        vendor = catalog.vendor(wish["provider"])
        keys = [name for name in vendor.variables if f"{name}=" in exported]
        quote = catalog.quote(
            VideoRequest(prompt="a tram in the rain", **wish),
            today=date(2026, 11, 26),
            endpoints=catalog.Endpoints.of(dict.fromkeys(keys, "k")),
            allow_unknown_models=False,
        )
        begun[vendor.name] = f"{(quote.cost_micros or 0) / 1e6:.2f}" == price and bool(keys)

    # Those two have no endpoint of their own any more, or one that needs an account of Google's.
    assert begun == {each.name: True for each in catalog.vendors()[2:]}
