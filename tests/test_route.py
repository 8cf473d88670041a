"""Routes from a TOML file: what is wrong is said with its place."""

import pytest

from vidgen.job import Fallback
from vidgen.route import Route, routes_of

CHEAP = """
# who is cheap
[routes.cheap-landscape]
targets = ["sora", "fal/fal-ai/kling-video/v2",
  { target = "veo/veo-3.1", seconds = 8, audio = true }]
on = ["policy", "refused"]
max_cost_usd = 1.2
"""


def test_a_route_names_targets_reasons_and_a_ceiling() -> None:
    assert routes_of(CHEAP) == {
        "cheap-landscape": Route(
            name="cheap-landscape",
            targets=(
                Fallback(provider="sora"),
                Fallback(provider="fal", model="fal-ai/kling-video/v2"),
                Fallback(provider="veo", model="veo-3.1", seconds=8, audio=True),
            ),
            on=("refused", "policy"),  # type: ignore[arg-type]  # words are as good
            max_cost_micros=1_200_000,
        )
    }


def test_a_file_without_routes_has_none() -> None:
    assert routes_of("") == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[routes.a]\ntargets = x", r"no TOML: .*line 2"),
        ("[route.a]", "route: only"),
        ("routes = 3", "routes: wanted"),
        ("[routes.'a b']", r"line 1: routes\.a b: wanted a name"),
        ("\n\n[routes.a]", r"line 3: routes\.a\.targets: wanted 1 to 9"),
        ("[routes.a]\ntargets = [1]", r"line 1: routes\.a\.targets\[0\]: wanted \"provider\""),
        ("[routes.a]\ntargets = ['/x']", r"routes\.a\.targets\[0\]: wanted"),
        ("[routes.a]\ntargets = [{target='a', secs=1}]", r"targets\[0\]\.secs: known are target"),
        ("[routes.a]\ntargets = [{target='a', seconds='1'}]", r"\.seconds: wanted a whole number"),
        ("[routes.a]\ntargets = ['a']\nin = []", r"routes\.a\.in: known are targets, on, max_cost"),
        ("[routes.a]\ntargets = ['a']\non = ['never']", r"routes\.a\.on: has 'never'; known are"),
        ("[routes.a]\ntargets = ['a']\non = 3", r"routes\.a\.on: wanted a list of words"),
        ("[routes.a]\ntargets = ['a']\nmax_cost_usd = 0", r"max_cost_usd: wanted dollars above 0"),
        ("[routes.a]\ntargets = ['a']\nmax_cost_usd = '1'", "max_cost_usd: wanted a number"),
        ("[routes.a]\ntargets = ['a']\nmax_cost_usd = nan", "max_cost_usd: wanted dollars"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_line_or_key(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        routes_of(text)
