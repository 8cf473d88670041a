"""
Kling at the wire: tasks under the subpath they were made with, opened by a token of a key pair.

    POST /kling/v1/videos/{text2video|image2video}        -> {code: 0, data: task}
    GET  /kling/v1/videos/{text2video|image2video}        ?pageNum ?pageSize, the newest first
    GET  /kling/v1/videos/{the same}/{task_id or external_task_id}
    GET  /kling/results/{task_id}.mp4                           the signed address of the clip

A token must be whole, of now, and, where `keys` holds pairs (`access:secret`), signed by one of
them. An access key may carry a project (`anything@project`).
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from secrets import randbelow, token_hex

import orjson
from aiohttp import web

from vidgen.job import JsonValue
from vidgen.simulator import clips
from vidgen.simulator.control import Drawn, Generation, ProviderSimulator, Wish, unix_now
from vidgen.simulator.faults import Outcome, Refusal
from vidgen.simulator.signed import clip_address, clip_route
from vidgen.simulator.wire import (
    Incoming,
    SimulatedWire,
    json_answer,
    look,
    obey,
    serve,
    submit,
)

UNIT_MICROS = 140_000
_MODELS = ("kling-v3", "kling-v2-6", "kling-v2-5-turbo")
_UNITS = {("std", "off"): 0.6, ("std", "on"): 0.9, ("pro", "off"): 0.8, ("pro", "on"): 1.2}
_SIZES = {"std": 720, "pro": 1080}
_RATIOS = {"16:9": (16, 9), "9:16": (9, 16), "1:1": (1, 1)}
_MONEY = frozenset({"insufficient_quota", "credit_balance_exhausted"})
_CODES = {400: 1201, 401: 1000, 403: 1103, 404: 1203, 429: 1302, 500: 5000, 503: 5001, 504: 5002}
_BLOCKED = frozenset({"moderation", "filtered", "prompt-blocked"})


def routes(simulator: ProviderSimulator, foreign: ProviderSimulator) -> list[web.RouteDef]:
    """The API, answered from *simulator*; redirects that leave the host go to *foreign*."""
    server = _KlingServer(simulator)
    base = "/v1/videos/{subpath:text2video|image2video}"
    return [
        web.post(base, serve(simulator, "submit", server.create)),
        web.get(base, serve(simulator, "list", server.index)),
        web.get(base + "/{id}", serve(simulator, "poll", server.retrieve)),
        clip_route(simulator, foreign, refuse),
    ]


def _failure_cost(wish: Wish, fate: Outcome) -> int:
    """What is called a success takes units, whether there is a video to it or not."""
    return wish.cost_micros if fate.name in {"no-samples", "expired", "never"} else 0


SIMULATED = SimulatedWire(
    routes=routes,
    addresses=lambda simulator: {"KLING_BASE_URL": simulator.url},
    failure_cost=_failure_cost,
)


@dataclass(frozen=True, slots=True)
class _KlingServer:
    simulator: ProviderSimulator

    async def create(self, incoming: Incoming) -> web.StreamResponse:
        project = project_of(self.simulator, incoming.key)
        if isinstance(project, Refusal):
            return refuse(project)
        wish = self.read_wish(incoming, project)
        if isinstance(wish, Refusal):
            return refuse(wish)
        return await submit(incoming, self.simulator, wish, refuse=refuse, answer=self.created)

    async def index(self, incoming: Incoming) -> web.StreamResponse:
        project = project_of(self.simulator, incoming.key)
        if isinstance(project, Refusal):
            return refuse(project)
        obeyed = await obey(incoming, self.simulator, "list", refuse=refuse)
        if obeyed is not None:
            return obeyed
        query, subpath = incoming.request.query, incoming.request.match_info["subpath"]
        page, size = query.get("pageNum", "1"), query.get("pageSize", "30")
        if not (page.isdecimal() and size.isdecimal() and 1 <= int(size) <= 500):
            return refuse(_invalid("pageSize is 1 to 500"))
        found = [
            generation
            for generation in self.simulator.listed(project)
            if generation.wish.parameters["subpath"] == subpath
        ]
        begin = (int(page) - 1) * int(size)
        data: list[JsonValue] = [self.task(each) for each in found[begin : begin + int(size)]]
        return _good(data)

    async def retrieve(self, incoming: Incoming) -> web.StreamResponse:
        generation = self.find(incoming)
        if isinstance(generation, Refusal):
            return refuse(generation)
        return await look(incoming, self.simulator, generation, refuse=refuse, answer=self.shown)

    def find(self, incoming: Incoming) -> Generation | Refusal:
        project = project_of(self.simulator, incoming.key)
        if isinstance(project, Refusal):
            return project
        path = incoming.request.match_info
        for generation in self.simulator.generations.values():
            told = generation.wish.parameters
            names = {generation.id, told.get("external_task_id")}
            is_ours = generation.wish.project == project and told["subpath"] == path["subpath"]
            if path["id"] in names and is_ours and not self.is_cleared(generation):
                return generation
        return Refusal(status=404, message="task not found", word="NOT_FOUND")

    def is_cleared(self, generation: Generation) -> bool:
        verdict = self.simulator.settle(generation)
        return verdict is not None and verdict.name == "expired"

    def read_wish(self, incoming: Incoming, project: str) -> Wish | Refusal:
        """What a create asks for, or why it is refused: unknown fields go unnoticed."""
        body, subpath = incoming.json, incoming.request.match_info["subpath"]
        if not isinstance(body, dict):
            return _invalid("Failed to resolve the request body")
        prompt, model = body.get("prompt"), body.get("model_name", "kling-v1")
        if not isinstance(prompt, str) or not prompt or len(prompt) > 2500:
            return _invalid("prompt is 1 to 2500 characters")
        if model not in _MODELS:
            return Refusal(status=404, message="model is not exist", code="model_not_found")
        mode, sound = str(body.get("mode", "std")), str(body.get("sound", "off"))
        duration = body.get("duration", "5")
        if (mode, sound) not in _UNITS:
            return _invalid("mode is std or pro, sound is on or off")
        if (
            not isinstance(duration, str)
            or not duration.isdecimal()
            or not 3 <= int(duration) <= 15
        ):
            return _invalid("duration is a string, 3 to 15")
        ratio = _RATIOS.get(str(body.get("aspect_ratio", "16:9")))
        if ratio is None:
            return _invalid("aspect_ratio is 16:9, 9:16 or 1:1")
        wrong = _wrong_images(body, subpath)
        if wrong is not None:
            return wrong
        if self.is_taken(body.get("external_task_id"), project):
            return _invalid("external_task_id already exists")
        short = _SIZES[mode]
        width, height = (max(1, short * side // min(ratio)) // 2 * 2 for side in ratio)
        return Wish(
            operation_id=str(800_000_000_000_000_000 + randbelow(10**17)),
            prompt=prompt,
            model=str(model),
            seconds=int(duration),
            width=width,
            height=height,
            audio=sound == "on",
            cost_micros=round(int(duration) * _UNITS[mode, sound] * UNIT_MICROS),
            project=project,
            parameters={
                **{name: value for name, value in body.items() if name != "prompt"},
                "subpath": subpath,
            },
        )

    def is_taken(self, mark: JsonValue, project: str) -> bool:
        return mark is not None and any(
            generation.wish.parameters.get("external_task_id") == mark
            for generation in self.simulator.generations.values()
            if generation.wish.project == project
        )

    def created(self, generation: Generation) -> web.StreamResponse:
        task = self.task(generation)
        kept = ("task_id", "task_info", "created_at", "updated_at")
        return _good({name: task[name] for name in kept} | {"task_status": "submitted"})

    async def shown(self, generation: Generation, drawn: Drawn) -> web.StreamResponse:
        task = self.task(generation)
        if "status" in drawn.modifiers:
            task["task_status"] = drawn.modifiers["status"].argument or "dreaming"
        return _good(task)

    def task(self, generation: Generation) -> dict[str, JsonValue]:
        """The task as single look and list show it."""
        status, said = self.standing(generation)
        result: dict[str, JsonValue] = {}
        if status == "succeed":
            result["videos"] = self.videos(generation)
        is_over = status in {"succeed", "failed"}
        updated = generation.ready_at if is_over else generation.created_at
        units = generation.wish.cost_micros / UNIT_MICROS if status == "succeed" else 0
        mark = generation.wish.parameters.get("external_task_id")
        return {
            "task_id": generation.id,
            "task_status": status,
            "task_status_msg": said,
            "task_info": {"external_task_id": mark} if mark else {},
            "task_result": result,
            "watermark_info": {"enabled": False},
            "final_unit_deduction": f"{units:.2f}",
            "created_at": int(generation.created_at * 1000),
            "updated_at": int(updated * 1000),
        }

    def videos(self, generation: Generation) -> list[JsonValue]:
        verdict = self.simulator.settle(generation)
        if verdict is not None and verdict.name == "no-samples":
            return []
        return [
            {
                "id": token_hex(8),
                "url": clip_address(self.simulator, generation),
                "duration": f"{generation.wish.seconds}.0",
            }
        ]

    def standing(self, generation: Generation) -> tuple[str, str]:
        """Kling's status word and its reason for where *generation* stands."""
        verdict = self.simulator.settle(generation)
        if not generation.is_due():
            return ("processing" if generation.percent() else "submitted"), ""
        match verdict.name if verdict else None:
            case None | "no-samples":
                return "succeed", ""
            case name if name in _BLOCKED:
                return "failed", "Failure to pass the risk control system"
            case "failed-silent":
                return "failed", ""
            case _:
                return "failed", "Internal error, please try again later"


