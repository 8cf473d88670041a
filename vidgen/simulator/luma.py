"""
Luma's Dream Machine API at the wire.

    POST /dream-machine/v1/generations/video     GET, DELETE /dream-machine/v1/generations/{id}
    GET  /dream-machine/v1/generations?limit&offset          GET /dream-machine/v1/credits

Results lie at /results/{id}.mp4?signature=, with the newest first in the list.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from uuid import uuid4

from aiohttp import web

from vidgen.job import JsonValue
from vidgen.simulator.control import Drawn, Generation, ProviderSimulator, Wish
from vidgen.simulator.faults import Refusal
from vidgen.simulator.plain import (
    create,
    is_about_money,
    is_fetchable,
    iso,
    owner_of,
    result,
    retrieve,
    signed,
    to_cancel,
    unknown_fields,
)
from vidgen.simulator.wire import (
    Incoming,
    SimulatedWire,
    json_answer,
    obey,
    serve,
)

BASE = "/dream-machine/v1"

_SHAPES: Mapping[str, tuple[int, int]] = {
    "540p": (960, 540),
    "720p": (1280, 720),
    "1080p": (1920, 1080),
    "4k": (3840, 2160),
}
_RATIOS = ("1:1", "16:9", "9:16", "4:3", "3:4", "21:9", "9:21")
_SECONDS = {"5s": 5, "9s": 9}
# Micro-dollars of a million pixels, at 24 frames a second.
_PIXEL_PRICES = {"ray-2": 6_400, "ray-flash-2": 2_200}
_FIELDS = frozenset(
    {"generation_type", "model", "prompt", "aspect_ratio", "resolution", "duration"}
    | {"loop", "keyframes", "concepts", "callback_url"}
)
_REASONS: Mapping[str, str | None] = {
    "failed": "The generation did not go well.",
    "failed-message": "500: internal error",
    "failed-silent": None,
    "error": "500: internal error",
    "cancelled": "The generation was cancelled.",
    "moderation": "400: prompt not allowed because advanced moderation failed",
    "filtered": "400: output not allowed because moderation failed",
    "prompt-blocked": "400: prompt not allowed because advanced moderation failed",
}


def routes(simulator: ProviderSimulator, foreign: ProviderSimulator) -> list[web.RouteDef]:
    """The protocol, answered from *simulator*; redirects that leave the host go to *foreign*."""
    server = _LumaServer(simulator, foreign)
    return [
        web.post(f"{BASE}/generations/video", serve(simulator, "submit", server.create)),
        web.get(f"{BASE}/generations", serve(simulator, "list", server.index)),
        web.get(f"{BASE}/generations/{{id}}", serve(simulator, "poll", server.retrieve)),
        web.delete(f"{BASE}/generations/{{id}}", serve(simulator, "cancel", server.delete)),
        # Free and without a video, so it counts as no deed.
        web.get(f"{BASE}/credits", serve(simulator, None, server.credits)),
        web.get(f"{BASE}/results/{{id}}.mp4", serve(simulator, "content", server.content)),
    ]


def address(simulator: ProviderSimulator) -> str:
    """The base URL of the protocol."""
    return f"{simulator.origin}{BASE}"


SIMULATED = SimulatedWire(
    routes=routes, addresses=lambda simulator: {"LUMAAI_BASE_URL": address(simulator)}
)


@dataclass(frozen=True, slots=True)
class _LumaServer:
    simulator: ProviderSimulator
    foreign: ProviderSimulator

    async def create(self, incoming: Incoming) -> web.StreamResponse:
        return await create(
            incoming,
            self.simulator,
            partial(read_wish, incoming.json),
            refuse=refuse,
            answer=self.created,
        )

    async def index(self, incoming: Incoming) -> web.StreamResponse:
        project = owner_of(incoming, self.simulator)
        if isinstance(project, Refusal):
            return refuse(project)
        obeyed = await obey(incoming, self.simulator, "list", refuse=refuse)
        if obeyed is not None:
            return obeyed
        query = incoming.request.query
        limit, offset = query.get("limit", "100"), query.get("offset", "0")
        if not (limit.isdecimal() and offset.isdecimal()):
            return refuse(_invalid("limit", "a whole number"))
        mine = self.simulator.listed(project)
        end = int(offset) + int(limit)
        shown: list[JsonValue] = [self.body(each) for each in mine[int(offset) : end]]
        return json_answer(
            {
                "generations": shown,
                "count": len(shown),
                "limit": int(limit),
                "offset": int(offset),
                "has_more": end < len(mine),
            }
        )

    async def retrieve(self, incoming: Incoming) -> web.StreamResponse:
        return await retrieve(incoming, self.simulator, refuse=refuse, answer=self.shown)

    async def delete(self, incoming: Incoming) -> web.StreamResponse:
        generation = await to_cancel(incoming, self.simulator, refuse=refuse)
        if isinstance(generation, web.StreamResponse):
            return generation
        self.simulator.forget(generation)
        return web.Response(status=204)

    async def credits(self, incoming: Incoming) -> web.StreamResponse:
        project = owner_of(incoming, self.simulator)
        return (
            refuse(project)
            if isinstance(project, Refusal)
            else json_answer({"credit_balance": 100_000.0})
        )

    async def content(self, incoming: Incoming) -> web.StreamResponse:
        return await result(incoming, self.simulator, self.foreign, refuse=refuse)

    def created(self, generation: Generation) -> web.StreamResponse:
        return json_answer(self.body(generation), status=201)

    async def shown(self, generation: Generation, drawn: Drawn) -> web.StreamResponse:
        verdict = self.simulator.settle(generation)
        if verdict is not None and verdict.name == "expired":
            return refuse(Refusal(status=404, message="Generation not found"))
        body = self.body(generation)
        if "status" in drawn.modifiers:
            body["state"] = drawn.modifiers["status"].argument or "imagining"
        return json_answer(body)

    def body(self, generation: Generation) -> dict[str, JsonValue]:
        """The Generation object."""
        verdict = self.simulator.settle(generation)
        state, reason, assets = "queued", None, None
        if verdict is not None and verdict.name != "no-samples":
            state, reason = "failed", _REASONS.get(verdict.name)
        elif generation.is_due():
            video = None if verdict else signed(address(self.simulator), generation)
            state, assets = "completed", {"image": None, "video": video, "progress_video": None}
        elif generation.percent():
            state = "dreaming"
        wish = generation.wish
        shown_assets: JsonValue = None if assets is None else dict(assets)
        return {
            "id": generation.id,
            "generation_type": "video",
            "state": state,
            "failure_reason": reason,
            "created_at": iso(generation.created_at),
            "assets": shown_assets,
            "model": wish.model,
            "request": {"prompt": wish.prompt, "model": wish.model, **wish.parameters},
        }


def read_wish(body: JsonValue, project: str) -> Wish | Refusal:
    """What a submit asks for, or why it is refused."""
    if not isinstance(body, dict):
        return _invalid("body", "an object")
    strange = unknown_fields(body, _FIELDS)
    if strange is not None:
        return _invalid(strange, "nothing of this name")
    prompt, model = body.get("prompt"), body.get("model")
    if not isinstance(prompt, str) or len(prompt) < 3:
        return Refusal(status=400, message="Prompt is too short, minimum length is 3 characters")
    if not isinstance(model, str) or model not in _PIXEL_PRICES:
        return _invalid("model", " or ".join(_PIXEL_PRICES))
    seconds = _SECONDS.get(str(body.get("duration", "5s")))
    if seconds is None:
        return _invalid("duration", " or ".join(_SECONDS))
    shape = _SHAPES.get(str(body.get("resolution", "720p")))
    if shape is None:
        return _invalid("resolution", ", ".join(_SHAPES))
    ratio = body.get("aspect_ratio", "16:9")
    if ratio not in _RATIOS:
        return _invalid("aspect_ratio", ", ".join(_RATIOS))
    if _wrong_keyframes(body.get("keyframes")):
        return _invalid("keyframes", "frame0 and frame1 as images with an address, or generations")
    width, height = shape
    a_second = width * height * 24 * _PIXEL_PRICES[model] // 1_000_000
    return Wish(
        operation_id=str(uuid4()),
        prompt=prompt,
        model=model,
        seconds=seconds,
        width=width if ratio != "9:16" else height,
        height=height if ratio != "9:16" else width,
        audio=False,
        cost_micros=seconds * a_second,
        project=project,
        parameters={key: body[key] for key in body.keys() - {"prompt", "model"}},
    )


def refuse(refusal: Refusal) -> web.StreamResponse:
    """*refusal* as Luma writes it."""
    message, status = refusal.message, refusal.status
    if is_about_money(refusal):
        status, message = 400, "Insufficient credits"
    return json_answer({"detail": message}, status=status, headers=refusal.headers)


def _wrong_keyframes(keyframes: JsonValue) -> bool:
    if keyframes is None:
        return False
    if not isinstance(keyframes, dict) or keyframes.keys() - {"frame0", "frame1"}:
        return True
    for frame in keyframes.values():
        kind = frame.get("type") if isinstance(frame, dict) else None
        if not isinstance(frame, dict) or kind not in {"image", "generation"}:
            return True
        if kind == "image" and not is_fetchable(frame.get("url")):
            return True
    return False


def _invalid(param: str, wanted: str) -> Refusal:
    return Refusal(status=400, message=f"Invalid {param}: expected {wanted}", param=param)
