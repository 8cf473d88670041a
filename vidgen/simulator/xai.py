"""
xAI's video interface at the wire.

    POST /v1/videos/generations    JSON -> {"request_id"}
    GET  /v1/videos/{request_id}   -> {"status", "progress", "video", "usage", "error"}
    GET  /v1/api-key               -> what the key is
    GET  /v1/files/{request_id}    the clip; the real one lies at vidgen.x.ai

A failed generation is HTTP 200 with status "failed". Unknown fields go unnoticed.
"""

from dataclasses import dataclass
from functools import partial
from uuid import uuid4

from aiohttp import web

from vidgen.job import JsonValue
from vidgen.simulator import clips
from vidgen.simulator.control import Drawn, Generation, ProviderSimulator, Wish
from vidgen.simulator.faults import Outcome, Refusal
from vidgen.simulator.wire import (
    Incoming,
    SimulatedWire,
    clip_of,
    deliver_generation,
    json_answer,
    look,
    not_ready,
    project_of,
    read_data_url,
    serve,
    submit,
)

TICKS_PER_MICRO = 10_000
_PREFIX = "/v1"
# micro-dollars a second
_PRICES = {
    "grok-imagine-video": {"480p": 50_000, "720p": 70_000},
    "grok-imagine-video-1.5": {"480p": 80_000, "720p": 140_000, "1080p": 250_000},
    "grok-imagine-video-1.5-lite": {"480p": 20_000, "720p": 30_000, "1080p": 140_000},
}
_SHORT_SIDES = {"480p": 480, "720p": 720, "1080p": 1080}
_RATIOS = {
    "1:1": (1, 1),
    "16:9": (16, 9),
    "9:16": (9, 16),
    "4:3": (4, 3),
    "3:4": (3, 4),
    "3:2": (3, 2),
    "2:3": (2, 3),
}
# gRPC's descriptions, which xAI sends as codes.
_DESCRIPTIONS = {
    400: "Client specified an invalid argument",
    401: "The request does not have valid authentication credentials",
    403: "The caller does not have permission to execute the specified operation",
    404: "Some requested entity was not found",
    408: "Deadline expired before operation could complete",
    409: "The operation was aborted",
    410: "Some requested entity was not found",
    429: "Some resource has been exhausted",
    500: "Internal error",
    503: "The service is currently unavailable",
}
_NO_CREDITS = (
    "Your team has either used all available credits or reached its monthly spending limit."
)


def routes(simulator: ProviderSimulator, foreign: ProviderSimulator) -> list[web.RouteDef]:
    """The interface, answered from *simulator*; redirects that leave the host go to *foreign*."""
    server = _XaiServer(simulator, foreign)
    return [
        web.post(_PREFIX + "/videos/generations", serve(simulator, "submit", server.create)),
        web.get(_PREFIX + "/videos/{id}", serve(simulator, "poll", server.retrieve)),
        # Free and without a video, so it counts as no deed.
        web.get(_PREFIX + "/api-key", serve(simulator, None, server.about_key)),
        web.get(_PREFIX + "/files/{id}.mp4", serve(simulator, "content", server.content)),
    ]


def _failure_cost(wish: Wish, fate: Outcome) -> int:
    """What moderation keeps back is made and paid; what fails has no seconds to pay."""
    is_free = fate.name == "error" or fate.name.startswith("failed")
    return 0 if is_free else wish.cost_micros


SIMULATED = SimulatedWire(
    routes=routes,
    addresses=lambda simulator: {"XAI_BASE_URL": simulator.url},
    failure_cost=_failure_cost,
)


@dataclass(frozen=True, slots=True)
class _XaiServer:
    simulator: ProviderSimulator
    foreign: ProviderSimulator

    async def create(self, incoming: Incoming) -> web.StreamResponse:
        project = project_of(self.simulator, incoming.key)
        if project is None:
            return refuse(_wrong_key())
        wish = read_wish(incoming.json, project)
        if isinstance(wish, Refusal):
            return refuse(wish)
        return await submit(incoming, self.simulator, wish, refuse=refuse, answer=_receipt)

    async def retrieve(self, incoming: Incoming) -> web.StreamResponse:
        generation = self.find(incoming)
        if isinstance(generation, Refusal):
            return refuse(generation)
        return await look(incoming, self.simulator, generation, refuse=refuse, answer=self.shown)

    async def about_key(self, incoming: Incoming) -> web.StreamResponse:
        if project_of(self.simulator, incoming.key) is None:
            return refuse(_wrong_key())
        return json_answer(
            {
                "redacted_api_key": "xai-...b14o",
                "name": "simulated",
                "api_key_blocked": incoming.key.startswith("blocked"),
                "api_key_disabled": False,
                "team_blocked": False,
                "acls": ["api-key:model:*", "api-key:endpoint:*"],
            }
        )

    async def content(self, incoming: Incoming) -> web.StreamResponse:
        # The real address is temporary and wants no key; this one is known to its owner only.
        generation = self.simulator.generations.get(incoming.request.match_info["id"])
        if generation is None:
            return refuse(_not_found("file"))
        if not generation.is_due() or self.simulator.settle(generation) is not None:
            return refuse(not_ready(404))
        return await deliver_generation(
            incoming,
            self.simulator,
            self.foreign,
            generation,
            partial(clip_of, self.simulator, generation.wish),
            refuse=refuse,
        )

    async def shown(self, generation: Generation, drawn: Drawn) -> web.StreamResponse:
        answer = self.standing(generation)
        if "status" in drawn.modifiers:
            answer["status"] = drawn.modifiers["status"].argument or "dreaming"
        if "stuck" in drawn.modifiers:
            answer["progress"] = min(generation.percent(), round(drawn.number("stuck")))
        pending = answer["status"] == "pending"
        return json_answer(answer, status=202 if pending else 200)

    def standing(self, generation: Generation) -> dict[str, JsonValue]:
        """What is said of *generation*."""
        verdict, wish = self.simulator.settle(generation), generation.wish
        nothing: dict[str, JsonValue] = {"duration": 0, "respect_moderation": True}
        if not generation.is_due():
            return {"status": "pending", "model": wish.model, "progress": generation.percent()}
        if verdict is None:
            url = f"{self.simulator.origin}{_PREFIX}/files/{generation.id}.mp4"
            return {
                "status": "done",
                "model": wish.model,
                "progress": 100,
                "video": {"url": url, "duration": wish.seconds, "respect_moderation": True},
                "usage": {"cost_in_usd_ticks": wish.cost_micros * TICKS_PER_MICRO},
            }
        error: JsonValue
        match verdict.name:
            case "moderation" | "filtered":
                held: JsonValue = {"url": "", "duration": wish.seconds, "respect_moderation": False}
                ticks = wish.cost_micros * TICKS_PER_MICRO
                return {
                    "status": "done",
                    "model": wish.model,
                    "video": held,
                    "usage": {"cost_in_usd_ticks": ticks},
                }
            case "prompt-blocked":
                message = "Content violates usage guidelines."
                error = {"code": "permission_denied", "message": message}
            case "expired":
                return {"status": "expired"}
            case "no-samples":
                return {"status": "done", "model": wish.model}
            case "failed-silent":
                return {"status": "failed", "video": nothing, "model": ""}
            case "failed-message":
                error = {"message": "An internal error occurred."}
            case _:
                error = {"code": "internal_error", "message": "An internal error occurred."}
        return {"status": "failed", "video": nothing, "model": "", "error": error}

    def find(self, incoming: Incoming) -> Generation | Refusal:
        project = project_of(self.simulator, incoming.key)
        if project is None:
            return _wrong_key()
        generation = self.simulator.generations.get(incoming.request.match_info["id"])
        if generation is None or generation.wish.project != project:
            return _not_found("request")
        return generation


