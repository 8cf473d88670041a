"""
DashScope at the wire: Wan's tasks.

    POST /wan/api/v1/services/aigc/video-generation/video-synthesis   X-DashScope-Async: enable
    GET  /wan/api/v1/tasks                ?page_no ?page_size
    GET  /wan/api/v1/tasks/{id}           an unknown one is HTTP 200 with task_status UNKNOWN
    POST /wan/api/v1/tasks/{id}/cancel    while it is PENDING
    GET  /wan/results/{id}.mp4                  the signed address of the clip
"""

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from uuid import uuid4

from aiohttp import web

from vidgen.job import JsonValue
from vidgen.simulator.control import Drawn, Generation, ProviderSimulator, Wish
from vidgen.simulator.faults import Outcome, Refusal
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

_CHINA = timezone(timedelta(hours=8))
_MICROS = {
    "wan3.0-video": {"480P": 50_000, "720P": 100_000, "1080P": 200_000},
    "wan3.0-video-prime": {"480P": 68_000, "720P": 140_000, "1080P": 280_000},
    "wan2.7-t2v": {"720P": 100_000, "1080P": 150_000},
    "wan2.7-i2v": {"720P": 100_000, "1080P": 150_000},
}
_RATIOS = {"16:9": (16, 9), "9:16": (9, 16), "1:1": (1, 1), "4:3": (4, 3), "3:4": (3, 4)}
_MEDIA = {
    "wan3.0-video": frozenset({"first_frame", "last_frame", "reference_image"}),
    "wan3.0-video-prime": frozenset({"first_frame", "last_frame", "reference_image"}),
    "wan2.7-t2v": frozenset[str](),
    "wan2.7-i2v": frozenset({"first_frame", "last_frame"}),
}
_MONEY = frozenset({"insufficient_quota", "credit_balance_exhausted"})
_CODES = {
    400: "InvalidParameter",
    401: "InvalidApiKey",
    403: "AccessDenied",
    429: "Throttling.RateQuota",
    500: "InternalError",
    503: "ServiceUnavailable",
}
_NAMED = {
    "moderation_blocked": "DataInspectionFailed",
    "invalid_api_key": "InvalidApiKey",
    "model_not_found": "ModelNotFound",
}
_VERDICTS = {
    "moderation": "DataInspectionFailed",
    "filtered": "DataInspectionFailed",
    "prompt-blocked": "IPInfringementSuspect",
}


def routes(simulator: ProviderSimulator, foreign: ProviderSimulator) -> list[web.RouteDef]:
    """The API, answered from *simulator*; redirects that leave the host go to *foreign*."""
    server = _DashScopeServer(simulator)
    synthesis = "/api/v1/services/aigc/video-generation/video-synthesis"
    return [
        web.post(synthesis, serve(simulator, "submit", server.create)),
        web.get("/api/v1/tasks", serve(simulator, "list", server.index)),
        # With a slash at the end it is the same: so writes a part of the SDK.
        web.get("/api/v1/tasks/{id}{slash:/?}", serve(simulator, "poll", server.retrieve)),
        web.post("/api/v1/tasks/{id}/cancel{slash:/?}", serve(simulator, "cancel", server.cancel)),
        clip_route(simulator, foreign, refuse),
    ]


def _failure_cost(wish: Wish, fate: Outcome) -> int:
    """What is called a success counts its seconds, whether there is a video to it or not."""
    return wish.cost_micros if fate.name in {"no-samples", "expired", "never"} else 0


SIMULATED = SimulatedWire(
    routes=routes,
    addresses=lambda simulator: {"DASHSCOPE_BASE_URL": f"{simulator.origin}/api/v1"},
    failure_cost=_failure_cost,
)


