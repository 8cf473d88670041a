"""
Replicate's API at the wire.

    POST /v1/models/{owner}/{name}/predictions, /v1/predictions {version, input}
    GET  /v1/predictions/{id}       POST /v1/predictions/{id}/cancel
    GET  /v1/predictions?cursor     GET  /v1/account         GET /v1/results/{id}.mp4?signature=

Any `owner/name` and any version is a model here that makes videos, unless the owner is `nobody`.
What a model does not know in its input goes unnoticed, as with the real ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from secrets import token_hex

from aiohttp import web

from vidgen.job import JsonValue
from vidgen.simulator.control import Drawn, Generation, ProviderSimulator, Wish, unix_now
from vidgen.simulator.faults import Outcome, Refusal
from vidgen.simulator.plain import (
    create,
    is_about_money,
    iso,
    owner_of,
    result,
    retrieve,
    signed,
    to_cancel,
)
from vidgen.simulator.wire import (
    Incoming,
    SimulatedWire,
    json_answer,
    obey,
    serve,
)

PAGE_LENGTH = 100
KEPT_S = 3600.0  # inputs and outputs of predictions made by the API

_SHAPES: Mapping[str, tuple[int, int]] = {
    "480p": (864, 480),
    "720p": (1280, 720),
    "1080p": (1920, 1080),
}
_MICROS_PER_SECOND = {"480p": 30_000, "720p": 60_000, "1080p": 150_000}
_ERRORS: Mapping[str, str] = {
    "failed": "Prediction failed. (E1000)",
    "failed-message": "Director: unexpected error handling prediction (E6716)",
    "failed-silent": "",
    "error": "Prediction interrupted; please retry (code: PA)",
    "no-samples": "The model made nothing.",
    "moderation": "The input or output was flagged as sensitive. Please try again. (E005)",
    "filtered": "The output was flagged by the model's safety filter.",
    "prompt-blocked": "The input or output was flagged as sensitive. Please try again. (E005)",
}


def routes(simulator: ProviderSimulator, foreign: ProviderSimulator) -> list[web.RouteDef]:
    """The protocol, answered from *simulator*; redirects that leave the host go to *foreign*."""
    server = _ReplicateServer(simulator, foreign)
    create = serve(simulator, "submit", server.create)
    return [
        web.post("/v1/models/{owner}/{name}/predictions", create),
        web.post("/v1/predictions", create),
        web.get("/v1/predictions", serve(simulator, "list", server.index)),
        web.get("/v1/predictions/{id}", serve(simulator, "poll", server.retrieve)),
        web.post("/v1/predictions/{id}/cancel", serve(simulator, "cancel", server.cancel)),
        # Free and without a video, so it counts as no deed.
        web.get("/v1/account", serve(simulator, None, server.account)),
        web.get("/v1/results/{id}.mp4", serve(simulator, "content", server.content)),
    ]


SIMULATED = SimulatedWire(
    routes=routes, addresses=lambda simulator: {"REPLICATE_BASE_URL": simulator.url}
)


@dataclass(frozen=True, slots=True)
class _ReplicateServer:
    simulator: ProviderSimulator
    foreign: ProviderSimulator

    async def create(self, incoming: Incoming) -> web.StreamResponse:
        return await create(
            incoming,
            self.simulator,
            partial(read_wish, incoming),
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
        cursor = incoming.request.query.get("cursor", "0")
        if not cursor.isdecimal():
            return refuse(Refusal(status=400, message="The cursor is not valid."))
        mine = self.simulator.listed(project)
        end = int(cursor) + PAGE_LENGTH
        shown: list[JsonValue] = [self.prediction(each) for each in mine[int(cursor) : end]]
        more = f"{self.simulator.url}/predictions?cursor={end}" if end < len(mine) else None
        return json_answer({"previous": None, "next": more, "results": shown})

    async def retrieve(self, incoming: Incoming) -> web.StreamResponse:
        return await retrieve(incoming, self.simulator, refuse=refuse, answer=self.shown)

    async def cancel(self, incoming: Incoming) -> web.StreamResponse:
        generation = await to_cancel(incoming, self.simulator, refuse=refuse)
        if isinstance(generation, web.StreamResponse):
            return generation
        if not generation.is_due():
            generation.fate, generation.fate_is_sealed = Outcome(name="cancelled"), True
            generation.ready_at = unix_now()
        return json_answer(self.prediction(generation))

    async def account(self, incoming: Incoming) -> web.StreamResponse:
        project = owner_of(incoming, self.simulator)
        if isinstance(project, Refusal):
            return refuse(project)
        return json_answer({"type": "organization", "username": "studio", "name": "Studio"})

    async def content(self, incoming: Incoming) -> web.StreamResponse:
        return await result(incoming, self.simulator, self.foreign, refuse=refuse)

    def created(self, generation: Generation) -> web.StreamResponse:
        begun = self.prediction(generation) | {"status": "starting", "output": None}
        return json_answer(begun, status=201)

    async def shown(self, generation: Generation, drawn: Drawn) -> web.StreamResponse:
        verdict = self.simulator.settle(generation)
        if verdict is not None and verdict.name == "expired":
            return refuse(Refusal(status=404, message="The requested resource was not found."))
        prediction = self.prediction(generation)
        if "status" in drawn.modifiers:
            prediction["status"] = drawn.modifiers["status"].argument or "dreaming"
        return json_answer(prediction)

    def prediction(self, generation: Generation) -> dict[str, JsonValue]:
        """The Prediction object."""
        wish, verdict = generation.wish, self.simulator.settle(generation)
        status, error, output = self.standing(generation, verdict)
        ended = status not in {"starting", "processing"}
        is_old = ended and unix_now() > generation.ready_at + KEPT_S
        address = f"{self.simulator.url}/predictions/{generation.id}"
        prediction: dict[str, JsonValue] = {
            "id": generation.id,
            "model": wish.model if "/" in wish.model else "someone/something",
            "version": wish.model if "/" not in wish.model else "hidden",
            "status": status,
            "input": {} if is_old else {"prompt": wish.prompt, **wish.parameters},
            "output": None if is_old else output,
            "data_removed": is_old,
            "error": error,
            "logs": "",
            "source": "api",
            "created_at": iso(generation.created_at),
            "started_at": None if status == "starting" else iso(generation.created_at),
            "completed_at": iso(generation.ready_at) if ended else None,
            "urls": {"get": address, "cancel": f"{address}/cancel", "web": ""},
        }
        if ended:
            ran_s = generation.ready_at - generation.created_at
            made: dict[str, JsonValue] = {"predict_time": ran_s, "total_time": ran_s}
            if status == "succeeded":
                made["video_output_duration_seconds"] = float(wish.seconds)
            prediction["metrics"] = made
        return prediction

    def standing(
        self, generation: Generation, verdict: Outcome | None
    ) -> tuple[str, str | None, str | None]:
        """Replicate's status word, the error, and where the result lies."""
        if not generation.is_due():
            return ("processing" if generation.percent() else "starting"), None, None
        if verdict is None:
            return "succeeded", None, signed(self.simulator.url, generation)
        if verdict.name == "cancelled":
            return "canceled", None, None
        return "failed", _ERRORS.get(verdict.name, ""), None


