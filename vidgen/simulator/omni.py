"""
Gemini Omni at the wire: the Interactions API on the Gemini API and on Vertex AI.

    POST /v1beta/interactions                                         key in x-goog-api-key
    POST /{v1|v1beta1}/projects/{p}/locations/global/interactions     bearer token of /token
    GET  …/interactions/{id}       POST …/interactions/{id}/cancel
    GET  /v1beta/files/omni-{id}                   {"state"}
    GET  /v1beta/files/omni-{id}:download          the clip
    GET  /storage/v1/b/{bucket}/o/{object}         the clip, by `gs://` address

With `background` the answer comes at once, without the video. Without it, or in the dialect
`synchronous`, it comes when the video is ready, with it. Whoever reads an interaction later gets
the video as base64, also where an address was asked for, unless it is in a bucket.
"""

import asyncio
import base64
import binascii
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from secrets import token_hex

import orjson
from aiohttp import web

from vidgen.job import JsonValue
from vidgen.simulator import clips, faults
from vidgen.simulator.cloud import bearer_is_good, unauthenticated
from vidgen.simulator.control import Drawn, Generation, ProviderSimulator, Wish, unix_now
from vidgen.simulator.faults import Outcome, Refusal
from vidgen.simulator.google import VIDEO_TYPE, invalid, not_found, refuse
from vidgen.simulator.wire import (
    Incoming,
    SimulatedWire,
    base64_pieces,
    clip_of,
    deliver_generation,
    json_answer,
    look,
    misbehave,
    obey,
    project_of,
    send,
    serve,
    submit,
)

TOKENS_PER_SECOND = 5792  # at 720p
LOCATION = "global"
_GEMINI = ("gemini-omni-1.2-flash", "gemini-omni-1.1-flash")
_VERTEX = ("gemini-omni-1.2-flash", "gemini-omni-1.1-flash-preview")
_LONGEST = {"gemini-omni-1.2-flash": 15}
_MICROS_PER_TOKEN = {"gemini-omni-1.2-flash": 12.0}
# Tokens beside those of 720p.
_SHARES = {"360p": 1 / 3, "720p": 1.0, "1080p": 1.5, "4k": 3.0}
_SHORT_SIDES = {"360p": 360, "720p": 720, "1080p": 1080, "4k": 2160}
_TASKS = frozenset({"text_to_video", "image_to_video", "reference_to_video", "edit", "extend"})
_ON_VERTEX = "/{version:v1|v1beta1}/projects/{project}/locations/{location}/interactions"


def routes(simulator: ProviderSimulator, foreign: ProviderSimulator) -> list[web.RouteDef]:
    """Both doors, answered from *simulator*; redirects that leave the host go to *foreign*."""
    gemini = _Server(simulator, foreign, _GEMINI, partial(_project_of_key, simulator))
    vertex = _Server(simulator, foreign, _VERTEX, partial(_project_of_token, simulator))
    file = "/v1beta/files/omni-{id:[a-z0-9]+}"
    found: list[web.RouteDef] = []
    for base, server in (("/v1beta/interactions", gemini), (_ON_VERTEX, vertex)):
        found += [
            web.post(base, serve(simulator, "submit", server.create)),
            web.get(base + "/{id}", serve(simulator, "poll", server.retrieve)),
            web.post(base + "/{id}/cancel", serve(simulator, "cancel", server.cancel)),
        ]
    return [
        *found,
        # Free and without a video, so it counts as no deed.
        web.get(file, serve(simulator, None, gemini.file)),
        web.get(file + ":download", serve(simulator, "content", gemini.download)),
        web.get(
            "/storage/v1/b/{bucket}/o/{object:.*omni-[a-z0-9]+[.]mp4}",
            serve(simulator, "content", vertex.download),
        ),
    ]


# The addresses and the tokens are Veo's: Google has both at one place.
SIMULATED = SimulatedWire(
    routes=routes, addresses=lambda simulator: {}, at_root=True, tokens_of="veo"
)