@dataclass(frozen=True, slots=True)
class _DashScopeServer:
    simulator: ProviderSimulator

    async def create(self, incoming: Incoming) -> web.StreamResponse:
        project = project_of(self.simulator, incoming.key)
        wish = _WRONG_KEY if project is None else read_wish(incoming, project)
        if isinstance(wish, Refusal):
            return refuse(wish)
        return await submit(incoming, self.simulator, wish, refuse=refuse, answer=_receipt)

    async def index(self, incoming: Incoming) -> web.StreamResponse:
        project = project_of(self.simulator, incoming.key)
        if project is None:
            return refuse(_WRONG_KEY)
        obeyed = await obey(incoming, self.simulator, "list", refuse=refuse)
        if obeyed is not None:
            return obeyed
        query = incoming.request.query
        found = self.simulator.listed(project)
        size, page = int(query.get("page_size", "10")), int(query.get("page_no", "1"))
        data: list[JsonValue] = [
            {"task_id": each.id, "model_name": each.wish.model, "status": self.status(each)}
            for each in found[(page - 1) * size : page * size]
        ]
        return json_answer({"total": len(found), "data": data, "page_no": page})

    async def retrieve(self, incoming: Incoming) -> web.StreamResponse:
        generation = self.find(incoming)
        if isinstance(generation, Refusal):
            return refuse(generation)
        if generation is None:
            return _unknown(incoming.request.match_info["id"])
        return await look(incoming, self.simulator, generation, refuse=refuse, answer=self.shown)

    async def cancel(self, incoming: Incoming) -> web.StreamResponse:
        generation = self.find(incoming)
        if isinstance(generation, Refusal):
            return refuse(generation)
        obeyed = await obey(incoming, self.simulator, "cancel", refuse=refuse)
        if obeyed is not None:
            return obeyed
        if generation is None:
            return refuse(Refusal(status=404, message="The task does not exist."))
        if self.status(generation) != "PENDING":
            message = "Failed to cancel the task, please confirm if the task is in PENDING status."
            return refuse(Refusal(status=400, message=message, code="UnsupportedOperation"))
        self.simulator.forget(generation)
        return json_answer({"request_id": str(uuid4())})

    def find(self, incoming: Incoming) -> Generation | Refusal | None:
        project = project_of(self.simulator, incoming.key)
        if project is None:
            return _WRONG_KEY
        generation = self.simulator.generations.get(incoming.request.match_info["id"])
        return generation if generation and generation.wish.project == project else None

    async def shown(self, generation: Generation, drawn: Drawn) -> web.StreamResponse:
        answer = self.answer(generation)
        output = answer["output"]
        if "status" in drawn.modifiers and isinstance(output, dict):
            output["task_status"] = drawn.modifiers["status"].argument or "DREAMING"
        return json_answer(answer)

    def status(self, generation: Generation) -> str:
        """DashScope's word for where *generation* stands."""
        verdict = self.simulator.settle(generation)
        if not generation.is_due():
            return "RUNNING" if generation.percent() else "PENDING"
        ends = {None: "SUCCEEDED", "no-samples": "SUCCEEDED", "expired": "UNKNOWN"}
        ends["cancelled"] = "CANCELED"
        return ends.get(verdict.name if verdict else None, "FAILED")

    def answer(self, generation: Generation) -> dict[str, JsonValue]:
        """The whole answer to a look."""
        wish, status = generation.wish, self.status(generation)
        verdict = self.simulator.settle(generation)
        output: dict[str, JsonValue] = {
            "task_id": generation.id,
            "task_status": status,
            "submit_time": _local(generation.created_at),
            "scheduled_time": _local(generation.created_at),
        }
        found: dict[str, JsonValue] = {"request_id": str(uuid4()), "output": output}
        if status == "SUCCEEDED":
            output |= {"end_time": _local(generation.ready_at), "orig_prompt": wish.prompt}
            found["usage"] = {
                "duration": wish.seconds,
                "output_video_duration": wish.seconds,
                "video_count": 1,
                "SR": int(str(wish.parameters["resolution"]).rstrip("P")),
            }
            if verdict is None:
                output["video_url"] = clip_address(self.simulator, generation)
        if status == "FAILED" and verdict is not None and verdict.name != "failed-silent":
            output["code"] = _VERDICTS.get(verdict.name, "InternalError.Algo")
            output["message"] = "The generation failed."
        return found


