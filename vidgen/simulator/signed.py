"""Addresses of clips that say until when they hold, as those of object storages do."""

from secrets import token_hex

from aiohttp import web

from vidgen.simulator import plain
from vidgen.simulator.control import Generation, ProviderSimulator
from vidgen.simulator.wire import Incoming, Refuse, serve

KEPT_S = 24 * 3600


def clip_address(simulator: ProviderSimulator, generation: Generation) -> str:
    """Where the clip of *generation* lies; good for a day from its end."""
    query = f"Expires={int(generation.ready_at) + KEPT_S}&signature={token_hex(8)}"
    return f"{simulator.origin}/results/{generation.id}.mp4?{query}"


def clip_route(
    simulator: ProviderSimulator, foreign: ProviderSimulator, refuse: Refuse
) -> web.RouteDef:
    """Where the clips lie, misbehaving as scripted."""

    async def answer(incoming: Incoming) -> web.StreamResponse:
        return await plain.result(incoming, simulator, foreign, refuse=refuse)

    return web.get("/results/{id}.mp4", serve(simulator, "content", answer))
