"""Acme at the wire, for `vidgen dev` and for tests: every fault that vidgen's simulators know."""

from dataclasses import dataclass
from uuid import uuid4

from aiohttp import web

from vidgen.job import JsonValue
from vidgen.simulator.control import Drawn, Generation, ProviderSimulator, Wish
from vidgen.simulator.faults import Refusal
from vidgen.simulator.wire import (
    Incoming,
    SimulatedWire,
    clip_of,
    deliver,
    json_answer,
    look,
    obey,
    project_of,
    serve,
    submit,
)

PRICES = {"720p": 20_000, "1080p": 50_000}
PICTURES = {"16:9": (1280, 720), "9:16": (720, 1280), "1:1": (720, 720)}
WHY = {"moderation_blocked": "not_allowed", "model_not_found": "no_such_model"}


def routes(simulator: ProviderSimulator, foreign: ProviderSimulator) -> list[web.RouteDef]:
    server = AcmeServer(simulator, foreign)
    return [
        web.post("/v1/clips", serve(simulator, "submit", server.create)),
        web.get("/v1/clips", serve(simulator, "list", server.index)),
        web.get("/v1/clips/{id}", serve(simulator, "poll", server.retrieve)),
        web.get("/v1/files/{id}.mp4", serve(simulator, "content", server.content)),
    ]


SIMULATED = SimulatedWire(
    routes=routes, addresses=lambda simulator: {"ACME_BASE_URL": simulator.url}
)


@dataclass(frozen=True, slots=True)
class AcmeServer:
    simulator: ProviderSimulator
    foreign: ProviderSimulator

    async def create(self, incoming: Incoming) -> web.StreamResponse:
        if project_of(self.simulator, incoming.key) is None:
            return refuse(WRONG_KEY)
        wish = wish_of(incoming.json)
        if wish is None:
            return refuse(Refusal(status=400, message="This cannot be made."))
        return await submit(
            incoming,
            self.simulator,
            wish,
            refuse=refuse,
            answer=lambda made: json_answer({"clip": made.id, "state": "waiting"}, status=201),
        )

    async def index(self, incoming: Incoming) -> web.StreamResponse:
        if project_of(self.simulator, incoming.key) is None:
            return refuse(WRONG_KEY)
        obeyed = await obey(incoming, self.simulator, "list", refuse=refuse)
        if obeyed is not None:
            return obeyed
        query = incoming.request.query
        most, after = query.get("most", "20"), query.get("after")
        if not most.isdecimal() or not 1 <= int(most) <= 100:
            return refuse(Refusal(status=400, message="most is 1 to 100."))
        found = self.simulator.listed("")
        begin = next((n + 1 for n, each in enumerate(found) if each.id == after), 0)
        rest = found[begin:]
        shown: list[JsonValue] = [self.entry(each) for each in rest[: int(most)]]
        return json_answer({"clips": shown, "more": len(rest) > int(most)})

    async def retrieve(self, incoming: Incoming) -> web.StreamResponse:
        if project_of(self.simulator, incoming.key) is None:
            return refuse(WRONG_KEY)
        generation = self.simulator.generations.get(incoming.request.match_info["id"])
        if generation is None:
            return refuse(Refusal(status=404, message="There is no such clip."))
        return await look(incoming, self.simulator, generation, refuse=refuse, answer=self.shown)

    async def shown(self, generation: Generation, drawn: Drawn) -> web.StreamResponse:
        clip = self.clip(generation)
        if "status" in drawn.modifiers:
            clip["state"] = drawn.modifiers["status"].argument or "dreaming"
        return json_answer(clip)

    def entry(self, generation: Generation) -> dict[str, JsonValue]:
        """What the list says of it."""
        asked = dict(generation.wish.parameters)
        asked.pop("start", None)  # no list repeats pictures
        return {**asked, **self.clip(generation), "made": int(generation.created_at)}

    def clip(self, generation: Generation) -> dict[str, JsonValue]:
        clip: dict[str, JsonValue] = {"clip": generation.id, "done": generation.percent()}
        verdict = self.simulator.settle(generation)
        if verdict is not None:
            blocked = verdict.name in {"moderation", "filtered", "prompt-blocked"}
            clip |= {"state": "broken", "why": "not_allowed" if blocked else "trouble"}
        elif generation.is_due():
            clip |= {"state": "ready", "file": f"{self.simulator.url}/files/{generation.id}.mp4"}
        else:
            clip["state"] = "working"
        return clip

    async def content(self, incoming: Incoming) -> web.StreamResponse:
        request = incoming.request
        generation = self.simulator.generations.get(request.match_info["id"])
        if generation is None:
            return refuse(Refusal(status=404, message="There is no such file."))
        wish = generation.wish
        drawn = self.simulator.draw("content", prompt=wish.prompt, operation_id=generation.id)
        if "again" in request.query and drawn.outcome and drawn.outcome.name == "redirect":
            drawn = Drawn(modifiers=drawn.modifiers)  # the redirect has been made; here it ends
        return await deliver(
            incoming,
            drawn,
            lambda: clip_of(self.simulator, wish),
            content_type="video/mp4",
            refuse=refuse,
            elsewhere=str(request.rel_url.update_query(again=1)),
            foreign=f"{self.foreign.origin}/{self.simulator.name}/{generation.id}",
        )


def wish_of(body: JsonValue) -> Wish | None:
    """What is asked for; None if it cannot be made."""
    if not isinstance(body, dict) or body.get("model") != "reel-1":
        return None
    text, length = body.get("text"), body.get("length")
    shape, lines = body.get("shape"), body.get("lines")
    if not isinstance(text, str) or not isinstance(length, int):
        return None
    if not isinstance(shape, str) or not isinstance(lines, str):
        return None
    if shape not in PICTURES or lines not in PRICES:
        return None
    width, height = PICTURES[shape]
    return Wish(
        operation_id=uuid4().hex,
        prompt=text,
        model="reel-1",
        seconds=length,
        width=width,
        height=height,
        audio=False,
        cost_micros=length * PRICES[lines],
        parameters=body,
    )


def refuse(refusal: Refusal) -> web.StreamResponse:
    """*refusal* in Acme's words."""
    why = WHY.get(refusal.code or "", "no")
    if refusal.status == 429 and refusal.kind == "insufficient_quota":
        why = "no_money"
    if "no longer available" in refusal.message:
        why = "no_such_model"
    if refusal.code == "invalid_api_key":
        why = "bad_key"
    return json_answer(
        {"why": why, "words": refusal.message}, status=refusal.status, headers=refusal.headers
    )


WRONG_KEY = Refusal(status=401, message="Who are you?", code="invalid_api_key")