def project_of(simulator: ProviderSimulator, token: str) -> str | Refusal:
    """The project of the access key that *token* was made with, or why it opens nothing."""
    if not token:
        return _unauthorized(1001, "Authorization is empty")
    head, _, rest = token.partition(".")
    body, _, signature = rest.partition(".")
    try:
        kind, claims = (orjson.loads(_unbase64url(part)) for part in (head, body))
        signed = _unbase64url(signature)
        access, begins, ends = str(claims["iss"]), float(claims["nbf"]), float(claims["exp"])
    except (ValueError, TypeError, KeyError, binascii.Error):
        return _unauthorized(1002, "Authorization is invalid")
    pairs = dict(key.split(":", 1) for key in simulator.keys or ())
    if kind != {"alg": "HS256", "typ": "JWT"} or access.startswith("wrong"):
        return _unauthorized(1002, "Authorization is invalid")
    if simulator.keys is not None:
        secret = pairs.get(access, "").encode()
        right = hmac.new(secret, f"{head}.{body}".encode(), hashlib.sha256).digest()
        if access not in pairs or not hmac.compare_digest(right, signed):
            return _unauthorized(1000, "signature is invalid")
    now = unix_now()
    if now < begins:
        return _unauthorized(1003, "Authorization is not yet valid")
    if now > ends:
        return _unauthorized(1004, "Authorization has expired")
    return access.partition("@")[2]


