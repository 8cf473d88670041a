"""
Veo at the wire, on the Gemini API and on Vertex AI: two doors to one simulator, one bill.

    Gemini API   POST /v1beta/models/{model}:predictLongRunning        x-goog-api-key
                 GET  /v1beta/models/{model}/operations/{id}
                 GET  /v1beta/models
                 GET  /v1beta/files/{id}:download?alt=media            -> 302 /download/v1beta/...
    Vertex AI    POST /v1/projects/{p}/locations/{l}/publishers/google/models/{m}:predictLongRunning
                 POST ...:fetchPredictOperation {"operationName"}      bearer of the token endpoint

Vertex AI puts the clip into `storageUri` (fetched from `cloud.py`) or, without one, as base64 into
the answer of every look, streamed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from secrets import token_hex
from uuid import uuid4

import orjson
from aiohttp import web

from vidgen.job import JsonValue
from vidgen.simulator import clips, faults
from vidgen.simulator.cloud import bearer_is_good, bucket_routes, token_routes, unauthenticated
from vidgen.simulator.control import Drawn, Generation, ProviderSimulator, Wish
from vidgen.simulator.faults import Outcome, Refusal
from vidgen.simulator.google import (
    VIDEO_TYPE,
    by_token,
    deliver_clip,
    failure,
    filtered,
    gcs_uris,
    invalid,
    micros_per_second,
    not_found,
    read_clip_shape,
    read_instance,
    read_parameters,
    refuse,
    wrong_images,
)
from vidgen.simulator.wire import (
    Incoming,
    SimulatedWire,
    base64_pieces,
    clip_of,
    json_answer,
    look,
    misbehave,
    project_of,
    send,
    serve,
    submit,
)

GEMINI_MODELS = (
    "veo-3.1-generate-preview",
    "veo-3.1-fast-generate-preview",
    "veo-3.1-lite-generate-preview",
)
VERTEX_MODELS = (
    "veo-3.1-generate-001",
    "veo-3.1-fast-generate-001",
    "veo-3.1-lite-generate-001",
)
_GEMINI_PARAMETERS = frozenset(
    {
        "aspectRatio",
        "durationSeconds",
        "resolution",
        "negativePrompt",
        "personGeneration",
        "sampleCount",
        "enhancePrompt",
    }
)
_MODEL_PATH = (
    "/{version:v1|v1beta1}/projects/{project}/locations/{location}/publishers/google"
    "/models/{model:[^:/]+}"
)


def routes(simulator: ProviderSimulator, foreign: ProviderSimulator) -> list[web.RouteDef]:
    """Both doors, the bucket and the token endpoint, answered from *simulator*."""
    gemini, vertex = _GeminiServer(simulator, foreign), _VertexServer(simulator)
    operation = "/v1beta/models/{model}/operations/{id}"
    file = "/v1beta/files/{file:[a-z0-9]+}"
    return [
        web.post(
            "/v1beta/models/{model:[^:/]+}:predictLongRunning",
            serve(simulator, "submit", gemini.create),
        ),
        web.get(operation, serve(simulator, "poll", gemini.retrieve)),
        # Free and without a video, so it counts as no deed.
        web.get("/v1beta/models", serve(simulator, None, gemini.models)),
        # The first hop is no delivery yet, and so it counts as no deed.
        web.get(file + ":download", serve(simulator, None, gemini.redirect)),
        web.get("/download" + file + ":download", serve(simulator, "content", gemini.download)),
        web.post(_MODEL_PATH + ":predictLongRunning", serve(simulator, "submit", vertex.create)),
        web.post(_MODEL_PATH + ":fetchPredictOperation", serve(simulator, "poll", vertex.retrieve)),
        *bucket_routes(simulator, foreign),
        *token_routes(simulator),
    ]


SIMULATED = SimulatedWire(
    routes=routes,
    addresses=lambda simulator: {
        "GEMINI_BASE_URL": simulator.gemini_url,
        "VERTEX_BASE_URL": simulator.vertex_url,
        "GCS_BASE_URL": simulator.gcs_url,
    },
    at_root=True,
)


@dataclass(frozen=True, slots=True)
class _GeminiServer:
    simulator: ProviderSimulator
    foreign: ProviderSimulator

    async def create(self, incoming: Incoming) -> web.StreamResponse:
        project = self.project(incoming)
        if isinstance(project, Refusal):
            return refuse(project)
        wish = read_gemini_wish(incoming.json, incoming.request.match_info["model"], project)
        if isinstance(wish, Refusal):
            return refuse(wish)
        return await submit(incoming, self.simulator, wish, refuse=refuse, answer=_receipt)

    async def models(self, incoming: Incoming) -> web.StreamResponse:
        project = self.project(incoming)
        if isinstance(project, Refusal):
            return refuse(project)
        return json_answer({"models": [{"name": f"models/{name}"} for name in GEMINI_MODELS]})

    async def retrieve(self, incoming: Incoming) -> web.StreamResponse:
        project = self.project(incoming)
        if isinstance(project, Refusal):
            return refuse(project)
        name = incoming.request.path.removeprefix("/v1beta/")
        generation = self.simulator.generations.get(name)
        if generation is None or generation.wish.project != project:
            return refuse(not_found("Operation not found."))
        return await look(incoming, self.simulator, generation, refuse=refuse, answer=self.shown)

    async def shown(self, generation: Generation, drawn: Drawn) -> web.StreamResponse:
        settled = _settled(self.simulator, generation)
        if settled is not None:
            return settled
        verdict = self.simulator.settle(generation)
        samples: list[JsonValue] = [
            {"video": {"uri": f"{self.simulator.gemini_url}/files/{file}:download?alt=media"}}
            for file in _file_names(generation)
        ]
        result: dict[str, JsonValue] = {"generatedSamples": samples}
        if verdict is not None:
            count = generation.wish.samples
            result = {} if verdict.name == "no-samples" else filtered(verdict, count)
        kind = "google.ai.generativelanguage.v1beta.PredictLongRunningResponse"
        return json_answer(
            {
                "name": generation.id,
                "done": True,
                "response": {
                    "@type": f"type.googleapis.com/{kind}",
                    "generateVideoResponse": result,
                },
            }
        )

    async def redirect(self, incoming: Incoming) -> web.StreamResponse:
        found = self.file(incoming)
        if isinstance(found, Refusal):
            return refuse(found)
        return web.Response(
            status=302, headers={"Location": f"/download{incoming.request.rel_url}"}
        )

    async def download(self, incoming: Incoming) -> web.StreamResponse:
        found = self.file(incoming)
        if isinstance(found, Refusal):
            return refuse(found)
        return await deliver_clip(incoming, self.simulator, self.foreign, found)

    def file(self, incoming: Incoming) -> Generation | Refusal:
        """The generation a file name belongs to, if the key may see it and it is finished."""
        project = self.project(incoming)
        if isinstance(project, Refusal):
            return project
        name = incoming.request.match_info["file"]
        generation = by_token(self.simulator, name[:-1])
        if generation is None or not generation.is_due():
            return not_found(f"File {name} not found.")
        if generation.wish.project != project:
            message = f"You do not have permission to access the File {name} or it may not exist."
            return Refusal(status=403, message=message, word="PERMISSION_DENIED")
        return generation

    def project(self, incoming: Incoming) -> str | Refusal:
        project = project_of(self.simulator, incoming.key)
        if project is not None:
            return project
        if not incoming.key:
            message = "Method doesn't allow unregistered callers. Please use API Key."
            return Refusal(status=403, message=message, word="PERMISSION_DENIED")
        detail: JsonValue = {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": "API_KEY_INVALID",
            "domain": "googleapis.com",
        }
        message = "API key not valid. Please pass a valid API key."
        return Refusal(status=400, message=message, details=(detail,))


@dataclass(frozen=True, slots=True)
class _VertexServer:
    simulator: ProviderSimulator

    async def create(self, incoming: Incoming) -> web.StreamResponse:
        if not bearer_is_good(self.simulator, incoming):
            return refuse(unauthenticated())
        wish = read_vertex_wish(incoming.json, incoming.request.match_info)
        if isinstance(wish, Refusal):
            return refuse(wish)
        return await submit(incoming, self.simulator, wish, refuse=refuse, answer=_receipt)

    async def retrieve(self, incoming: Incoming) -> web.StreamResponse:
        if not bearer_is_good(self.simulator, incoming):
            return refuse(unauthenticated())
        name = incoming.json.get("operationName") if isinstance(incoming.json, dict) else None
        generation = self.simulator.generations.get(name) if isinstance(name, str) else None
        asked = incoming.request.path.rpartition(":")[0].partition("/projects/")[2]
        if generation is None or not generation.id.startswith(f"projects/{asked}/operations/"):
            return refuse(not_found(f"Operation {name} not found."))

        async def shown(generation: Generation, drawn: Drawn) -> web.StreamResponse:
            return await self.shown(incoming.request, generation)

        return await look(incoming, self.simulator, generation, refuse=refuse, answer=shown)

    async def shown(self, request: web.Request, generation: Generation) -> web.StreamResponse:
        settled = _settled(self.simulator, generation)
        if settled is not None:
            return settled
        wish, verdict = generation.wish, self.simulator.settle(generation)
        if verdict is not None:
            held: dict[str, JsonValue] = (
                {} if verdict.name == "no-samples" else filtered(verdict, wish.samples)
            )
            return json_answer(_vertex_done(generation, held))
        if "storageUri" in wish.parameters:
            videos: list[JsonValue] = [
                {"gcsUri": uri, "mimeType": VIDEO_TYPE} for uri in gcs_uris(generation)
            ]
            return json_answer(
                _vertex_done(generation, {"raiMediaFilteredCount": 0, "videos": videos})
            )
        return await self.inline(request, generation)

    async def inline(self, request: web.Request, generation: Generation) -> web.StreamResponse:
        """The clips as base64 within the answer, streamed: nobody holds all of it at once."""
        wish = generation.wish
        drawn = self.simulator.draw("content", prompt=wish.prompt, operation_id=generation.id)
        if drawn.outcome is not None and drawn.outcome.name not in faults.TRUNCATIONS:
            if drawn.outcome.name not in faults.DELIVERIES:
                return await misbehave(request, drawn.outcome, refuse=refuse)
            drawn = Drawn(modifiers=drawn.modifiers)  # a redirect has no meaning here
        clip = await clip_of(self.simulator, wish)
        size_bytes = max(round(drawn.number("size")), len(clip))
        mark = "CLIP"
        videos: list[JsonValue] = [
            {"bytesBase64Encoded": f"{mark}{n}", "mimeType": VIDEO_TYPE}
            for n in range(wish.samples)
        ]
        frame = orjson.dumps(
            _vertex_done(generation, {"raiMediaFilteredCount": 0, "videos": videos})
        )
        marks = [f"{mark}{n}".encode() for n in range(wish.samples)]

        def pieces() -> Iterator[bytes]:
            rest = frame
            for each in marks:
                before, _, rest = rest.partition(each)
                yield before
                yield from base64_pieces(clips.padded_pieces(clip, size_bytes))
            yield rest

        encoded_bytes = (size_bytes + 2) // 3 * 4
        total = len(frame) + sum(encoded_bytes - len(each) for each in marks)
        return await send(request, drawn, pieces(), total, content_type="application/json")


def read_gemini_wish(body: JsonValue, model: str, project: str) -> Wish | Refusal:
    """What a Gemini API submit asks for, or why it is refused; unknown parameters are refused."""
    if model not in GEMINI_MODELS:
        return not_found(
            f"models/{model} is not found for API version v1beta, or is not supported for "
            "predictLongRunning. Call ListModels to see the list of available models."
        )
    instance, parameters = read_instance(body), read_parameters(body)
    if isinstance(instance, Refusal):
        return instance
    if isinstance(parameters, Refusal):
        return parameters
    for name in parameters.keys() - _GEMINI_PARAMETERS:
        return invalid(
            f"`{name}` isn't supported by this model. Please remove it or refer to the Gemini API "
            "documentation for supported usage."
        )
    if parameters.get("sampleCount", 1) != 1:
        return invalid("The number value for `sampleCount` is out of bound. Please provide 1.")
    wrong = wrong_images(instance, gcs=False)
    if wrong is not None:
        return wrong
    name = f"models/{model}/operations/{token_hex(6)}"
    return _wish(name, model, instance, parameters, samples=1, audio=True, project=project)


def read_vertex_wish(body: JsonValue, path: Mapping[str, str]) -> Wish | Refusal:
    """What a Vertex AI submit asks for, or why it is refused: unknown parameters go unnoticed."""
    model, project, location = path["model"], path["project"], path["location"]
    resource = f"projects/{project}/locations/{location}/publishers/google/models/{model}"
    if model not in VERTEX_MODELS:
        return not_found(
            f"Publisher Model `{resource}` was not found or your project does not have access to "
            "it. Please ensure you are using a valid model version."
        )
    instance, parameters = read_instance(body), read_parameters(body)
    if isinstance(instance, Refusal):
        return instance
    if isinstance(parameters, Refusal):
        return parameters
    samples, audio = parameters.get("sampleCount", 1), parameters.get("generateAudio", True)
    if isinstance(samples, bool) or not isinstance(samples, int) or not 1 <= samples <= 4:
        return invalid("`sampleCount` must be 1 to 4.")
    if not isinstance(audio, bool):
        return invalid("`generateAudio` must be a boolean.")
    storage = parameters.get("storageUri", "gs://any")
    if not isinstance(storage, str) or not storage.startswith("gs://"):
        return invalid("`storageUri` must be a Cloud Storage URI (gs://bucket/prefix/).")
    wrong = wrong_images(instance, gcs=True)
    if wrong is not None:
        return wrong
    name = f"{resource}/operations/{uuid4()}"
    return _wish(name, model, instance, parameters, samples=samples, audio=audio, project=project)


def _wish(
    name: str,
    model: str,
    instance: Mapping[str, JsonValue],
    parameters: Mapping[str, JsonValue],
    *,
    samples: int,
    audio: bool,
    project: str,
) -> Wish | Refusal:
    shape = read_clip_shape(parameters, instance, model)
    if isinstance(shape, Refusal):
        return shape
    seconds, resolution, (width, height) = shape
    return Wish(
        operation_id=name,
        prompt=str(instance.get("prompt", "")),
        model=model,
        seconds=seconds,
        width=width,
        height=height,
        audio=audio,
        cost_micros=seconds * samples * micros_per_second(model, resolution),
        samples=samples,
        project=project,
        parameters=parameters,
    )


def _receipt(generation: Generation) -> web.StreamResponse:
    return json_answer({"name": generation.id})


def _settled(simulator: ProviderSimulator, generation: Generation) -> web.StreamResponse | None:
    """The answer to a look at what still runs or has failed; None if there is a result to show."""
    verdict: Outcome | None = simulator.settle(generation)
    if not generation.is_due():
        return _receipt(generation)
    if verdict is None:
        return None
    if verdict.name == "expired":
        return refuse(not_found("Operation not found."))
    error = failure(verdict)
    if error is None:
        return None
    return json_answer({"name": generation.id, "done": True, "error": error})


def _file_names(generation: Generation) -> list[str]:
    token = generation.id.rpartition("/")[2]
    return [f"{token}{n}" for n in range(generation.wish.samples)]


def _vertex_done(generation: Generation, result: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    kind = "type.googleapis.com/cloud.ai.large_models.vision.GenerateVideoResponse"
    return {"name": generation.id, "done": True, "response": {"@type": kind, **result}}
