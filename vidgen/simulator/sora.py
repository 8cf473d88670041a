"""
The OpenAI Videos protocol at the wire, and the manners of other servers that speak it.

    POST /v1/videos               JSON or form -> Video
    GET  /v1/videos               ?limit ?order ?after -> list
    GET  /v1/videos/{id}          -> Video; a failed generation is HTTP 200 with status "failed"
    DELETE /v1/videos/{id}
    GET  /v1/videos/{id}/content  ?variant=video|thumbnail|spritesheet

The same under /openai/v1, where Azure has it. A key may carry a project (`sk-anything@project`):
another project's videos are unknown to it.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from secrets import token_hex

from aiohttp import web

from vidgen.job import JsonValue
from vidgen.simulator import clips
from vidgen.simulator.control import Drawn, Generation, ProviderSimulator, Wish
from vidgen.simulator.faults import Outcome, Refusal
from vidgen.simulator.sora_request import DIALECTS, Dialect, invalid, read_page, read_wish
from vidgen.simulator.wire import (
    Incoming,
    SimulatedWire,
    clip_of,
    deliver,
    json_answer,
    look,
    not_ready,
    obey,
    project_of,
    serve,
    submit,
)

KEPT_S = 3600  # the guide's hour, sent as `expires_at`
_VARIANTS = {"video": "video/mp4", "thumbnail": "image/webp", "spritesheet": "image/jpeg"}


def routes(simulator: ProviderSimulator, foreign: ProviderSimulator) -> list[web.RouteDef]:
    """The protocol, answered from *simulator*; redirects that leave the host go to *foreign*."""
    server = _SoraServer(simulator, foreign)
    found: list[web.RouteDef] = []
    for base in ("/v1/videos", "/openai/v1/videos"):
        found += [
            web.post(base, serve(simulator, "submit", server.create)),
            web.get(base, serve(simulator, "list", server.index)),
            web.get(base + "/{id}", serve(simulator, "poll", server.retrieve)),
            web.delete(base + "/{id}", serve(simulator, "cancel", server.delete)),
            web.get(base + "/{id}/content", serve(simulator, "content", server.content)),
        ]
    return found


SIMULATED = SimulatedWire(
    routes=routes, addresses=lambda simulator: {"OPENAI_BASE_URL": simulator.url}, at_root=True
)


@dataclass(frozen=True, slots=True)
class _SoraServer:
    simulator: ProviderSimulator
    foreign: ProviderSimulator

    @property
    def dialect(self) -> Dialect:
        return DIALECTS[self.simulator.dialect]

    async def create(self, incoming: Incoming) -> web.StreamResponse:
        project = project_of(self.simulator, incoming.key)
        if project is None:
            return self.refuse(_wrong_key(incoming.key))
        wish = read_wish(incoming, self.dialect, project)
        if isinstance(wish, Refusal):
            return self.refuse(wish)
        return await submit(incoming, self.simulator, wish, refuse=self.refuse, answer=self.created)

    async def index(self, incoming: Incoming) -> web.StreamResponse:
        project = project_of(self.simulator, incoming.key)
        if project is None:
            return self.refuse(_wrong_key(incoming.key))
        obeyed = await obey(incoming, self.simulator, "list", refuse=self.refuse)
        if obeyed is not None:
            return obeyed
        page = read_page(incoming.request.query)
        if isinstance(page, Refusal):
            return self.refuse(page)
        limit, order, after = page
        found = self.simulator.listed(project)
        if order != "desc":
            found.reverse()
        start = next((n + 1 for n, generation in enumerate(found) if generation.id == after), 0)
        rest = found[start:]
        shown = rest[:limit]
        data: list[JsonValue] = [self.video(generation) for generation in shown]
        if self.dialect.name == "sglang":
            return self.answer({"data": data})
        return self.answer(
            {
                "object": "list",
                "data": data,
                "first_id": shown[0].id if shown else None,
                "last_id": shown[-1].id if shown else None,
                "has_more": len(rest) > limit,
            }
        )

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
        self.simulator.forget(generation)
        if self.dialect.name == "sglang":
            return self.answer({**self.video(generation), "status": "deleted"})
        return self.answer({"id": generation.id, "deleted": True, "object": "video.deleted"})

    async def content(self, incoming: Incoming) -> web.StreamResponse:
        generation = self.find(incoming)
        if isinstance(generation, Refusal):
            return self.refuse(generation)
        request, wish = incoming.request, generation.wish
        variant = request.query.get("variant", "video") if self.dialect.has_variants else "video"
        if variant not in _VARIANTS:
            return self.refuse(invalid("variant", f"one of {', '.join(_VARIANTS)}"))
        if not generation.is_due() or self.simulator.settle(generation) is not None:
            return self.refuse(not_ready(self.dialect.not_ready))
        drawn = self.simulator.draw("content", prompt=wish.prompt, operation_id=generation.id)
        if variant != "video":
            rest = {name: it for name, it in drawn.modifiers.items() if name != "size"}
            drawn = Drawn(outcome=drawn.outcome, modifiers=rest)  # pictures stay as they are
        foreign = f"{self.foreign.origin}/{self.simulator.name}/{generation.id}"
        if self.dialect.name == "new-api":
            drawn = Drawn(outcome=drawn.outcome or Outcome(name="redirect-foreign"))
        if "redirected" in request.query and drawn.outcome and drawn.outcome.name == "redirect":
            drawn = Drawn(modifiers=drawn.modifiers)  # the redirect has been made; here it ends
        return await deliver(
            incoming,
            drawn,
            partial(self.bytes_of, wish, variant),
            content_type=_VARIANTS[variant],
            refuse=self.refuse,
            elsewhere=str(request.rel_url.update_query(redirected=1)),
            foreign=foreign,
        )

    async def bytes_of(self, wish: Wish, variant: str) -> bytes:
        clip = await clip_of(self.simulator, wish)
        if variant == "video":
            return clip
        derive = clips.thumbnail if variant == "thumbnail" else clips.spritesheet
        return await asyncio.to_thread(derive, clip)

    def find(self, incoming: Incoming) -> Generation | Refusal:
        project = project_of(self.simulator, incoming.key)
        if project is None:
            return _wrong_key(incoming.key)
        video_id = incoming.request.match_info["id"]
        generation = self.simulator.generations.get(video_id)
        if generation is None or generation.wish.project != project:
            return Refusal(
                status=404,
                message=f"Video with id '{video_id}' not found.",
                word="NOT_FOUND",
            )
        return generation

    def created(self, generation: Generation) -> web.StreamResponse:
        return self.answer(self.video(generation), status=self.dialect.created_status)

    async def shown(self, generation: Generation, drawn: Drawn) -> web.StreamResponse:
        video = self.video(generation)
        if "status" in drawn.modifiers:
            video["status"] = drawn.modifiers["status"].argument or "dreaming"
        if "stuck" in drawn.modifiers:
            video["progress"] = min(generation.percent(), round(drawn.number("stuck")))
        after_ms = drawn.number("after-ms", self.simulator.poll_after_ms or 0)
        return self.answer(
            video, headers={"openai-poll-after-ms": f"{after_ms:.0f}"} if after_ms else {}
        )

    def video(self, generation: Generation) -> dict[str, JsonValue]:
        """The Video object, in the words and with the fields of the dialect."""
        status, error = self.standing(generation)
        status = self.dialect.words.get(status, status)
        wish = generation.wish
        match self.dialect.name:
            case "openrouter":
                return self.openrouter_job(generation, status, error)
            case "new-api":
                video = _video(generation, status, error)
                video |= {"object": "video.generation", "created": int(generation.created_at)}
                video["task_id"] = generation.id
                if status == "completed":
                    video["video_url"] = f"{self.simulator.url}/videos/{generation.id}/content"
                return video
            case "sglang":
                message = error.get("message") if isinstance(error, dict) else None
                kept: JsonValue = {"message": message} if message else None
                return _video(generation, status, kept) | {"seconds": wish.seconds}
            case "vllm-omni":
                extra: dict[str, JsonValue] = {"media_type": "video/mp4"}
                if status == "completed":
                    extra |= {"file_name": f"{generation.id}.mp4", "inference_time_s": 12.5}
                return _video(generation, status, error) | extra
            case "openai" | "azure":
                return _video(generation, status, error)

    def openrouter_job(
        self, generation: Generation, status: str, error: JsonValue
    ) -> dict[str, JsonValue]:
        address = f"{self.simulator.url}/videos/{generation.id}"
        job: dict[str, JsonValue] = {
            "id": generation.id,
            "polling_url": address,
            "status": status,
        }
        if status == "completed":
            job["unsigned_urls"] = [f"{address}/content?index=0"]
            job["usage"] = {"cost": generation.wish.cost_micros / 1_000_000}
        if isinstance(error, dict):
            job["error"] = error.get("message")
        return job

    def standing(self, generation: Generation) -> tuple[str, JsonValue]:
        """OpenAI's status word and error for where *generation* stands."""
        verdict = self.simulator.settle(generation)
        if verdict is None:
            if generation.is_due():
                return "completed", None
            return ("in_progress" if generation.percent() else "queued"), None
        match verdict.name:
            case "expired" | "cancelled":
                return verdict.name, None
            case "failed-silent":
                return "failed", None
            case "failed-message":
                return "failed", {"message": "The generation failed."}
            case "moderation" | "filtered" | "prompt-blocked":
                message = "Your request was blocked by our moderation system."
                return "failed", {"code": "moderation_blocked", "message": message}
            case _:
                message = "Video generation failed. Please try again later."
                return "failed", {"code": "video_generation_failed", "message": message}

    def refuse(self, refusal: Refusal) -> web.StreamResponse:
        """*refusal* with the error body of the dialect."""
        body: JsonValue
        match self.dialect.name:
            case "sglang":
                body = {"detail": refusal.message}
            case "vllm-omni" | "openrouter":
                body = {
                    "error": {
                        "message": refusal.message,
                        "type": refusal.kind,
                        "param": refusal.param,
                        "code": refusal.status,
                    }
                }
            case "new-api":
                body = {"code": refusal.code or refusal.status, "msg": refusal.message}
            case "openai" | "azure":
                body = {
                    "error": {
                        "message": refusal.message,
                        "type": refusal.kind,
                        "param": refusal.param,
                        "code": refusal.code,
                    }
                }
        return self.answer(body, status=refusal.status, headers=refusal.headers)

    def answer(
        self, data: JsonValue, *, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> web.StreamResponse:
        kept = {
            "x-request-id": f"req_{token_hex(16)}",
            "openai-version": "2020-10-01",
            "openai-processing-ms": "12",
            **(headers or {}),
        }
        return json_answer(data, status=status, headers=kept)


def _video(generation: Generation, status: str, error: JsonValue) -> dict[str, JsonValue]:
    wish, completed = generation.wish, status == "completed"
    return {
        "id": generation.id,
        "object": "video",
        "model": wish.model,
        "status": status,
        "progress": generation.percent() if status != "failed" else 0,
        "prompt": wish.prompt,
        "created_at": int(generation.created_at),
        "completed_at": int(generation.ready_at) if completed else None,
        "expires_at": int(generation.ready_at) + KEPT_S if completed else None,
        "size": f"{wish.width}x{wish.height}",
        "seconds": str(wish.seconds),
        "quality": "standard",
        "remixed_from_video_id": None,
        "error": error,
    }


def _wrong_key(key: str) -> Refusal:
    said = f"Incorrect API key provided: {key[:5]}***." if key else "You didn't provide an API key."
    return Refusal(status=401, message=said, code="invalid_api_key", word="UNAUTHENTICATED")