@dataclass(frozen=True, slots=True)
class _Server:
    """
    One of the two interfaces.

    Attributes:
        project: Who asks, or why nobody may.
    """

    simulator: ProviderSimulator
    foreign: ProviderSimulator
    models: tuple[str, ...]
    project: Callable[[Incoming], str | Refusal]

    async def create(self, incoming: Incoming) -> web.StreamResponse:
        project = self.project(incoming)
        if isinstance(project, Refusal):
            return refuse(project)
        on_vertex = self.models is _VERTEX
        wish = read_wish(incoming.json, self.models, project, on_vertex=on_vertex)
        if isinstance(wish, Refusal):
            return refuse(wish)
        waits = wish.parameters.get("background") is not True
        if not waits and self.simulator.dialect != "synchronous":
            return await submit(incoming, self.simulator, wish, refuse=refuse, answer=self.receipt)
        accepted: list[Generation] = []

        def note(generation: Generation) -> web.StreamResponse:
            accepted.append(generation)
            return json_answer({})

        answer = await submit(incoming, self.simulator, wish, refuse=refuse, answer=note)
        if not accepted:
            return answer
        await asyncio.sleep(max(accepted[0].ready_at - unix_now(), 0))
        return await self.finished(incoming.request, accepted[0], as_created=True)

    async def retrieve(self, incoming: Incoming) -> web.StreamResponse:
        generation = self.find(incoming)
        if isinstance(generation, Refusal):
            return refuse(generation)

        async def shown(generation: Generation, drawn: Drawn) -> web.StreamResponse:
            if "status" in drawn.modifiers:
                status = drawn.modifiers["status"].argument or "dreaming"
                return json_answer(_interaction(generation, status))
            if not generation.is_due():
                return self.receipt(generation)
            return await self.finished(incoming.request, generation, as_created=False)

        return await look(incoming, self.simulator, generation, refuse=refuse, answer=shown)

    async def cancel(self, incoming: Incoming) -> web.StreamResponse:
        generation = self.find(incoming)
        if isinstance(generation, Refusal):
            return refuse(generation)
        obeyed = await obey(incoming, self.simulator, "cancel", refuse=refuse)
        if obeyed is not None:
            return obeyed
        if generation.is_due():
            message = "The interaction is over."
            return refuse(Refusal(status=400, message=message, word="FAILED_PRECONDITION"))
        self.simulator.forget(generation)
        return json_answer(_interaction(generation, "cancelled"))

    def receipt(self, generation: Generation) -> web.StreamResponse:
        return json_answer(_interaction(generation, "in_progress"))

    async def finished(
        self, request: web.Request, generation: Generation, *, as_created: bool
    ) -> web.StreamResponse:
        """A due interaction: with its address, with its bytes, or with what went wrong."""
        verdict = self.simulator.settle(generation)
        if verdict is not None:
            return _failed(generation, verdict)
        wish = generation.wish
        wanted = wish.parameters.get("response_format")
        by_address = isinstance(wanted, dict) and wanted.get("delivery") == "uri"
        bucket = wanted.get("gcs_uri") if isinstance(wanted, dict) else None
        if by_address and (as_created or bucket):
            if isinstance(bucket, str):
                uri = f"{bucket.rstrip('/')}/{generation.id}/omni-{generation.id}.mp4"
            else:
                uri = f"{self.simulator.gemini_url}/files/omni-{generation.id}:download?alt=media"
            video: dict[str, JsonValue] = {"type": "video", "mime_type": VIDEO_TYPE, "uri": uri}
            return json_answer(_completed(generation, video))
        return await self.inline(request, generation)

    async def inline(self, request: web.Request, generation: Generation) -> web.StreamResponse:
        """The clip as base64 within the answer, streamed: nobody holds all of it at once."""
        wish = generation.wish
        drawn = self.simulator.draw("content", prompt=wish.prompt, operation_id=generation.id)
        if drawn.outcome is not None and drawn.outcome.name not in faults.TRUNCATIONS:
            if drawn.outcome.name not in faults.DELIVERIES:
                return await misbehave(request, drawn.outcome, refuse=refuse)
            drawn = Drawn(modifiers=drawn.modifiers)  # a redirect has no meaning here
        clip = await clip_of(self.simulator, wish)
        size_bytes = max(round(drawn.number("size")), len(clip))
        mark = b"CLIP"
        video: dict[str, JsonValue] = {"type": "video", "mime_type": VIDEO_TYPE, "data": "CLIP"}
        before, _, after = orjson.dumps(_completed(generation, video)).rpartition(mark)

        def pieces() -> Iterator[bytes]:
            yield before
            yield from base64_pieces(clips.padded_pieces(clip, size_bytes))
            yield after

        total = len(before) + (size_bytes + 2) // 3 * 4 + len(after)
        return await send(request, drawn, pieces(), total, content_type="application/json")

    def find(self, incoming: Incoming) -> Generation | Refusal:
        project = self.project(incoming)
        if isinstance(project, Refusal):
            return project
        name = _name_in(incoming)
        generation = self.simulator.generations.get(name)
        if generation is None or generation.wish.project != project:
            return not_found(f"Interaction {name} not found.")
        return generation

    async def download(self, incoming: Incoming) -> web.StreamResponse:
        generation = self.find(incoming)
        if isinstance(generation, Refusal):
            return refuse(generation)
        if not generation.is_due() or self.simulator.settle(generation) is not None:
            return refuse(not_found("File not found."))
        return await deliver_generation(
            incoming,
            self.simulator,
            self.foreign,
            generation,
            partial(clip_of, self.simulator, generation.wish),
            refuse=refuse,
        )

    async def file(self, incoming: Incoming) -> web.StreamResponse:
        generation = self.find(incoming)
        if isinstance(generation, Refusal):
            return refuse(generation)
        name = f"files/omni-{generation.id}"
        prompt = generation.wish.prompt
        drawn = self.simulator.draw("list", prompt=prompt, only=frozenset({"hidden"}))
        hidden = "hidden" in drawn.modifiers or not generation.is_due()
        return json_answer({"name": name, "state": "PROCESSING" if hidden else "ACTIVE"})


