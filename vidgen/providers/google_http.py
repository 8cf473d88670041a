"""
Calls to Google with the right credential for the interface: an API key, or a token that is renewed.

    gemini   x-goog-api-key: the key itself
    vertex   Authorization: a bearer token for it; one that is answered by 401 is replaced once
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Literal

from vidgen.errors import AuthError, ProviderError
from vidgen.providers.answer import Answer, Deed
from vidgen.providers.google import GoogleTokens
from vidgen.providers.http import ProviderHttp
from vidgen.providers.protocol import Credential, ResultStream

Api = Literal["gemini", "vertex"]


class GoogleHttp:
    """What Veo and Omni send their requests by; connections are *http*'s."""

    def __init__(self, http: ProviderHttp, tokens: GoogleTokens) -> None:
        """Open nothing yet."""
        self._http = http
        self._tokens = tokens

    async def call(
        self,
        deed: Deed,
        url: str,
        api: Api,
        credential: Credential,
        *,
        post: bytes | None = None,
        not_after: float | None = None,
        elide: bool = False,
    ) -> Answer:
        """One exchange, POST with *post* and GET without; see `ProviderHttp.exchange`."""

        async def ask(headers: Mapping[str, str]) -> Answer:
            return await self._http.exchange(
                deed,
                "GET" if post is None else "POST",
                url,
                headers=headers,
                json=post,
                not_after=not_after,
                elide=elide,
            )

        headers = await self.headers(api, credential)
        answer = await ask(headers)
        if answer.status == 401 and api == "vertex":  # nothing was accepted
            answer = await ask(await self.headers(api, credential, rejected=headers))
        return answer

    @asynccontextmanager
    async def opened(
        self,
        url: str,
        home: str,
        api: Api,
        credential: Credential,
        refusal: Callable[[Answer], Awaitable[ProviderError]],
        *,
        post: bytes | None = None,
        stay: bool = False,
    ) -> AsyncIterator[ResultStream]:
        """A stream from *url*; see `ProviderHttp.download`."""
        async with AsyncExitStack() as stack:

            async def opened(headers: Mapping[str, str]) -> ResultStream:
                return await stack.enter_async_context(
                    self._http.download(
                        url,
                        home=home,
                        credential=headers,
                        refusal=refusal,
                        post=post,
                        stay=stay,
                    )
                )

            headers = await self.headers(api, credential)
            try:
                stream = await opened(headers)
            except AuthError as error:
                if error.http_status != 401 or api != "vertex":
                    raise
                stream = await opened(await self.headers(api, credential, rejected=headers))
            yield stream

    async def headers(
        self, api: Api, credential: Credential, *, rejected: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """What opens *api* with *credential*; *rejected* are headers just answered by 401."""
        if api == "gemini":
            return {"x-goog-api-key": credential.secret} if credential.secret else {}
        old = None if rejected is None else rejected["Authorization"].removeprefix("Bearer ")
        token = await self._tokens.token(credential, rejected=old)
        return {"Authorization": f"Bearer {token}"}
