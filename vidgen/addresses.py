"""
Which addresses a URL from outside may lead to.

Whoever names a URL (a customer's image, a webhook, where a provider says a result lies) must not
reach what only we can reach.
"""

import socket
from contextlib import suppress

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from vidgen.webhook import is_public


class ForbiddenAddressError(OSError):
    """A foreign origin at a private address; an OSError, so that aiohttp lets it through whole."""


class PublicResolver(AbstractResolver):
    """
    Resolves to public addresses only.

    The connector connects to exactly what this returns, so that a name cannot change its address
    between the check and the connection. A subclass because aiohttp asks for one.
    """

    def __init__(self) -> None:
        """Ask whatever aiohttp asks."""
        self._inner = aiohttp.DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """
        The public ones of the addresses of *host*.

        Raises:
            ForbiddenAddressError: It has addresses, and none of them is public.
        """
        found = await self._inner.resolve(host, port, family)
        public = [address for address in found if is_public(address["host"])]
        if found and not public:
            raise ForbiddenAddressError(host)
        return public

    async def close(self) -> None:
        """Let go of what was opened."""
        await self._inner.close()


def is_private(host: str | None) -> bool:
    """Whether *host* is written as an address, and one that is not public; names are resolved."""
    with suppress(ValueError):
        return not is_public(host or "")
    return False