def read_wish(incoming: Incoming, project: str) -> Wish | Refusal:
    """What a create asks for, or why it is refused: unknown parameters go unnoticed."""
    body = incoming.json
    if incoming.request.headers.get("X-DashScope-Async") != "enable":
        message = "current user api does not support synchronous calls."
        return Refusal(status=403, message=message)
    if not isinstance(body, dict):
        return _invalid("The request body is no JSON object.")
    model, inputs, told = str(body.get("model")), body.get("input"), body.get("parameters", {})
    if model not in _MICROS:
        return Refusal(status=404, message="Model not exist.", code="model_not_found")
    if not isinstance(inputs, dict) or not isinstance(told, dict):
        return _invalid("input and parameters are objects.")
    prompt, resolution = inputs.get("prompt"), str(told.get("resolution", "1080P"))
    if not isinstance(prompt, str) or not prompt:
        return _invalid("prompt must exist.")
    price = _MICROS[model].get(resolution)
    longest = 30 if model.startswith("wan3") else 15
    seconds, audio = told.get("duration", 5), told.get("audio", True)
    if price is None or isinstance(seconds, bool) or not isinstance(seconds, int):
        return _invalid("resolution or duration is not valid.")
    sides = _RATIOS.get(str(told.get("ratio", "16:9")))
    if not 2 <= seconds <= longest or sides is None or not isinstance(audio, bool):
        return _invalid("duration, ratio or audio is not valid.")
    wrong = _wrong_media(inputs.get("media", []), model)
    if wrong is not None:
        return wrong
    short = int(resolution.rstrip("P"))
    width, height = (short * side // min(sides) // 2 * 2 for side in sides)
    return Wish(
        operation_id=str(uuid4()),
        prompt=prompt,
        model=model,
        seconds=seconds,
        width=width,
        height=height,
        audio=audio,
        cost_micros=seconds * price,
        project=project,
        parameters={**told, "resolution": resolution},
    )


def refuse(refusal: Refusal) -> web.StreamResponse:
    """*refusal* as DashScope writes it, or as what stands before it does."""
    body: dict[str, JsonValue] = {"message": refusal.message, "request_id": str(uuid4())}
    code = _code(refusal)
    if code is not None:
        body["code"] = code
    return json_answer(body, status=refusal.status, headers=refusal.headers)


def _code(refusal: Refusal) -> str | None:
    if refusal.code in _MONEY:
        return "Arrearage"
    if "no longer available" in refusal.message:
        return "ModelNotFound"
    if refusal.code == "UnsupportedOperation":
        return refusal.code
    return _NAMED.get(refusal.code or "") or _CODES.get(refusal.status)


def _receipt(generation: Generation) -> web.StreamResponse:
    output: JsonValue = {"task_id": generation.id, "task_status": "PENDING"}
    return json_answer({"output": output, "request_id": str(uuid4())})


def _unknown(task_id: str) -> web.StreamResponse:
    output: JsonValue = {"task_id": task_id, "task_status": "UNKNOWN"}
    return json_answer({"output": output, "request_id": str(uuid4())})


def _local(moment: float) -> str:
    """A time as DashScope writes it: in China, without saying so."""
    return f"{datetime.fromtimestamp(moment, _CHINA):%Y-%m-%d %H:%M:%S.%f}"[:-3]


def _invalid(message: str) -> Refusal:
    return Refusal(status=400, message=message)


_WRONG_KEY = Refusal(status=401, message="Invalid API-key provided.")


def _wrong_media(media: JsonValue, model: str) -> Refusal | None:
    items = [item for item in media if isinstance(item, dict)] if isinstance(media, list) else []
    kinds = {str(item.get("type")) for item in items}
    if not kinds <= _MEDIA[model] or ("reference_image" in kinds and len(kinds) > 1):
        return _invalid("media types do not go together.")
    if model == "wan2.7-i2v" and "first_frame" not in kinds:
        return _invalid("first_frame must exist.")
    if any(not is_data_image(item.get("url")) for item in items):
        return Refusal(status=400, message="The media cannot be read.")
    return None