def _name_in(incoming: Incoming) -> str:
    """The id of an interaction in an address of it, of its file, or of its object in a bucket."""
    path = incoming.request.match_info
    return path.get("id") or path["object"].rpartition("omni-")[2].removesuffix(".mp4")


def _project_of_key(simulator: ProviderSimulator, incoming: Incoming) -> str | Refusal:
    project = project_of(simulator, incoming.key)
    if project is not None:
        return project
    detail: JsonValue = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "API_KEY_INVALID",
        "domain": "googleapis.com",
    }
    message = "API key not valid. Please pass a valid API key."
    return Refusal(status=400, message=message, details=(detail,))


def _project_of_token(simulator: ProviderSimulator, incoming: Incoming) -> str | Refusal:
    if not bearer_is_good(simulator, incoming):
        return unauthenticated()
    path = incoming.request.match_info
    if path.get("location", LOCATION) != LOCATION:
        return not_found("Interactions are in the location global.")
    if "project" in path:
        return str(path["project"])
    generation = simulator.generations.get(_name_in(incoming))  # of an object in a bucket
    return generation.wish.project if generation is not None else ""


def read_wish(
    body: JsonValue, models: tuple[str, ...], project: str, *, on_vertex: bool
) -> Wish | Refusal:
    """What an interaction asks for, or why it is refused."""
    if not isinstance(body, dict):
        return invalid("The body must be an object.")
    model = body.get("model")
    if not isinstance(model, str) or model not in models:
        return not_found(f"Model {model} is not found, or not supported for interactions.")
    wanted = body.get("response_format")
    wanted = wanted[0] if isinstance(wanted, list) and wanted else wanted
    wanted = wanted if isinstance(wanted, dict) else {"type": "video"}
    if wanted.get("type") != "video":
        return invalid("`response_format.type` must be video.")
    wrong = _wrong_format(wanted, model, on_vertex=on_vertex)
    if wrong is not None:
        return wrong
    config = body.get("generation_config", {})
    video_config = config.get("video_config", {}) if isinstance(config, dict) else None
    task = video_config.get("task") if isinstance(video_config, dict) else 0
    if task is not None and task not in _TASKS:
        return invalid("`generation_config.video_config.task` is not known.")
    prompt = _prompt(body.get("input"))
    if isinstance(prompt, Refusal):
        return prompt
    seconds = int(str(wanted.get("duration", "8s")).removesuffix("s"))
    resolution = str(wanted.get("resolution", "720p"))
    long, short = round(_SHORT_SIDES[resolution] * 16 / 9), _SHORT_SIDES[resolution]
    is_wide = wanted.get("aspect_ratio", "16:9") == "16:9"
    price = _MICROS_PER_TOKEN.get(model, 17.5)
    return Wish(
        operation_id=f"v1{token_hex(16)}",
        prompt=prompt,
        model=model,
        seconds=seconds,
        width=clips.even(long) if is_wide else short,
        height=short if is_wide else clips.even(long),
        audio=True,
        cost_micros=round(_video_tokens(seconds, resolution) * price),
        project=project,
        parameters={**body, "response_format": wanted, "input": None},
    )