def read_wish(incoming: Incoming, project: str) -> Wish | Refusal:
    """What a submit asks for, or why it is refused."""
    body, path = incoming.json, incoming.request.match_info
    given = body.get("input") if isinstance(body, dict) else None
    if not isinstance(body, dict) or not isinstance(given, dict):
        return _invalid("input", "an object")
    version = body.get("version")
    model = f"{path['owner']}/{path['name']}" if "owner" in path else version
    if not isinstance(model, str) or model.startswith("nobody/"):
        return Refusal(status=404, message="The requested resource could not be found.")
    prompt, seconds = given.get("prompt"), given.get("duration", 5)
    if not isinstance(prompt, str) or not prompt:
        return _invalid("input.prompt", "a text")
    if isinstance(seconds, bool) or not isinstance(seconds, int) or not 1 <= seconds <= 60:
        return _invalid("input.duration", "a whole number of seconds")
    resolution = given.get("resolution", "720p")
    shape = _SHAPES.get(resolution) if isinstance(resolution, str) else None
    if shape is None or not isinstance(resolution, str):
        return _invalid("input.resolution", ", ".join(_SHAPES))
    wish = Wish(
        operation_id=token_hex(13),
        prompt=prompt,
        model=model,
        seconds=seconds,
        width=shape[0],
        height=shape[1],
        audio=given.get("generate_audio") is True,
        cost_micros=seconds * _MICROS_PER_SECOND[resolution],
        project=project,
        parameters={name: given[name] for name in given.keys() - {"prompt"}},
    )
    is_upright = given.get("aspect_ratio") == "9:16"
    return replace(wish, width=wish.height, height=wish.width) if is_upright else wish


def refuse(refusal: Refusal) -> web.StreamResponse:
    """*refusal* as Replicate writes it: problem details; without money it is a 402."""
    status, title, detail = refusal.status, "Request failed", refusal.message
    if is_about_money(refusal):
        status, title = 402, "Insufficient credit"
        detail = "You have insufficient credit to run this model."
    body: dict[str, JsonValue] = {"title": title, "detail": detail, "status": status}
    if refusal.param is not None:
        body["invalid_fields"] = [{"field": refusal.param, "description": detail}]
    return json_answer(body, status=status, headers=refusal.headers)


def _invalid(param: str, wanted: str) -> Refusal:
    return Refusal(status=422, message=f"{param}: expected {wanted}", param=param)
