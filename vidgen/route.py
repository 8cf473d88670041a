"""
Routes: who makes a video, and who instead, under a name of one's own; from a TOML file. Pure.

    [routes.cheap-landscape]
    targets = [
        "sora/sora-2",
        { target = "veo/veo-3.1-fast-generate-001", seconds = 8 },
    ]
    on = ["refused", "down", "retired", "quota", "policy"]
    max_cost_usd = 1.20

A request names it and is resolved when it is accepted: a later edit changes no job that exists.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any

from vidgen.errors import InvalidRequestError
from vidgen.fallback import MAX_COST_MICROS, MAX_FALLBACKS, reasons
from vidgen.job import Fallback, RerouteReason

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEYS = ("targets", "on", "max_cost_usd")
_OVERRIDES: Mapping[str, type] = {
    "seconds": int,
    "size": str,
    "aspect_ratio": str,
    "resolution": str,
    "audio": bool,
    "extra": dict,
}
assert set(_OVERRIDES) | {"provider", "model"} == {each.name for each in fields(Fallback)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """
    Who is asked, in order, and on what.

    Attributes:
        on: What moves a job on; None for the usual.
        max_cost_micros: What all attempts together may cost; None without a limit.
    """

    name: str
    targets: tuple[Fallback, ...]
    on: tuple[RerouteReason, ...] | None = None
    max_cost_micros: int | None = None


def routes_of(text: str) -> dict[str, Route]:
    """
    The routes that *text* has, by name.

    Raises:
        ValueError: What is wrong, with the line or the key.
    """
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _bad(f"no TOML: {error}") from error
    if unknown := sorted(found.keys() - {"routes"}):
        raise _bad(f"{unknown[0]}: only [routes.NAME] is known")
    routes = found.get("routes", {})
    if not isinstance(routes, dict):
        raise _bad("routes: wanted [routes.NAME]")
    return {name: _route(name, value, text) for name, value in routes.items()}


def _route(name: str, value: object, text: str) -> Route:
    key = f"routes.{name}"
    try:
        if not _NAME.fullmatch(name):
            raise _bad(f"{key}: wanted a name of letters, digits, . _ and -")
        if not isinstance(value, dict):
            raise _bad(f"{key}: wanted a table")
        _known(key, value, _KEYS)
        targets = value.get("targets")
        if not isinstance(targets, list) or not 0 < len(targets) <= MAX_FALLBACKS + 1:
            raise _bad(f"{key}.targets: wanted 1 to {MAX_FALLBACKS + 1} targets")
        return Route(
            name=name,
            targets=tuple(
                target_of(f"{key}.targets[{number}]", each) for number, each in enumerate(targets)
            ),
            on=_on(f"{key}.on", value),
            max_cost_micros=_ceiling(f"{key}.max_cost_usd", value),
        )
    except ValueError as error:
        raise _bad(f"line {_line(name, text)}: {error}") from error


def target_of(key: str, value: object) -> Fallback:
    """
    `provider`, `provider/model`, or a table with that as `target` and what is different there.

    Raises:
        ValueError: What is wrong at *key*.
    """
    table: Mapping[str, Any] = value if isinstance(value, dict) else {"target": value}
    _known(key, table, ("target", *_OVERRIDES))
    name = table.get("target")
    if not isinstance(name, str) or not name.partition("/")[0]:
        raise _bad(f'{key}: wanted "provider" or "provider/model"')
    for word, kind in _OVERRIDES.items():
        came = table.get(word)
        if came is not None and type(came) is not kind:
            raise _bad(f"{key}.{word}: wanted {_WORDS[kind]}")
    provider, _, model = name.partition("/")
    return Fallback(
        provider=provider,
        model=model or None,
        **{word: table[word] for word in _OVERRIDES if word in table},
    )


_WORDS: Mapping[type, str] = {
    int: "a whole number",
    str: "a text",
    bool: "true or false",
    dict: "a table",
}


def _on(key: str, value: Mapping[str, Any]) -> tuple[RerouteReason, ...] | None:
    try:
        return None if value.get("on") is None else reasons(value["on"])
    except InvalidRequestError as error:
        raise _bad(f"{key}: {error.message.removeprefix('reroute_on ')}") from error
    except TypeError as error:  # a number cannot be gone through
        raise _bad(f"{key}: wanted a list of words") from error


def _ceiling(key: str, value: Mapping[str, Any]) -> int | None:
    dollars = value.get("max_cost_usd")
    if dollars is None:
        return None
    if not isinstance(dollars, int | float) or isinstance(dollars, bool):
        raise _bad(f"{key}: wanted a number of dollars")
    micros = Decimal(repr(dollars)) * 1_000_000  # as it was written
    if not micros.is_finite() or not 1 <= micros <= MAX_COST_MICROS or micros % 1:
        raise _bad(f"{key}: wanted dollars above 0, with six decimals at most")
    return int(micros)


def _bad(problem: str) -> ValueError:
    return ValueError(problem)


def _known(key: str, table: Mapping[str, Any], names: tuple[str, ...]) -> None:
    if unknown := sorted(table.keys() - set(names)):
        raise _bad(f"{key}.{unknown[0]}: known are {', '.join(names)}")


def _line(name: str, text: str) -> int:
    """Where the route begins, for whoever has to mend it."""
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(rf"\s*\[\s*routes\s*\.\s*[\"']?{re.escape(name)}\b", line):
            return number
    return 1