def _wrong_format(
    wanted: Mapping[str, JsonValue], model: str, *, on_vertex: bool
) -> Refusal | None:
    longest = _LONGEST.get(model, 10)
    lengths = {f"{seconds}s" for seconds in range(3, longest + 1)}
    if wanted.get("duration", "8s") not in lengths:
        return invalid(f"`duration` must be 3s to {longest}s.")
    if wanted.get("resolution", "720p") not in _SHARES:
        return invalid(f"`resolution` must be one of {', '.join(_SHARES)}.")
    if wanted.get("aspect_ratio", "16:9") not in {"16:9", "9:16"}:
        return invalid("`aspect_ratio` must be 16:9 or 9:16.")
    if wanted.get("delivery", "inline") not in {"inline", "uri"}:
        return invalid("`delivery` must be inline or uri.")
    if on_vertex and wanted.get("delivery") == "uri":
        bucket = wanted.get("gcs_uri")
        if not isinstance(bucket, str) or not bucket.startswith("gs://"):
            return invalid("`gcs_uri` is required for delivery by uri.")
    return None


def _prompt(given: JsonValue) -> str | Refusal:
    """The text of the input; images among it must be readable."""
    if isinstance(given, str):
        return given
    items = given if isinstance(given, list) else [given]
    texts: list[str] = []
    for item in items:
        if not isinstance(item, dict):
            return invalid("`input` must be text or a list of content.")
        match item.get("type"):
            case "text":
                texts.append(str(item.get("text") or ""))
            case "image":
                try:
                    data = base64.b64decode(str(item.get("data")), validate=True)
                except binascii.Error:
                    data = b""
                if clips.image_size(data) is None:
                    return invalid("Unable to process input image.")
            case "user_input":
                inner = _prompt(item.get("content"))
                if isinstance(inner, Refusal):
                    return inner
                texts.append(inner)
            case _:
                return invalid("`input` has content of a type that is not supported.")
    prompt = "\n".join(filter(None, texts))
    return prompt or invalid("`input` has no text.")


def _video_tokens(seconds: int, resolution: str) -> int:
    return round(seconds * TOKENS_PER_SECOND * _SHARES[resolution])


def _interaction(generation: Generation, status: str) -> dict[str, JsonValue]:
    return {
        "id": generation.id,
        "object": "interaction",
        "model": generation.wish.model,
        "status": status,
    }


def _completed(generation: Generation, video: dict[str, JsonValue]) -> dict[str, JsonValue]:
    wish = generation.wish
    wanted = wish.parameters.get("response_format")
    resolution = wanted.get("resolution", "720p") if isinstance(wanted, dict) else "720p"
    tokens = _video_tokens(wish.seconds, str(resolution))
    thought: JsonValue = {"type": "thought", "content": [{"type": "text", "text": "…"}]}
    output: JsonValue = {"type": "model_output", "content": [video]}
    usage: JsonValue = {
        "total_input_tokens": 0,
        "total_output_tokens": tokens,
        "total_thought_tokens": 0,
        "output_tokens_by_modality": [{"modality": "video", "tokens": tokens}],
    }
    answer = _interaction(generation, "completed")
    return {**answer, "usage": usage, "steps": [thought, output]}


def _failed(generation: Generation, verdict: Outcome) -> web.StreamResponse:
    """An interaction that brought no video."""
    nothing: JsonValue = {"total_input_tokens": 12, "total_output_tokens": 0}
    answer = {**_interaction(generation, "failed"), "usage": nothing}
    uri = "https://ai.google.dev/errors/"
    match verdict.name:
        case "expired":
            return refuse(not_found("Interaction not found."))
        case "cancelled":
            return json_answer({**answer, "status": "cancelled"})
        case "no-samples":
            return json_answer({**answer, "status": "completed", "steps": []})
        case "moderation" | "prompt-blocked":
            message = "The prompt was blocked by our safety filters."
            answer["errors"] = [{"code": f"{uri}content_blocked", "message": message}]
        case "filtered":
            codes = verdict.argument or "58061214"
            step: JsonValue = {
                "type": "model_output",
                "error": {"code": 3, "message": f"The video violates. Support codes: {codes}"},
            }
            answer["steps"] = [step]
        case "failed-silent":
            pass
        case "failed-message":
            answer["errors"] = [{"message": "An internal error occurred."}]
        case _:
            error: JsonValue = {"code": f"{uri}internal", "message": "An internal error occurred."}
            answer["errors"] = [error]
    return json_answer(answer)
