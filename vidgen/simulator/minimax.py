"""
MiniMax at the wire, both versions of its API.

    v2   POST   /minimax/v2/video_generation              -> {task_id}
         GET    /minimax/v2/query/video_generation        ?page_num ?page_size
         GET    /minimax/v2/query/video_generation/{id}   -> {task}
         DELETE /minimax/v2/video_generation/{id}         queued: cancelled; finished: deleted
    v1   POST   /minimax/v1/video_generation              -> {task_id, base_resp}
         GET    /minimax/v1/query/video_generation        ?task_id
         GET    /minimax/v1/files/retrieve                ?file_id, which is the task's id and a 1
         GET    /minimax/results/{id}.mp4                       the signed address of the clip

Errors with a number of MiniMax's come under HTTP 200 in v1, and under their status in v2.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from secrets import randbelow, token_hex

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

_V2_MICROS = {
    ("MiniMax-H3", "768P"): 80_000,
    ("MiniMax-H3", "2K"): 130_000,
    ("MiniMax-H3-Max", "480P"): 50_000,
    ("MiniMax-H3-Max", "768P"): 80_000,
}
_V1_MICROS = {
    ("MiniMax-Hailuo-2.3", "768P", 6): 280_000,
    ("MiniMax-Hailuo-2.3", "768P", 10): 560_000,
    ("MiniMax-Hailuo-2.3", "1080P", 6): 490_000,
    ("MiniMax-Hailuo-2.3-Fast", "768P", 6): 190_000,
    ("MiniMax-Hailuo-2.3-Fast", "768P", 10): 320_000,
    ("MiniMax-Hailuo-2.3-Fast", "1080P", 6): 330_000,
    ("MiniMax-Hailuo-02", "768P", 6): 280_000,
    ("MiniMax-Hailuo-02", "768P", 10): 560_000,
    ("MiniMax-Hailuo-02", "1080P", 6): 490_000,
}
_HEIGHTS = {"480P": 480, "768P": 768, "1080P": 1080, "2K": 1440}
_RATIOS = {
    "16:9": (16, 9),
    "9:16": (9, 16),
    "4:3": (4, 3),
    "3:4": (3, 4),
    "1:1": (1, 1),
    "21:9": (21, 9),
}
_ROLES = frozenset({"first_frame", "last_frame", "reference_image"})
_MONEY = frozenset({"insufficient_quota", "credit_balance_exhausted"})
_NUMBERS = {400: 2013, 401: 1004, 403: 2061, 429: 1002, 500: 1013}
_TYPES = {
    400: "bad_request_error",
    401: "authorized_error",
    402: "insufficient_balance_error",
    422: "unprocessable_entity_error",
    429: "rate_limit_error",
}
_VERDICTS = {"moderation": 1027, "filtered": 1027, "prompt-blocked": 1026}


def routes(simulator: ProviderSimulator, foreign: ProviderSimulator) -> list[web.RouteDef]:
    """Both versions, answered from *simulator*; redirects that leave the host go to *foreign*."""
    first, second = _First(simulator), _Second(simulator)
    return [
        web.post("/v2/video_generation", serve(simulator, "submit", second.create)),
        web.get("/v2/query/video_generation", serve(simulator, "list", second.index)),
        web.get("/v2/query/video_generation/{id}", serve(simulator, "poll", second.retrieve)),
        web.delete("/v2/video_generation/{id}", serve(simulator, "cancel", second.delete)),
        web.post("/v1/video_generation", serve(simulator, "submit", first.create)),
        web.get("/v1/query/video_generation", serve(simulator, "poll", first.retrieve)),
        # Only an address yet and no delivery, and so it counts as no deed.
        web.get("/v1/files/retrieve", serve(simulator, None, first.file)),
        clip_route(simulator, foreign, second.refuse),
    ]


SIMULATED = SimulatedWire(
    routes=routes, addresses=lambda simulator: {"MINIMAX_BASE_URL": simulator.origin}
)


@dataclass(frozen=True, slots=True)
class _Second:
    simulator: ProviderSimulator

    async def create(self, incoming: Incoming) -> web.StreamResponse:
        project = project_of(self.simulator, incoming.key)
        wish = _WRONG_KEY if project is None else read_second(incoming.json, project)
        if isinstance(wish, Refusal):
            return self.refuse(wish)
        return await submit(incoming, self.simulator, wish, refuse=self.refuse, answer=_receipt)

    async def index(self, incoming: Incoming) -> web.StreamResponse:
        project = project_of(self.simulator, incoming.key)
        if project is None:
            return self.refuse(_WRONG_KEY)
        obeyed = await obey(incoming, self.simulator, "list", refuse=self.refuse)
        if obeyed is not None:
            return obeyed
        found = self.simulator.listed(project)
        size = int(incoming.request.query.get("page_size", "10"))
        begin = (int(incoming.request.query.get("page_num", "1")) - 1) * size
        items: list[JsonValue] = [self.task(each) for each in found[begin : begin + size]]
        return json_answer({"items": items, "total": len(found)})

    async def retrieve(self, incoming: Incoming) -> web.StreamResponse:
        generation = self.find(incoming)
        if isinstance(generation, Refusal):
            return self.refuse(generation)
        return await look(
            incoming, self.simulator, generation, refuse=self.refuse, answer=self.shown
        )

    async def delete(self, incoming: Incoming) -> web.StreamResponse:
        generation = self.find(incoming)
        if isinstance(generation, Refusal):
            return self.refuse(generation)
        obeyed = await obey(incoming, self.simulator, "cancel", refuse=self.refuse)
        if obeyed is not None:
            return obeyed
        status = self.task(generation)["status"]
        if status == "running":
            return self.refuse(_invalid("a running task cannot be cancelled"))
        self.simulator.forget(generation)
        done = "cancelled" if status == "queued" else "deleted"
        return json_answer({"task_id": generation.id, "status": done})

    def find(self, incoming: Incoming) -> Generation | Refusal:
        return _find(self.simulator, incoming, incoming.request.match_info["id"])

    async def shown(self, generation: Generation, drawn: Drawn) -> web.StreamResponse:
        task = self.task(generation)
        if "status" in drawn.modifiers:
            task["status"] = drawn.modifiers["status"].argument or "dreaming"
        return json_answer({"task": task})

    def task(self, generation: Generation) -> dict[str, JsonValue]:
        """The task as a look and the list show it."""
        wish, verdict = generation.wish, self.simulator.settle(generation)
        task: dict[str, JsonValue] = {
            "id": generation.id,
            "model": wish.model,
            "status": "running" if generation.percent() else "queued",
            "created_at": int(generation.created_at),
            "updated_at": int(
                generation.ready_at if generation.is_due() else generation.created_at
            ),
            "resolution": wish.parameters.get("resolution"),
            "duration": wish.seconds,
            "ratio": wish.parameters.get("ratio", "adaptive"),
        }
        if not generation.is_due():
            return task
        match verdict.name if verdict else None:
            case None:
                usage: JsonValue = {"total_seconds": wish.seconds, "output_seconds": wish.seconds}
                address = clip_address(self.simulator, generation)
                return task | {"status": "succeeded", "content": {"url": address}, "usage": usage}
            case "no-samples":
                return task | {"status": "succeeded", "content": {}}
            case "cancelled" | "expired":
                return task | {"status": verdict.name if verdict else ""}
            case "failed-silent":
                return task | {"status": "failed"}
            case name:
                number = _VERDICTS.get(name, 1000)
                error: JsonValue = {"code": str(number), "message": f"generation failed ({number})"}
                return task | {"status": "failed", "error": error}

    def refuse(self, refusal: Refusal) -> web.StreamResponse:
        """*refusal* as v2 writes it: a status, a word, and a number at the end of the message."""
        number = _number(refusal)
        message = refusal.message if number is None else f"{refusal.message} ({number})"
        body: JsonValue = {
            "type": "error",
            "error": {
                "type": _TYPES.get(refusal.status, "server_error"),
                "message": message,
                "http_code": str(refusal.status),
            },
            "request_id": token_hex(16),
        }
        return json_answer(body, status=refusal.status, headers=refusal.headers)


@dataclass(frozen=True, slots=True)
class _First:
    simulator: ProviderSimulator

    async def create(self, incoming: Incoming) -> web.StreamResponse:
        project = project_of(self.simulator, incoming.key)
        wish = _WRONG_KEY if project is None else read_first(incoming.json, project)
        if isinstance(wish, Refusal):
            return refuse_first(wish)
        return await submit(
            incoming,
            self.simulator,
            wish,
            refuse=refuse_first,
            answer=lambda made: json_answer({"task_id": made.id, "base_resp": _base(0, "success")}),
        )

    async def retrieve(self, incoming: Incoming) -> web.StreamResponse:
        generation = _find(self.simulator, incoming, incoming.request.query.get("task_id", ""))
        if isinstance(generation, Refusal):
            return refuse_first(generation)
        return await look(
            incoming, self.simulator, generation, refuse=refuse_first, answer=self.shown
        )

    async def file(self, incoming: Incoming) -> web.StreamResponse:
        file_id = incoming.request.query.get("file_id", "")
        generation = _find(self.simulator, incoming, file_id.removesuffix("1"))
        if isinstance(generation, Refusal):
            return refuse_first(generation)
        address = clip_address(self.simulator, generation)
        file: JsonValue = {"file_id": file_id, "purpose": "video_generation", "filename": "out.mp4"}
        assert isinstance(file, dict)
        return json_answer(
            {"file": file | {"download_url": address}, "base_resp": _base(0, "success")}
        )

    async def shown(self, generation: Generation, drawn: Drawn) -> web.StreamResponse:
        task = self.task(generation)
        if "status" in drawn.modifiers:
            task["status"] = drawn.modifiers["status"].argument or "Dreaming"
        return json_answer(task)

    def task(self, generation: Generation) -> dict[str, JsonValue]:
        verdict = self.simulator.settle(generation)
        task: dict[str, JsonValue] = {"task_id": generation.id, "base_resp": _base(0, "success")}
        if not generation.is_due():
            return task | {"status": "Processing" if generation.percent() else "Queueing"}
        match verdict.name if verdict else None:
            case None:
                wish = generation.wish
                size: dict[str, JsonValue] = {
                    "video_width": wish.width,
                    "video_height": wish.height,
                }
                return task | size | {"status": "Success", "file_id": f"{generation.id}1"}
            case "no-samples":
                return task | {"status": "Success", "file_id": ""}
            case "failed-silent":
                return task | {"status": "Fail"}
            case name:
                number = _VERDICTS.get(name, 1000)
                return task | {"status": "Fail", "base_resp": _base(number, "generation failed")}


def refuse_first(refusal: Refusal) -> web.StreamResponse:
    """*refusal* as v1 writes it: a number under HTTP 200; without one what stands before it."""
    number = _number(refusal)
    if number is None:
        body: JsonValue = {"error": {"message": refusal.message}}
        return json_answer(body, status=refusal.status, headers=refusal.headers)
    body = {"base_resp": _base(number, refusal.message)}
    return json_answer(body, headers=refusal.headers)


_WRONG_KEY = Refusal(status=401, message="login fail: Please carry the API secret key")


def read_second(body: JsonValue, project: str) -> Wish | Refusal:
    """What a create of v2 asks for, or why it is refused."""
    if not isinstance(body, dict) or not isinstance(body.get("content"), list):
        return _invalid("invalid params, content is an array")
    model, resolution = str(body.get("model")), str(body.get("resolution"))
    price = _V2_MICROS.get((model, resolution))
    if price is None:
        return _invalid("invalid params, model and resolution do not go together")
    content = body["content"]
    items = (
        [item for item in content if isinstance(item, dict)] if isinstance(content, list) else []
    )
    texts = [str(item.get("text") or "") for item in items if item.get("type") == "text"]
    if len(texts) != 1 or not 1 <= len(texts[0]) <= 7000:
        return _invalid("invalid params, content must include a non-empty text item")
    images = [item for item in items if item.get("type") == "image_url"]
    roles = {str(item.get("role")) for item in images}
    if not roles <= _ROLES or ("reference_image" in roles and len(roles) > 1):
        return _invalid("invalid params, roles do not go together")
    if any(not is_data_image(_url_of(item)) for item in images):
        return _invalid("invalid params, an image cannot be read")
    seconds, ratio = body.get("duration"), str(body.get("ratio", "adaptive"))
    if isinstance(seconds, bool) or not isinstance(seconds, int) or not 4 <= seconds <= 15:
        return _invalid("invalid params, duration is an integer from 4 to 15")
    if ratio not in _RATIOS and (ratio != "adaptive" or not images):
        return _invalid("invalid params, ratio is required for text")
    return _wish(body, texts[0], model, seconds, resolution, ratio, price * seconds, project)


def read_first(body: JsonValue, project: str) -> Wish | Refusal:
    """What a create of v1 asks for, or why it is refused; unknown fields go unnoticed."""
    if not isinstance(body, dict):
        return _invalid("invalid params")
    prompt, model = body.get("prompt"), str(body.get("model"))
    seconds, resolution = body.get("duration", 6), str(body.get("resolution", "768P"))
    if not isinstance(prompt, str) or not 1 <= len(prompt) <= 2000:
        return _invalid("invalid params, prompt is 1 to 2000 characters")
    if isinstance(seconds, bool) or not isinstance(seconds, int):
        return _invalid("invalid params, duration")
    price = _V1_MICROS.get((model, resolution, seconds))
    if price is None:
        return _invalid("invalid params, model, resolution and duration do not go together")
    frames = [body[name] for name in ("first_frame_image", "last_frame_image") if name in body]
    if any(not is_data_image(frame) for frame in frames):
        return _invalid("invalid params, an image cannot be read")
    return _wish(body, prompt, model, seconds, resolution, "16:9", price, project)


def _wish(
    body: Mapping[str, JsonValue],
    prompt: str,
    model: str,
    seconds: int,
    resolution: str,
    ratio: str,
    cost_micros: int,
    project: str,
) -> Wish:
    short, sides = _HEIGHTS[resolution], _RATIOS.get(ratio, (16, 9))
    width, height = (short * side // min(sides) // 2 * 2 for side in sides)
    return Wish(
        operation_id=str(400_000_000_000_000 + randbelow(10**13)),
        prompt=prompt,
        model=model,
        seconds=seconds,
        width=width,
        height=height,
        audio=True,
        cost_micros=cost_micros,
        project=project,
        parameters={
            name: value for name, value in body.items() if name not in {"prompt", "content"}
        },
    )


def _find(simulator: ProviderSimulator, incoming: Incoming, task_id: str) -> Generation | Refusal:
    project = project_of(simulator, incoming.key)
    if project is None:
        return _WRONG_KEY
    generation = simulator.generations.get(task_id)
    if generation is None or generation.wish.project != project:
        is_v1 = incoming.request.path.startswith("/minimax/v1/")
        return (
            _invalid("task not found") if is_v1 else Refusal(status=404, message="record not found")
        )
    return generation


def _receipt(generation: Generation) -> web.StreamResponse:
    return json_answer({"task_id": generation.id})


def _number(refusal: Refusal) -> int | None:
    if refusal.code in _MONEY:
        return 1008
    named = {"moderation_blocked": 1026, "invalid_api_key": 2049}
    if "no longer available" in refusal.message:
        return None
    return named.get(refusal.code or "") or _NUMBERS.get(refusal.status)


def _invalid(message: str) -> Refusal:
    return Refusal(status=400, message=message)


def _base(number: int, message: str) -> dict[str, JsonValue]:
    return {"status_code": number, "status_msg": message}


def _url_of(item: Mapping[str, JsonValue]) -> JsonValue:
    source = item.get("image_url")
    return source.get("url") if isinstance(source, dict) else None