def refuse(refusal: Refusal) -> web.StreamResponse:
    """*refusal* as Kling writes it, or as what stands before it does."""
    code = _code(refusal)
    body: dict[str, JsonValue] = {"message": refusal.message, "request_id": token_hex(16)}
    if code is not None:
        body["code"] = code
    return json_answer(body, status=refusal.status, headers=refusal.headers)


def _code(refusal: Refusal) -> int | None:
    if refusal.kind == "kling":
        return int(refusal.code or 0)
    if refusal.code in _MONEY:
        return 1102
    if "no longer available" in refusal.message:
        return 1203
    named = {"moderation_blocked": 1301, "invalid_api_key": 1002, "model_not_found": 1203}
    return named.get(refusal.code or "") or _CODES.get(refusal.status)


def _unauthorized(code: int, message: str) -> Refusal:
    return Refusal(status=401, message=message, kind="kling", code=str(code))


def _invalid(message: str) -> Refusal:
    return Refusal(status=400, message=message)


def _wrong_images(body: Mapping[str, JsonValue], subpath: str) -> Refusal | None:
    images = [body[name] for name in ("image", "image_tail") if name in body]
    if (subpath == "image2video") != bool(images):
        return _invalid("image2video needs an image, text2video takes none")
    for image in images:
        try:
            data = base64.b64decode(str(image), validate=True)
        except binascii.Error:
            data = b""
        if clips.image_size(data) is None:
            return _invalid("image is not readable: URL or bare base64 of a jpg or png")
    return None


def _good(data: JsonValue) -> web.StreamResponse:
    body: dict[str, JsonValue] = {
        "code": 0,
        "message": "SUCCEED",
        "request_id": token_hex(16),
        "data": data,
    }
    return json_answer(body)


def _unbase64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
