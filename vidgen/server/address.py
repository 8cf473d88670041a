"""
Where requests come from, for limits and the log.

It is where the connection comes from, unless that is a proxy of ours: what a proxy adds at the end
of `X-Forwarded-For` is true, and whatever stands before it anybody may have written. So we go from
its end for as long as we meet proxies of ours, and stop at the first address that is none.
"""

import ipaddress

from aiohttp import web

from vidgen.settings import Network

FORWARDED = "X-Forwarded-For"
# Whoever has one address of IPv6 has at least so many bits of them.
SUBSCRIBER_BITS = 64

PROXIES = web.AppKey("proxies", tuple[Network, ...])


def address_of(request: web.Request) -> str:
    """Where *request* comes from; empty where there is no address, as at a Unix socket."""
    found, proxies = request.remote or "", request.app[PROXIES]
    hops = ",".join(request.headers.getall(FORWARDED, ())).split(",") if proxies else []
    while hops and is_within(found, proxies):
        hop = _read(hops.pop())
        if hop is None:
            break  # somebody's nonsense: the last one we know is a proxy, and that is all we know
        found = hop
    return found


def subscriber(address: str) -> str:
    """Whom limits count: the address, or of IPv6 the network that one customer is given."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.IPv6Network((int(found), SUBSCRIBER_BITS), strict=False))
    return str(found)


def is_within(address: str, networks: tuple[Network, ...]) -> bool:
    """Whether *address* is in one of *networks*."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return any(found in network for network in networks)


def _read(hop: str) -> str | None:
    """The address in one part of the header, where some proxies write a port behind it."""
    text = hop.strip()
    host, _, port = text.rpartition(":")
    for candidate in (text, text.strip("[]"), host.strip("[]") if port.isdigit() else ""):
        try:
            return str(ipaddress.ip_address(candidate))
        except ValueError:
            continue
    return None
