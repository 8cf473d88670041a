"""
Ark at the wire: Seedance's tasks.

    POST   /seedance/api/v3/contents/generations/tasks        -> {id}
    GET    /seedance/api/v3/contents/generations/tasks        ?page_num ?page_size ?filter.task_ids
    GET    /seedance/api/v3/contents/generations/tasks/{id}
    DELETE /seedance/api/v3/contents/generations/tasks/{id}   queued: cancelled; finished: deleted
    GET    /seedance/results/{id}.mp4                               the signed address of the clip
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from secrets import token_hex

from aiohttp import web

from vidgen.job import JsonValue
from vidgen.simulator.control import Drawn, Generation, ProviderSimulator, Wish
from vidgen.simulator.faults import Refusal
from vidgen.simulator.plain import is_data_image
from vidgen.simulator.signed import clip_address, clip_route
from vidgen.simulator.wire import (
    Incoming,
    SimulatedWire,
    json_answer,
    look,
    obey,
    project_of,
    serve,
    submit,
)

FPS = 24
# Micro-dollars for a million tokens.
_PRICES = {
    "dreamina-seedance-2-0-260128": {
        "480p": 7_000_000,
        "720p": 7_000_000,
        "1080p": 7_700_000,
        "4k": 4_000_000,
    },
    "dreamina-seedance-2-0-fast-260128": {"480p": 5_600_000, "720p": 5_600_000},
}
_SIZES = {
    "480p": {"16:9": (864, 496), "9:16": (496, 864), "1:1": (640, 640)},
    "720p": {"16:9": (1280, 720), "9:16": (720, 1280), "1:1": (960, 960)},
    "1080p": {"16:9": (1920, 1080), "9:16": (1080, 1920), "1:1": (1440, 1440)},
    "4k": {"16:9": (3840, 2160), "9:16": (2160, 3840), "1:1": (2880, 2880)},
}
_RATIOS = frozenset({"16:9", "9:16", "4:3", "3:4", "1:1", "21:9", "adaptive"})
_ROLES = frozenset({"first_frame", "last_frame", "reference_image"})
_MONEY = frozenset({"insufficient_quota", "credit_balance_exhausted"})
_CODES = {
    400: "InvalidParameter",
    401: "AuthenticationError",
    403: "AccessDenied",
    404: "ResourceNotFound",
    429: "RateLimitExceeded.EndpointRPMExceeded",
    500: "InternalServiceError",
    503: "ServiceUnavailable",
}
_NAMED = {
    "moderation_blocked": "InputTextSensitiveContentDetected",
    "invalid_api_key": "AuthenticationError",
    "model_not_found": "InvalidEndpointOrModel.NotFound",
}
_VERDICTS = {
    "moderation": "OutputVideoSensitiveContentDetected",
    "filtered": "OutputAudioSensitiveContentDetected.PolicyViolation",
    "prompt-blocked": "InputTextSensitiveContentDetected",
}


def routes(simulator: ProviderSimulator, foreign: ProviderSimulator) -> list[web.RouteDef]:
    """The API, answered from *simulator*; redirects that leave the host go to *foreign*."""
    server = _ArkServer(simulator)
    base = "/api/v3/contents/generations/tasks"
    return [
        web.post(base, serve(simulator, "submit", server.create)),
        web.get(base, serve(simulator, "list", server.index)),
        web.get(base + "/{id}", serve(simulator, "poll", server.retrieve)),
        web.delete(base + "/{id}", serve(simulator, "cancel", server.delete)),
        clip_route(simulator, foreign, refuse),
    ]


SIMULATED = SimulatedWire(
    routes=routes,
    addresses=lambda simulator: {"ARK_BASE_URL": f"{simulator.origin}/api/v3"},
)


@dataclass(frozen=True, slots=True)
class _ArkServer:
    simulator: ProviderSimulator

    async def create(self, incoming: Incoming) -> web.StreamResponse:
        project = project_of(self.simulator, incoming.key)
        wish = _WRONG_KEY if project is None else read_wish(incoming.json, project)
        if isinstance(wish, Refusal):
            return refuse(wish)
        return await submit(
            incoming,
            self.simulator,
            wish,
            refuse=refuse,
            answer=lambda made: json_answer({"id": made.id}),
        )

    async def index(self, incoming: Incoming) -> web.StreamResponse:
        project = project_of(self.simulator, incoming.key)
        if project is None:
            return refuse(_WRONG_KEY)
        obeyed = await obey(incoming, self.simulator, "list", refuse=refuse)
        if obeyed is not None:
            return obeyed
        query = incoming.request.query
        wanted = set(query.getall("filter.task_ids", []))
        status = query.get("filter.status")
        tasks = [
            self.task(each)
            for each in self.simulator.listed(project)
            if not wanted or each.id in wanted
        ]
        found = [task for task in tasks if status in {None, task["status"]}]
        size, page = int(query.get("page_size", "20")), int(query.get("page_num", "1"))
        items: list[JsonValue] = list(found[(page - 1) * size : page * size])
        return json_answer({"total": len(found), "items": items})

    async def retrieve(self, incoming: Incoming) -> web.StreamResponse:
        generation = self.find(incoming)
        if isinstance(generation, Refusal):
            return refuse(generation)
        return await look(incoming, self.simulator, generation, refuse=refuse, answer=self.shown)

    async def delete(self, incoming: Incoming) -> web.StreamResponse:
        generation = self.find(incoming)
        if isinstance(generation, Refusal):
            return refuse(generation)
        obeyed = await obey(incoming, self.simulator, "cancel", refuse=refuse)
        if obeyed is not None:
            return obeyed
        if self.task(generation)["status"] == "running":
            message = "The task cannot be cancelled because it is currently running."
            return refuse(Refusal(status=409, message=message, code="TaskRunningCannotCancel"))
        self.simulator.forget(generation)
        return json_answer({})

    def find(self, incoming: Incoming) -> Generation | Refusal:
        project = project_of(self.simulator, incoming.key)
        if project is None:
            return _WRONG_KEY
        generation = self.simulator.generations.get(incoming.request.match_info["id"])
        if generation is None or generation.wish.project != project:
            return Refusal(status=404, message="The specified task is not found.")
        return generation

    async def shown(self, generation: Generation, drawn: Drawn) -> web.StreamResponse:
        task = self.task(generation)
        if "status" in drawn.modifiers:
            task["status"] = drawn.modifiers["status"].argument or "dreaming"
        return json_answer(task)

    def task(self, generation: Generation) -> dict[str, JsonValue]:
        """The task as a look and the list show it."""
        wish, verdict = generation.wish, self.simulator.settle(generation)
        told = wish.parameters
        task: dict[str, JsonValue] = {
            "id": generation.id,
            "model": wish.model,
            "status": "running" if generation.percent() else "queued",
            "created_at": int(generation.created_at),
            "updated_at": int(
                generation.ready_at if generation.is_due() else generation.created_at
            ),
            "seed": told.get("seed", 4711),
            "resolution": told.get("resolution", "720p"),
            "ratio": told.get("ratio", "16:9"),
            "duration": wish.seconds,
            "framespersecond": FPS,
            "generate_audio": wish.audio,
            "service_tier": told.get("service_tier", "default"),
            "execution_expires_after": told.get("execution_expires_after", 172_800),
        }
        if not generation.is_due():
            return task
        match verdict.name if verdict else None:
            case None:
                tokens = tokens_of(wish.width, wish.height, wish.seconds)
                return task | {
                    "status": "succeeded",
                    "content": {"video_url": clip_address(self.simulator, generation)},
                    "usage": {"completion_tokens": tokens, "total_tokens": tokens},
                }
            case "no-samples":
                return task | {"status": "succeeded", "content": {}}
            case "cancelled" | "expired":
                return task | {"status": verdict.name if verdict else ""}
            case "failed-silent":
                return task | {"status": "failed", "error": None}
            case "failed-message":
                return task | {"status": "failed", "error": {"message": "The generation failed."}}
            case name:
                code = _VERDICTS.get(name, "InternalServiceError")
                message = f"The request failed. Request id: {token_hex(16)}"
                return task | {"status": "failed", "error": {"code": code, "message": message}}


def tokens_of(width: int, height: int, seconds: int) -> int:
    """What Ark counts for a clip."""
    return width * height * FPS * seconds // 1024


def read_wish(body: JsonValue, project: str) -> Wish | Refusal:
    """What a create asks for, or why it is refused: unknown fields go unnoticed."""
    if not isinstance(body, dict) or not isinstance(body.get("content"), list):
        return _invalid("The parameter `content` specified in the request is not valid")
    body = {name: value for name, value in body.items() if value is not None}  # as SDKs send it
    model = str(body.get("model"))
    if model not in _PRICES:
        message = f"The model or endpoint {model} does not exist or you do not have access to it."
        return Refusal(status=404, message=message, code="model_not_found")
    resolution, ratio = str(body.get("resolution", "720p")), str(body.get("ratio", "adaptive"))
    if resolution not in _PRICES[model] or ratio not in _RATIOS:
        return _invalid("The parameter `resolution` or `ratio` is not valid for model")
    seconds, audio = body.get("duration", 5), body.get("generate_audio", True)
    if isinstance(seconds, bool) or not isinstance(seconds, int) or not 4 <= seconds <= 15:
        return _invalid("The parameter `duration` is not valid for model")
    if not isinstance(audio, bool):
        return _invalid("The parameter `generate_audio` is not valid")
    prompt = _read_prompt(body["content"])
    if isinstance(prompt, Refusal):
        return prompt
    width, height = _SIZES[resolution].get(ratio, _SIZES[resolution]["16:9"])
    tokens = tokens_of(width, height, seconds)
    return Wish(
        operation_id=f"cgt-{datetime.now(UTC):%Y%m%d%H%M%S}-{token_hex(3)}",
        prompt=prompt,
        model=model,
        seconds=seconds,
        width=width,
        height=height,
        audio=audio,
        cost_micros=round(tokens * _PRICES[model][resolution] / 1_000_000),
        project=project,
        parameters={name: value for name, value in body.items() if name != "content"},
    )


def _read_prompt(content: JsonValue) -> str | Refusal:
    """The prompt, once every image beside it is as it should be."""
    items = (
        [item for item in content if isinstance(item, dict)] if isinstance(content, list) else []
    )
    texts = [str(item.get("text") or "") for item in items if item.get("type") == "text"]
    if len(texts) != 1 or not texts[0]:
        return _invalid("text content must contain a prompt description")
    images = [item for item in items if item.get("type") == "image_url"]
    roles = [str(item.get("role")) for item in images]
    mixed = "reference_image" in roles and len(set(roles)) > 1
    if not set(roles) <= _ROLES or mixed or ("last_frame" in roles and "first_frame" not in roles):
        return _invalid("The roles of the images do not go together")
    if any(not is_data_image(_url_of(item)) for item in images):
        return _invalid("The image specified in the request is not valid")
    return texts[0]


def refuse(refusal: Refusal) -> web.StreamResponse:
    """*refusal* as Ark writes it, or as what stands before it does."""
    error: dict[str, JsonValue] = {"message": f"{refusal.message} Request id: {token_hex(16)}"}
    code = _code(refusal)
    if code is not None:
        error |= {"code": code, "param": refusal.param or "", "type": "BadRequest"}
    return json_answer({"error": error}, status=refusal.status, headers=refusal.headers)


def _code(refusal: Refusal) -> str | None:
    if refusal.code in _MONEY:
        return "AccountOverdueError"
    if "no longer available" in refusal.message:
        return _NAMED["model_not_found"]
    if refusal.code == "TaskRunningCannotCancel":
        return refusal.code
    return _NAMED.get(refusal.code or "") or _CODES.get(refusal.status)


def _invalid(message: str) -> Refusal:
    return Refusal(status=400, message=message)


_WRONG_KEY = Refusal(status=401, message="The API key in the request is missing or invalid.")


def _url_of(item: Mapping[str, JsonValue]) -> JsonValue:
    source = item.get("image_url")
    return source.get("url") if isinstance(source, dict) else None
