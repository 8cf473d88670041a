"""
What the simulated vendors share that take JSON with a bearer key and hand out signed addresses.

The signature of a result's address is another one after each look, as with the real ones.
"""

import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from secrets import token_hex

from aiohttp import web

from vidgen.job import JsonValue
from vidgen.simulator import clips
from vidgen.simulator.control import Drawn, Generation, ProviderSimulator, Wish
from vidgen.simulator.faults import Refusal
from vidgen.simulator.wire import (
    Incoming,
    Refuse,
    clip_of,
    deliver,
    look,
    not_ready,
    obey,
    project_of,
    submit,
)


def owner_of(incoming: Incoming, simulator: ProviderSimulator) -> str | Refusal:
    """The project of the key that came along, or the refusal of a wrong one."""
    project = project_of(simulator, incoming.key)
    return Refusal(status=401, message="The API key is not valid.") if project is None else project


def found(incoming: Incoming, simulator: ProviderSimulator) -> Generation | Refusal:
    """The generation that the address names, if the key may see it."""
    project = owner_of(incoming, simulator)
    if isinstance(project, Refusal):
        return project
    generation = simulator.generations.get(incoming.request.match_info["id"])
    if generation is None or generation.wish.project != project:
        return Refusal(status=404, message="There is nothing of this id.")
    return generation


async def create(
    incoming: Incoming,
    simulator: ProviderSimulator,
    read: Callable[[str], Wish | Refusal],
    *,
    refuse: Refuse,
    answer: Callable[[Generation], web.StreamResponse],
) -> web.StreamResponse:
    """Take on what *read* finds asked for on behalf of the key's project."""
    project = owner_of(incoming, simulator)
    wish = project if isinstance(project, Refusal) else read(project)
    if isinstance(wish, Refusal):
        return refuse(wish)
    return await submit(incoming, simulator, wish, refuse=refuse, answer=answer)


async def retrieve(
    incoming: Incoming,
    simulator: ProviderSimulator,
    *,
    refuse: Refuse,
    answer: Callable[[Generation, Drawn], Awaitable[web.StreamResponse]],
) -> web.StreamResponse:
    """Show where the generation stands that the address names."""
    generation = found(incoming, simulator)
    if isinstance(generation, Refusal):
        return refuse(generation)
    return await look(incoming, simulator, generation, refuse=refuse, answer=answer)


async def to_cancel(
    incoming: Incoming, simulator: ProviderSimulator, *, refuse: Refuse
) -> Generation | web.StreamResponse:
    """What shall be cancelled, or the answer in its place."""
    generation = found(incoming, simulator)
    if isinstance(generation, Refusal):
        return refuse(generation)
    obeyed = await obey(incoming, simulator, "cancel", refuse=refuse)
    return generation if obeyed is None else obeyed


def is_about_money(refusal: Refusal) -> bool:
    """Whether *refusal* says that the account has no money left."""
    return refusal.kind == "insufficient_quota"


def signed(base_url: str, generation: Generation) -> str:
    """Where the result lies, by an address that was not given out before."""
    return f"{base_url}/results/{generation.id}.mp4?signature={token_hex(8)}"


async def result(
    incoming: Incoming,
    simulator: ProviderSimulator,
    foreign: ProviderSimulator,
    *,
    refuse: Refuse,
) -> web.StreamResponse:
    """The bytes of a result, as scripted; the address opens it, no key does."""
    request = incoming.request
    generation = simulator.generations.get(request.match_info["id"])
    if generation is None or "signature" not in request.query:
        return refuse(Refusal(status=403, message="Access denied."))
    if not generation.is_due() or simulator.settle(generation) is not None:
        return refuse(not_ready(404))
    drawn = simulator.draw("content", prompt=generation.wish.prompt, operation_id=generation.id)
    if "redirected" in request.query and drawn.outcome and drawn.outcome.name == "redirect":
        drawn = Drawn(modifiers=drawn.modifiers)  # the redirect has been made; here it ends
    return await deliver(
        incoming,
        drawn,
        partial(clip_of, simulator, generation.wish),
        content_type="video/mp4",
        refuse=refuse,
        elsewhere=str(request.rel_url.update_query(redirected=1)),
        foreign=f"{foreign.origin}/{simulator.name}/{generation.id}",
    )


def unknown_fields(body: Mapping[str, JsonValue], known: frozenset[str]) -> str | None:
    """The first field of *body* that nobody knows; None if there is none."""
    return next((name for name in body if name not in known), None)


def is_data_image(value: JsonValue) -> bool:
    """Whether *value* is a readable picture as a data URI."""
    if not isinstance(value, str) or not value.startswith("data:image/"):
        return False
    try:
        data = base64.b64decode(value.partition(",")[2], validate=True)
    except binascii.Error:
        return False
    return clips.image_size(data) is not None


def is_fetchable(value: JsonValue) -> bool:
    """Whether *value* is an address that a vendor would fetch an image from."""
    return isinstance(value, str) and value.startswith("https://")


def iso(unix_s: float) -> str:
    """A moment as JSON has it, in UTC."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat().replace("+00:00", "Z")
