"""The lock files are what pyproject.toml asks for, and pip can check every byte of them."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
BUILD: list[str] = PYPROJECT["dependency-groups"]["build"]
LOCKS = {
    "requirements.lock": ["embedded", "speed"],
    "requirements-image.lock": ["otel", "speed"],
    "requirements-test.lock": list(EXTRAS),
}
BUILD_LOCK = "requirements-build.lock"
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def entries(lock: str) -> list[tuple[Requirement, list[str]]]:
    """Each pinned package of *lock* with its hashes, the way pip reads it."""
    text = (ROOT / "deploy" / lock).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(Requirement(re.split(r"\s--", line)[0]), HASH.findall(line)) for line in lines]


def wanted(extras: list[str]) -> list[Requirement]:
    found = [Requirement(text) for text in PROJECT["dependencies"]]
    for extra in extras:
        for text in EXTRAS[extra]:
            inner = Requirement(text)
            found += wanted(sorted(inner.extras)) if inner.name == "vidgen" else [inner]
    return found


@pytest.mark.parametrize("lock", [*LOCKS, BUILD_LOCK])
def test_every_line_is_one_version_with_hashes(lock: str) -> None:
    for pinned, hashes in entries(lock):
        [only] = pinned.specifier
        assert only.operator == "==", pinned
        assert "*" not in only.version, pinned
        assert hashes, pinned
        assert pinned.url is None, pinned


@pytest.mark.parametrize("lock", [*LOCKS, BUILD_LOCK])
def test_no_line_says_where_packages_come_from(lock: str) -> None:
    text = (ROOT / "deploy" / lock).read_text()
    body = [line for line in text.splitlines() if not line.startswith("#")]

    assert not [
        line for line in body if re.match(r"\s*(-i|--(extra-)?index-url|--find|-e|-r)", line)
    ]
    assert "://" not in "\n".join(body)


@pytest.mark.parametrize(("lock", "extras"), LOCKS.items(), ids=list(LOCKS))
def test_every_dependency_is_locked_at_a_version_that_fits(lock: str, extras: list[str]) -> None:
    assert_locked(lock, wanted(extras))


def test_what_builds_the_wheel_is_locked_at_a_version_that_fits() -> None:
    assert_locked(BUILD_LOCK, [Requirement(text) for text in BUILD])
    named = {Requirement(text).name for text in BUILD}
    assert named == {Requirement(text).name for text in PYPROJECT["build-system"]["requires"]}


def assert_locked(lock: str, requirements: list[Requirement]) -> None:
    locked: dict[str, list[Version]] = {}
    for pinned, _ in entries(lock):
        [only] = pinned.specifier
        locked.setdefault(canonicalize_name(pinned.name), []).append(Version(only.version))

    for requirement in requirements:
        versions = locked.get(canonicalize_name(requirement.name), [])
        assert versions, f"{requirement} is not in {lock}: compile it anew (its second line)"
        assert all(version in requirement.specifier for version in versions), (
            requirement,
            versions,
        )


@pytest.mark.parametrize(("lock", "extras"), LOCKS.items(), ids=list(LOCKS))
def test_the_command_in_a_lock_file_is_the_one_for_it(lock: str, extras: list[str]) -> None:
    command = (ROOT / "deploy" / lock).read_text().splitlines()[1]

    assert "--generate-hashes" in command
    assert f"--output-file deploy/{lock}" in command
    if set(extras) == set(EXTRAS):
        assert "--all-extras" in command
    else:
        assert re.findall(r"--extra (\w+)", command) == extras


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-image.lock", BUILD_LOCK])
def test_what_a_lock_file_has_is_what_was_tested(lock: str) -> None:
    small = {(str(p.name), str(p.specifier)) for p, _ in entries(lock)}
    large = {(str(p.name), str(p.specifier)) for p, _ in entries("requirements-test.lock")}

    assert small <= large
