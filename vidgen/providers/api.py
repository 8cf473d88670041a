"""
What every vendor's provider does alike: ask with the key, and only at home; take the receipt of a
submit; hand out a result; and make an error of what the vendor said.

A provider holds one `Api` and adds what is its vendor's own: paths, bodies, words.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import orjson

from vidgen.errors import ProtocolError, ProviderError, SubmitUnknownError
from vidgen.job import JsonValue, Operation
from vidgen.providers.answer import Answer, Deed, private_texts
from vidgen.providers.http import ProviderHttp, joined
from vidgen.providers.plain import Said, Vendor, bearer, usable_id
from vidgen.providers.protocol import Asset, Credential, ResultStream, Submission

NOT_THERE = frozenset({404, 410})
NOT_OFFERED = frozenset({404, 405, 501})  # of an address: a gateway need not have them all
TOO_LATE = frozenset({400, 405, 409, 501})  # to be cancelled, or no such thing


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """
    A vendor's interface, as the holder of a key uses it.

    Attributes:
        provider: The word in `VideoRequest.provider`.
        said: What the vendor says with a refusal of a deed.
        id_field: What it calls the id of what it makes.
        headers: What opens it.
        is_refusal: Some vendors tell errors under HTTP 200.
        unavailable: The error of a refused download that is the result's own; None if it is not.
    """

    provider: str
    vendor: Vendor
    http: ProviderHttp
    said: Callable[[Answer, Deed], Said]
    id_field: str = "id"
    headers: Callable[[Credential], dict[str, str]] = bearer
    is_refusal: Callable[[Answer], bool] = lambda answer: not answer.ok
    unavailable: Callable[[Vendor, Answer, str], ProviderError | None] = Vendor.unavailable

    def url(self, path: str) -> str:
        """The address of *path*."""
        return f"{self.vendor.base_url}/{path}"

    def at(self, operation: Operation, path: str) -> str:
        """
        The address of *path* where *operation* lives.

        Raises:
            OperationLostError: It lives at another server than the configured one.
        """
        self.vendor.check_home(operation)
        return f"{operation.endpoint}/{path}"

    async def exchange(self, deed: Deed, method: str, url: str, credential: Credential) -> Answer:
        """Ask once, and give the answer whatever it says."""
        return await self.http.exchange(deed, method, url, headers=self.headers(credential))

    async def ask(self, deed: Deed, method: str, url: str, credential: Credential) -> Answer:
        """
        Ask once.

        Raises:
            ProviderError: It was refused.
        """
        answer = await self.exchange(deed, method, url, credential)
        self.check(answer, deed, credential)
        return answer

    def check(
        self, answer: Answer, deed: Deed, credential: Credential, private: tuple[str, ...] = ()
    ) -> None:
        """Return if *answer* is no refusal; raise it else."""
        if self.is_refusal(answer):
            raise self.refusal(answer, deed, credential, private)

    def refusal(
        self, answer: Answer, deed: Deed, credential: Credential, private: tuple[str, ...] = ()
    ) -> ProviderError:
        """The error of an *answer* that refuses the *deed*."""
        # A key may be a pair, and its parts are as secret as the whole.
        secrets = {credential.secret, *credential.secret.split(":")}
        return self.vendor.refusal(
            answer, deed, self.said(answer, deed), secrets=secrets, private=private
        )

    async def submit(
        self,
        path: str,
        build: Callable[[Submission], Mapping[str, JsonValue]],
        submission: Submission,
        credential: Credential,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """
        Send what *build* makes of *submission*, once; *headers* beside those that open the vendor.

        Raises:
            TransientError, RateLimitedError: Provably not accepted.
            SubmitUnknownError: The request may have arrived.
            ProviderError: Refused for good.
        """
        # Images become base64: too long for the loop.
        encode = asyncio.to_thread if submission.images else _at_once
        answer = await self.http.exchange(
            "submit",
            "POST",
            self.url(path),
            headers={**self.headers(credential), **(headers or {})},
            json=await encode(lambda: orjson.dumps(build(submission))),
            not_after=submission.not_after,
        )
        self.check(answer, "submit", credential, private_texts(submission.request))
        return answer

    def receipt(
        self,
        answer: Answer,
        submission: Submission,
        credential: Credential,
        *,
        read: Callable[[Answer], Mapping[str, Any]] = Answer.json,
        extra: Mapping[str, JsonValue] | None = None,
    ) -> Operation:
        """
        The operation in what *read* finds in the *answer* to a submit.

        Raises:
            SubmitUnknownError: There is none, and it may be running.
        """
        try:
            return self.operation(read(answer), submission, credential, extra)
        except ProtocolError as error:
            raise self.vendor.accepted(answer) from error

    def operation(
        self,
        found: Mapping[str, Any],
        submission: Submission,
        credential: Credential,
        extra: Mapping[str, JsonValue] | None = None,
    ) -> Operation:
        """
        What *found*, a receipt or a thing of a list, is followed by if it comes from *submission*.

        Raises:
            ProtocolError: By nothing.
        """
        model = submission.request.model
        assert model is not None  # a submission has every default filled in
        return Operation(
            provider=self.provider,
            id=usable_id(found, self.id_field),
            endpoint=self.vendor.base_url,
            model=model,
            credential_id=credential.id,
            extra=extra or {},
        )

    @asynccontextmanager
    async def open_result(
        self, operation: Operation, asset: Asset, credential: Credential
    ) -> AsyncIterator[ResultStream]:
        """Open the bytes of *asset*; see `Provider.open_result`."""
        self.vendor.check_home(operation)
        url = joined(self.vendor.base_url, asset.uri)

        async def refused(answer: Answer) -> ProviderError:
            ended = self.unavailable(self.vendor, answer, url)
            return ended or self.refusal(answer, "download", credential)

        async with self.http.download(
            url,
            home=self.vendor.base_url,
            credential=self.headers(credential),
            refusal=refused,
        ) as stream:
            yield stream

    def is_stopped(
        self, answer: Answer, credential: Credential, *, too_late: Collection[int] = TOO_LATE
    ) -> bool | None:
        """What the *answer* to a cancel says in the words of `Provider.cancel`."""
        if answer.status in NOT_THERE:
            return None
        if answer.status in too_late:
            return False
        self.check(answer, "cancel", credential)
        return True

    async def page(self, url: str, credential: Credential, *, of: str) -> Answer:
        """
        A page of the list *of* something.

        Raises:
            SubmitUnknownError: This server cannot list, so nothing is proven.
        """
        answer = await self.exchange("list", "GET", url, credential)
        if answer.status in NOT_OFFERED:
            raise SubmitUnknownError(f"This server does not list its {of}; nobody can tell.")
        self.check(answer, "list", credential)
        return answer

    async def accepts(self, path: str, credential: Credential) -> bool:
        """Whether the free *path* is open to *credential*; see `Provider.accepts`."""
        answer = await self.exchange("list", "GET", self.url(path), credential)
        if answer.status in NOT_OFFERED:
            return False
        self.check(answer, "list", credential)
        return True


def quoted_id(operation: Operation) -> str:
    """The id of *operation* as a part of a path."""
    return quote(operation.id, safe="")


async def _at_once(encode: Callable[[], bytes]) -> bytes:
    return encode()
