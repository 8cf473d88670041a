"""Where a request comes from, whatever it says of itself."""

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from vidgen.server.address import PROXIES, address_of, subscriber
from vidgen.settings import Settings


def asked_from(remote: str, *forwarded: str, proxies: str = "10.0.0.0/8, fd00::/8") -> str:
    app = web.Application()
    app[PROXIES] = Settings(trusted_proxies=proxies).trusted_networks
    headers = [("X-Forwarded-For", text) for text in forwarded]
    request = make_mocked_request("GET", "/", headers=dict(headers[:1]), app=app)
    for _, text in headers[1:]:
        request.headers.extend([("X-Forwarded-For", text)])  # type: ignore[attr-defined]
    return address_of(request.clone(remote=remote, headers=request.headers))


def test_without_proxies_nobody_can_say_where_they_come_from() -> None:
    assert asked_from("203.0.113.7", "198.51.100.1", proxies="") == "203.0.113.7"
    assert asked_from("203.0.113.7", "198.51.100.1") == "203.0.113.7"  # no proxy of ours


@pytest.mark.parametrize(
    ("forwarded", "found"),
    [
        ("198.51.100.1", "198.51.100.1"),
        ("1.1.1.1, 198.51.100.1", "198.51.100.1"),  # what stands before may be invented
        ("198.51.100.1, 10.1.1.1", "198.51.100.1"),  # two proxies, one after the other
        ("10.1.1.1", "10.1.1.1"),
        ("198.51.100.1:4711", "198.51.100.1"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("198.51.100.1, nonsense", "10.0.0.1"),
        ("198.51.100.1, ", "10.0.0.1"),
        ("", "10.0.0.1"),
        (",,,,", "10.0.0.1"),
        ("198.51.100.1, fd00::1, ::ffff:10.0.0.2", "198.51.100.1"),
    ],
)
def test_what_a_proxy_of_ours_adds_is_believed_from_the_end(forwarded: str, found: str) -> None:
    assert asked_from("10.0.0.1", forwarded) == found


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("198.51.100.1", "198.51.100.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("::ffff:198.51.100.1", "198.51.100.1"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_who_has_a_network_is_counted_once(address: str, counted: str) -> None:
    assert subscriber(address) == counted