def refuse(refusal: Refusal) -> web.StreamResponse:
    """*refusal* as xAI writes errors."""
    message = refusal.message
    if refusal.kind == "insufficient_quota":
        message = _NO_CREDITS
    elif refusal.code == "invalid_api_key":
        message = "Incorrect API key provided. You can obtain an API key from console.x.ai."
    elif refusal.code == "moderation_blocked":
        message = "Content violates usage guidelines."
    described = _DESCRIPTIONS.get(refusal.status, "Client specified an invalid argument")
    return json_answer(
        {"code": described, "error": message}, status=refusal.status, headers=refusal.headers
    )


def read_wish(body: JsonValue, project: str) -> Wish | Refusal:
    """What a submit asks for, or why it is refused."""
    if not isinstance(body, dict):
        return _invalid("Failed to deserialize the JSON body.")
    model, prompt = body.get("model"), body.get("prompt", "")
    if not isinstance(model, str) or model not in _PRICES:
        message = f"The model {model} does not exist or your team does not have access to it."
        return Refusal(status=404, message=message)
    seconds, resolution = body.get("duration", 8), body.get("resolution", "480p")
    ratio = body.get("aspect_ratio", "16:9")
    if not isinstance(prompt, str) or (not prompt and "image" not in body):
        return _invalid("prompt: a string is needed.")
    if isinstance(seconds, bool) or not isinstance(seconds, int) or not 1 <= seconds <= 15:
        return _invalid("duration: must be between 1 and 15 seconds.")
    if not isinstance(resolution, str) or resolution not in _PRICES[model]:
        return _invalid(f"resolution: must be one of {', '.join(_PRICES[model])}.")
    if not isinstance(ratio, str) or ratio not in _RATIOS:
        return _invalid(f"aspect_ratio: must be one of {', '.join(_RATIOS)}.")
    if not isinstance(body.get("generate_audio", True), bool):
        return _invalid("generate_audio: must be a boolean.")
    wrong = _wrong_images(body)
    if wrong is not None:
        return wrong
    short, (wide, tall) = _SHORT_SIDES[resolution], _RATIOS[ratio]
    return Wish(
        operation_id=str(uuid4()),
        prompt=prompt,
        model=model,
        seconds=seconds,
        width=clips.even(short * wide / min(wide, tall)),
        height=clips.even(short * tall / min(wide, tall)),
        audio=body.get("generate_audio") is not False,
        cost_micros=seconds * _PRICES[model][resolution],
        project=project,
        parameters=dict(body),
    )


def _wrong_images(body: dict[str, JsonValue]) -> Refusal | None:
    references = body.get("reference_images", [])
    if not isinstance(references, list) or len(references) > 7:
        return _invalid("reference_images: at most 7 images.")
    if references and "image" in body:
        return _invalid("image and reference_images cannot be combined.")
    named = [(name, body[name]) for name in ("image", "last_frame") if name in body]
    for name, image in [*named, *(("reference_images", each) for each in references)]:
        data = read_data_url(image.get("url")) if isinstance(image, dict) else None
        if data is None or clips.image_size(data) is None:
            return _invalid(f"{name}: the image cannot be read.")
    return None


def _receipt(generation: Generation) -> web.StreamResponse:
    return json_answer({"request_id": generation.id})


def _invalid(message: str) -> Refusal:
    return Refusal(status=400, message=message)


def _not_found(what: str) -> Refusal:
    return Refusal(status=404, message=f"No such {what}.")


def _wrong_key() -> Refusal:
    return Refusal(status=400, message="Incorrect API key provided.", code="invalid_api_key")
