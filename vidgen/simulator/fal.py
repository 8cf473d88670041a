"""
fal.ai's queue at the wire, with a few apps whose inputs differ.

    POST /{app id}                                    JSON -> {"request_id", "status_url", ...}
    GET  /{owner}/{name}/requests/{id}/status         -> {"status", "queue_position"}
    GET  /{owner}/{name}/requests/{id}                -> what the app made, or its error
    PUT  /{owner}/{name}/requests/{id}/cancel
    GET  /files/{id}.mp4                              the clip; the real one lies at fal.media

Apps check their inputs when they run and not when they are asked, so a wrong one is a completed
request whose result is 422.
"""

from collections.abc import Mapping
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
    obey,
    project_of,
    read_data_url,
    serve,
    submit,
)

_REQUEST = "/{owner}/{name}/requests/{id}"
_SHORT_SIDES = {"480p": 480, "720p": 720, "1080p": 1080, "4k": 2160}
_RATIOS = {
    "16:9": (16, 9),
    "9:16": (9, 16),
    "1:1": (1, 1),
    "4:3": (4, 3),
    "3:4": (3, 4),
    "21:9": (21, 9),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _App:
    """
    What an app takes.

    Attributes:
        durations: As written, the first is the default.
        prices: Micro-dollars a second by resolution, with sound; the first is the default.
        silent_prices: Without sound, if that costs another price.
        images: Inputs that are images; a name in *lists* holds several.
        needs: Inputs that must be there.
        others: Inputs that may be there besides.
    """

    durations: tuple[str, ...]
    prices: Mapping[str, int]
    silent_prices: Mapping[str, int] | None = None
    images: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    needs: tuple[str, ...] = ("prompt",)
    others: frozenset[str] = frozenset()
    has_resolution: bool = True


_VEO = _App(
    durations=("8s", "4s", "6s"),
    prices={"720p": 400_000, "1080p": 400_000, "4k": 600_000},
    silent_prices={"720p": 200_000, "1080p": 200_000, "4k": 400_000},
    images=("image_url", "first_frame_url", "last_frame_url"),
    lists=("image_urls",),
    others=frozenset({"generate_audio", "negative_prompt", "seed", "auto_fix"}),
)
_VEO_FAST = _App(
    durations=_VEO.durations,
    prices={"720p": 150_000, "1080p": 150_000, "4k": 350_000},
    silent_prices={"720p": 100_000, "1080p": 100_000, "4k": 300_000},
    images=_VEO.images,
    lists=_VEO.lists,
    others=_VEO.others,
)
_KLING = _App(
    durations=("5", "10"),
    prices={"1080p": 70_000},
    images=("image_url", "tail_image_url"),
    others=frozenset({"negative_prompt", "cfg_scale"}),
    has_resolution=False,
)
_SEEDANCE = _App(
    durations=("5", *(str(n) for n in range(4, 16) if n != 5)),
    prices={"720p": 303_400, "480p": 134_600, "1080p": 682_000, "4k": 1_555_200},
    images=("image_url", "end_image_url"),
    lists=("image_urls",),
    others=frozenset({"generate_audio", "seed", "end_user_id"}),
)
# By the longest beginning of the id that fits.
_APPS = {
    "fal-ai/veo3.1": _VEO,
    "fal-ai/veo3.1/fast": _VEO_FAST,
    "fal-ai/kling-video/v2.5-turbo/pro": _KLING,
    "bytedance/seedance-2.0": _SEEDANCE,
}


def routes(simulator: ProviderSimulator, foreign: ProviderSimulator) -> list[web.RouteDef]:
    """The queue, answered from *simulator*; redirects that leave the host go to *foreign*."""
    server = _FalServer(simulator, foreign)
    return [
        web.get("/files/{id}.mp4", serve(simulator, "content", server.content)),
        web.get(_REQUEST + "/status", serve(simulator, "poll", server.status)),
        # The second half of a look, so it counts as no deed of its own.
        web.get(_REQUEST, serve(simulator, None, server.result)),
        web.put(_REQUEST + "/cancel", serve(simulator, "cancel", server.cancel)),
        web.post("/{app:.+}", serve(simulator, "submit", server.create)),
    ]


def _failure_cost(wish: Wish, fate: Outcome) -> int:
    """What ends with a 5xx is free, what the app rejects is not."""
    is_free = fate.name == "error" or fate.name.startswith("failed")
    return 0 if is_free else wish.cost_micros


SIMULATED = SimulatedWire(
    routes=routes,
    addresses=lambda simulator: {"FAL_BASE_URL": simulator.origin},
    failure_cost=_failure_cost,
)


@dataclass(frozen=True, slots=True)
class _FalServer:
    simulator: ProviderSimulator
    foreign: ProviderSimulator

    async def create(self, incoming: Incoming) -> web.StreamResponse:
        project = project_of(self.simulator, _key(incoming))
        if project is None:
            return refuse(_wrong_key())
        wish = read_wish(incoming.json, incoming.request.match_info["app"], project)
        if isinstance(wish, Refusal):
            return refuse(wish)
        return await submit(incoming, self.simulator, wish, refuse=refuse, answer=self.receipt)

    async def status(self, incoming: Incoming) -> web.StreamResponse:
        generation = self.find(incoming)
        if isinstance(generation, Refusal):
            return refuse(generation)
        return await look(incoming, self.simulator, generation, refuse=refuse, answer=self.shown)

    async def result(self, incoming: Incoming) -> web.StreamResponse:
        generation = self.find(incoming)
        if isinstance(generation, Refusal):
            return refuse(generation)
        verdict = self.simulator.settle(generation)
        if not generation.is_due():
            return json_answer({"detail": "Request is still in progress"}, status=400)
        if verdict is not None:
            return _failure(verdict)
        wrong = generation.wish.parameters.get("wrong_input")
        if isinstance(wrong, str):
            return _app_error(422, "value_error", f"{wrong} is not valid", wrong)
        file: JsonValue = {
            "url": f"{self.simulator.origin}/files/{generation.id}.mp4",
            "content_type": "video/mp4",
            "file_name": "output.mp4",
        }
        return json_answer({"video": file, "seed": 42})

    async def cancel(self, incoming: Incoming) -> web.StreamResponse:
        generation = self.find(incoming)
        if isinstance(generation, Refusal):
            return json_answer({"status": "NOT_FOUND"}, status=generation.status)
        obeyed = await obey(incoming, self.simulator, "cancel", refuse=refuse)
        if obeyed is not None:
            return obeyed
        if generation.is_due():
            return json_answer({"status": "ALREADY_COMPLETED"}, status=400)
        self.simulator.forget(generation)
        return json_answer({"status": "CANCELLATION_REQUESTED"}, status=202)

    async def content(self, incoming: Incoming) -> web.StreamResponse:
        # The real address is public; this one is known to its owner only.
        generation = self.simulator.generations.get(incoming.request.match_info["id"])
        if generation is None:
            return refuse(Refusal(status=404, message="Not found", code="not_found"))
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

    def receipt(self, generation: Generation) -> web.StreamResponse:
        answer = self.addresses(generation)
        answer |= {"status": "IN_QUEUE", "request_id": generation.id, "queue_position": 0}
        return json_answer(answer)

    def addresses(self, generation: Generation) -> dict[str, JsonValue]:
        owner_and_name = "/".join(generation.wish.model.split("/")[:2])
        base = f"{self.simulator.origin}/{owner_and_name}/requests/{generation.id}"
        return {
            "response_url": base,
            "status_url": f"{base}/status",
            "cancel_url": f"{base}/cancel",
        }

    async def shown(self, generation: Generation, drawn: Drawn) -> web.StreamResponse:
        verdict = self.simulator.settle(generation)
        answer: dict[str, JsonValue] = {"request_id": generation.id, "logs": None}
        answer |= self.addresses(generation)
        if not generation.is_due():
            waiting = generation.percent() == 0
            answer |= {"status": "IN_QUEUE" if waiting else "IN_PROGRESS"}
            if waiting:
                answer["queue_position"] = 0
        else:
            answer |= {"status": "COMPLETED", "metrics": {"inference_time": 12.5}}
            answer |= _standing(verdict)
        if "status" in drawn.modifiers:
            answer["status"] = drawn.modifiers["status"].argument or "DREAMING"
        return json_answer(answer, status=200 if answer["status"] == "COMPLETED" else 202)

    def find(self, incoming: Incoming) -> Generation | Refusal:
        project = project_of(self.simulator, _key(incoming))
        if project is None:
            return _wrong_key()
        path = incoming.request.match_info
        generation = self.simulator.generations.get(path["id"])
        owned = generation is not None and generation.wish.project == project
        if generation is None or not owned:
            return Refusal(status=404, message="Request not found", code="not_found")
        if not generation.wish.model.startswith(f"{path['owner']}/{path['name']}"):
            return Refusal(status=404, message="Request not found", code="not_found")
        return generation


def refuse(refusal: Refusal) -> web.StreamResponse:
    """*refusal* as fal writes request errors, or an app's list of its own."""
    if refusal.kind == "insufficient_quota":
        locked = "User is locked. Reason: Exhausted balance. Top up your balance."
        return json_answer({"detail": locked}, status=403)
    if refusal.code == "moderation_blocked":
        return _app_error(422, "content_policy_violation", "Flagged by a content checker", "prompt")
    kind = refusal.code or _TYPES.get(refusal.status, "bad_request")
    return json_answer(
        {"detail": refusal.message, "error_type": kind},
        status=refusal.status,
        headers={**refusal.headers, "X-Fal-Error-Type": kind},
    )


_TYPES = {429: "rate_limited", 500: "internal_error", 503: "runner_scheduling_failure"}


def read_wish(body: JsonValue, app_id: str, project: str) -> Wish | Refusal:
    """What a request asks of an app. What the app will reject stands in `wrong_input`."""
    known = [known for known in _APPS if f"{app_id}/".startswith(f"{known}/")]
    if not known:
        name = "/".join(app_id.split("/")[:2])
        return Refusal(status=404, message=f"Application '{name}' not found", code="not_found")
    if not isinstance(body, dict):
        return Refusal(status=400, message="The body must be a JSON object.", code="bad_request")
    app = _APPS[max(known, key=len)]
    parameters = dict(body)
    wrong = _wrong_input(body, app)
    if wrong is not None:
        parameters["wrong_input"] = wrong
    durations, resolutions = app.durations, tuple(app.prices)
    wanted = str(body.get("duration"))
    length = int((wanted if wanted in durations else durations[0]).removesuffix("s"))
    resolution = str(body.get("resolution"))
    named = resolution if resolution in resolutions else resolutions[0]
    ratio = str(body.get("aspect_ratio"))
    wide, tall = _RATIOS.get(ratio, (16, 9))
    short, audio = _SHORT_SIDES[named], body.get("generate_audio", "generate_audio" in app.others)
    prices = app.prices if audio or app.silent_prices is None else app.silent_prices
    return Wish(
        operation_id=str(uuid4()),
        prompt=str(body.get("prompt") or ""),
        model=app_id,
        seconds=length,
        width=clips.even(short * wide / min(wide, tall)),
        height=clips.even(short * tall / min(wide, tall)),
        audio=bool(audio),
        cost_micros=length * prices[named],
        project=project,
        parameters=parameters,
    )


def _wrong_input(body: Mapping[str, JsonValue], app: _App) -> str | None:
    """The first input that *app* will reject; those it does not know go unnoticed."""
    for name in app.needs:
        if not body.get(name):
            return name
    if body.get("duration", app.durations[0]) not in app.durations:
        return "duration"
    if app.has_resolution and body.get("resolution", next(iter(app.prices))) not in app.prices:
        return "resolution"
    if body.get("aspect_ratio", "16:9") not in {"auto", *_RATIOS}:
        return "aspect_ratio"
    for name in (*app.images, *app.lists):
        value = body.get(name, [])
        for each in value if isinstance(value, list) else [value]:
            data = read_data_url(each)
            if data is None or clips.image_size(data) is None:
                return name
    return None


def _standing(verdict: Outcome | None) -> dict[str, JsonValue]:
    """What the queue says of a completed request that went wrong; of most it says nothing."""
    match verdict.name if verdict else None:
        case "failed":
            return {"error": "Runner disconnected", "error_type": "runner_disconnected"}
        case "failed-silent":
            return {"error": "Internal Server Error"}
        case "cancelled":
            return {"error": "Request was cancelled", "error_type": "client_cancelled"}
        case _:
            return {}


def _failure(verdict: Outcome) -> web.StreamResponse:
    """The result of a request that went wrong."""
    match verdict.name:
        case "moderation" | "filtered" | "prompt-blocked":
            message = "The content could not be processed because it was flagged."
            return _app_error(422, "content_policy_violation", message, "prompt")
        case "failed":
            detail = {"detail": "Runner disconnected", "error_type": "runner_disconnected"}
            return json_answer(dict(detail), status=503)
        case "failed-silent":
            return json_answer({"detail": "Internal Server Error"}, status=500)
        case "cancelled":
            detail = {"detail": "Request was cancelled", "error_type": "client_cancelled"}
            return json_answer(dict(detail), status=499)
        case "expired":
            return refuse(Refusal(status=404, message="Request not found", code="not_found"))
        case "no-samples":
            return json_answer({"images": []})
        case _:
            return _app_error(500, "internal_server_error", "Internal server error", "body")


def _app_error(status: int, kind: str, message: str, place: str) -> web.StreamResponse:
    where: list[JsonValue] = ["body", place]
    item: JsonValue = {"loc": where, "msg": message, "type": kind}
    headers = {"X-Fal-Retryable": "false"}
    return json_answer({"detail": [item]}, status=status, headers=headers)


def _key(incoming: Incoming) -> str:
    scheme, _, key = incoming.request.headers.get("Authorization", "").partition(" ")
    return key.strip() if scheme == "Key" else ""


def _wrong_key() -> Refusal:
    return Refusal(status=401, message="Cannot access application.", code="authentication_error")
