"""
Runway's API at the wire.

    POST /v1/text_to_video, /v1/image_to_video -> {id}      GET, DELETE /v1/tasks/{id}
    GET  /v1/organization                                   GET /results/{id}.mp4?signature=

A request without `X-Runway-Version` is refused, and so is a field that nobody knows. A task that
failed tells what it cost: nothing, but for a prompt or an image that moderation blocked.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import uuid4

from aiohttp import web

from vidgen.job import JsonValue
from vidgen.simulator.control import Drawn, Generation, ProviderSimulator, Wish
from vidgen.simulator.faults import Outcome, Refusal
from vidgen.simulator.plain import (
    create,
    is_about_money,
    is_data_image,
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
    serve,
)

API_VERSION = "2024-11-06"
MICROS_PER_CREDIT = 10_000
PROMPT_UNITS = 1000  # of UTF-16

_TEXT_RATIOS = frozenset({"1280:720", "720:1280"})
_IMAGE_RATIOS = _TEXT_RATIOS | {"1104:832", "960:960", "832:1104", "1584:672"}
_VEO_RATIOS = _TEXT_RATIOS | {"1920:1080", "1080:1920"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    """Lengths, ratios without and with an image, credits a second (with sound, if it has any)."""

    seconds: tuple[int, ...]
    text: frozenset[str]
    image: frozenset[str]
    credits: int
    silent_credits: int | None = None

    @property
    def has_sound(self) -> bool:
        return self.silent_credits is not None


_MODELS: Mapping[str, _Model] = {
    "gen4.5": _Model(
        seconds=tuple(range(2, 11)), text=_TEXT_RATIOS, image=_IMAGE_RATIOS, credits=12
    ),
    "gen4_turbo": _Model(
        seconds=tuple(range(2, 11)), text=frozenset(), image=_IMAGE_RATIOS, credits=5
    ),
    "veo3.1": _Model(
        seconds=(4, 6, 8), text=_VEO_RATIOS, image=_VEO_RATIOS, credits=40, silent_credits=20
    ),
    "veo3.1_fast": _Model(
        seconds=(4, 6, 8), text=_VEO_RATIOS, image=_VEO_RATIOS, credits=15, silent_credits=10
    ),
}
_FIELDS = frozenset({"model", "promptText", "promptImage", "duration", "ratio", "seed"})
_GEN_FIELDS = _FIELDS | {"contentModeration"}
_VEO_FIELDS = _FIELDS | {"audio", "negativePrompt"}
_FAILURES: Mapping[str, tuple[str | None, bool]] = {  # code, and whether it stays charged
    "failed": ("INTERNAL.BAD_OUTPUT.CODE01", False),
    "failed-message": (None, False),
    "failed-silent": (None, False),
    "error": ("INTERNAL", False),
    "moderation": ("SAFETY.INPUT.TEXT", True),
    "prompt-blocked": ("INPUT_PREPROCESSING.SAFETY.TEXT", True),
    "filtered": ("SAFETY.OUTPUT.VIDEO", False),
}


def routes(simulator: ProviderSimulator, foreign: ProviderSimulator) -> list[web.RouteDef]:
    """The protocol, answered from *simulator*; redirects that leave the host go to *foreign*."""
    server = _RunwayServer(simulator, foreign)
    return [
        web.post("/v1/text_to_video", serve(simulator, "submit", server.create)),
        web.post("/v1/image_to_video", serve(simulator, "submit", server.create)),
        web.get("/v1/tasks/{id}", serve(simulator, "poll", server.retrieve)),
        web.delete("/v1/tasks/{id}", serve(simulator, "cancel", server.delete)),
        # Free and without a video, so it counts as no deed.
        web.get("/v1/organization", serve(simulator, None, server.organization)),
        web.get("/v1/results/{id}.mp4", serve(simulator, "content", server.content)),
    ]


def _failure_cost(wish: Wish, fate: Outcome) -> int:
    _, stays_charged = _FAILURES.get(fate.name, (None, fate.name != "cancelled"))
    return wish.cost_micros if stays_charged else 0


SIMULATED = SimulatedWire(
    routes=routes,
    addresses=lambda simulator: {"RUNWAYML_BASE_URL": simulator.url},
    failure_cost=_failure_cost,
)


@dataclass(frozen=True, slots=True)
class _RunwayServer:
    simulator: ProviderSimulator
    foreign: ProviderSimulator

    async def create(self, incoming: Incoming) -> web.StreamResponse:
        return await create(
            incoming,
            self.simulator,
            lambda project: _wrong_version(incoming) or read_wish(incoming, project),
            refuse=refuse,
            answer=_receipt,
        )

    async def retrieve(self, incoming: Incoming) -> web.StreamResponse:
        return await retrieve(incoming, self.simulator, refuse=refuse, answer=self.shown)

    async def delete(self, incoming: Incoming) -> web.StreamResponse:
        generation = await to_cancel(incoming, self.simulator, refuse=refuse)
        if isinstance(generation, web.StreamResponse):
            return generation
        self.simulator.forget(generation)
        return web.Response(status=204)

    async def organization(self, incoming: Incoming) -> web.StreamResponse:
        project = owner_of(incoming, self.simulator)
        wrong = project if isinstance(project, Refusal) else _wrong_version(incoming)
        if wrong is not None:
            return refuse(wrong)
        limits: dict[str, JsonValue] = {
            name: {"maxConcurrentGenerations": 5, "maxDailyGenerations": 1000} for name in _MODELS
        }
        return json_answer(
            {
                "creditBalance": 100_000,
                "tier": {"maxMonthlyCreditSpend": 1_000_000, "models": limits},
                "usage": {"models": {name: {"dailyGenerations": 0} for name in _MODELS}},
            }
        )

    async def content(self, incoming: Incoming) -> web.StreamResponse:
        return await result(incoming, self.simulator, self.foreign, refuse=refuse)

    async def shown(self, generation: Generation, drawn: Drawn) -> web.StreamResponse:
        verdict = self.simulator.settle(generation)
        if verdict is not None and verdict.name == "expired":
            return refuse(Refusal(status=404, message="There is no task of this id."))
        task = {**_receipt_of(generation), "createdAt": iso(generation.created_at)}
        if not generation.is_due():
            percent = generation.percent()
            if "stuck" in drawn.modifiers:
                percent = min(percent, round(drawn.number("stuck")))
            task["status"] = "RUNNING" if percent else "PENDING"
            if percent:
                task["progress"] = percent / 100
        elif verdict is None or verdict.name == "no-samples":
            output: list[JsonValue] = [] if verdict else [signed(self.simulator.url, generation)]
            task |= {"status": "SUCCEEDED", "output": output}
        elif verdict.name == "cancelled":
            task["status"] = "CANCELLED"
        else:
            code, _ = _FAILURES[verdict.name]
            task["status"] = "FAILED"
            task["failure"] = "The generation did not go well."
            if code is not None:
                task["failureCode"] = code
        if generation.is_due():
            wish = generation.wish
            micros = _failure_cost(wish, verdict) if verdict else wish.cost_micros
            task["cost"] = {"credits": micros // MICROS_PER_CREDIT}
            del task["estimatedCost"]
        if "status" in drawn.modifiers:
            task["status"] = drawn.modifiers["status"].argument or "DREAMING"
        return json_answer(task)


def read_wish(incoming: Incoming, project: str) -> Wish | Refusal:
    """What a submit asks for, or why it is refused."""
    body = incoming.json
    if not isinstance(body, dict):
        return _invalid("body", "Expected a JSON object.")
    name = body.get("model")
    model = _MODELS.get(name) if isinstance(name, str) else None
    if not isinstance(name, str) or model is None:
        return _invalid("model", f"Model {name} is not available.")
    strange = unknown_fields(body, _VEO_FIELDS if model.has_sound else _GEN_FIELDS)
    if strange is not None:
        return _invalid(strange, "Unrecognized key.")
    prompt = body.get("promptText")
    if not isinstance(prompt, str) or not 0 < len(prompt.encode("utf-16-le")) // 2 <= PROMPT_UNITS:
        return _invalid("promptText", "Expected 1 to 1000 characters.")
    seconds = body.get("duration")
    if isinstance(seconds, bool) or not isinstance(seconds, int) or seconds not in model.seconds:
        return _invalid("duration", f"Expected one of {model.seconds}.")
    has_image = incoming.request.path.endswith("image_to_video")
    if has_image != ("promptImage" in body) or _wrong_images(body.get("promptImage", [])):
        return _invalid("promptImage", "Expected a readable image for each position.")
    ratio, ratios = body.get("ratio"), model.image if has_image else model.text
    if not isinstance(ratio, str) or ratio not in ratios:
        return _invalid("ratio", f"Expected one of {', '.join(sorted(ratios))}.")
    audio = body.get("audio", True) is True and model.has_sound
    rate = model.credits if audio or model.silent_credits is None else model.silent_credits
    width, _, height = ratio.partition(":")
    return Wish(
        operation_id=str(uuid4()),
        prompt=prompt,
        model=name,
        seconds=seconds,
        width=int(width),
        height=int(height),
        audio=audio,
        cost_micros=seconds * rate * MICROS_PER_CREDIT,
        project=project,
        parameters={key: body[key] for key in body.keys() - {"promptText", "model"}},
    )


def refuse(refusal: Refusal) -> web.StreamResponse:
    """*refusal* as Runway writes it; without money it is a 400 with a sentence."""
    message, status = refusal.message, refusal.status
    if is_about_money(refusal):
        status, message = 400, "You do not have enough credits to run this task."
    body: dict[str, JsonValue] = {
        "error": message if refusal.param is None else "Validation of body failed",
        "docUrl": "https://docs.dev.runwayml.com/errors/errors/",
    }
    if refusal.param is not None:
        body["issues"] = [{"path": [refusal.param], "message": message, "code": "custom"}]
    return json_answer(body, status=status, headers=refusal.headers)


def _receipt_of(generation: Generation) -> dict[str, JsonValue]:
    full = generation.wish.cost_micros // MICROS_PER_CREDIT
    return {"id": generation.id, "estimatedCost": {"credits": full}}


def _receipt(generation: Generation) -> web.StreamResponse:
    return json_answer(_receipt_of(generation))


def _wrong_version(incoming: Incoming) -> Refusal | None:
    if incoming.request.headers.get("X-Runway-Version") == API_VERSION:
        return None
    return Refusal(status=400, message="The X-Runway-Version header is missing or not known.")


def _wrong_images(images: JsonValue) -> bool:
    if isinstance(images, str):
        return not (is_data_image(images) or is_fetchable(images))
    if not isinstance(images, list):
        return True
    positions = [each.get("position") for each in images if isinstance(each, dict)]
    if len(positions) < len(images) or positions not in ([], ["first"], ["first", "last"]):
        return True
    uris = [each.get("uri") for each in images if isinstance(each, dict)]
    return not all(is_data_image(uri) or is_fetchable(uri) for uri in uris)


def _invalid(param: str, message: str) -> Refusal:
    return Refusal(status=400, message=message, param=param)
