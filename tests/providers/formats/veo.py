"""Veo on its three ways, as the conformance suite wants them told."""

import base64
from typing import Any

from vidgen.job import JsonValue, VideoRequest
from vidgen.providers.protocol import ImageBytes
from vidgen.testing.provider_wire import HINTS, PROMPT, Format

ON_GEMINI = VideoRequest(
    provider="veo",
    prompt=PROMPT,
    model="veo-3.1-generate-preview",
    seconds=8,
    aspect_ratio="16:9",
    resolution="720p",
    audio=True,
)
ON_VERTEX = VideoRequest(
    provider="veo",
    prompt=PROMPT,
    model="veo-3.1-generate-001",
    seconds=8,
    aspect_ratio="16:9",
    resolution="720p",
    audio=True,
)
AT_VERTEX = "projects/p/locations/l/publishers/google/models/m/operations/o"
GOOGLE_HINTS = {**HINTS, "429-retry-info": ("31", 31.0)}


def body(**more: JsonValue) -> dict[str, JsonValue]:
    parameters: dict[str, JsonValue] = {
        "sampleCount": 1,
        "durationSeconds": 8,
        "aspectRatio": "16:9",
        "resolution": "720p",
    }
    return {"instances": [{"prompt": PROMPT}], "parameters": parameters | more}


def carries(body: dict[str, Any], image: ImageBytes) -> bool:
    return bool(
        body["instances"][0]["image"]
        == {
            "bytesBase64Encoded": base64.b64encode(image.data).decode(),
            "mimeType": image.content_type,
        }
    )


FORMATS = (
    Format(
        name="veo-gemini",
        request=ON_GEMINI,
        body=body(),
        carries=carries,
        unknown_words=False,
        money=("429-per-day",),
        hints=GOOGLE_HINTS,
        operation_id="models/m/operations/o",
        operation_extra={"api": "gemini"},
        result="{url}/files/f:download?alt=media",
    ),
    Format(
        name="veo-vertex-gcs",
        request=ON_VERTEX,
        body=body(generateAudio=True, storageUri="gs://studio-bucket/videos/"),
        carries=carries,
        unknown_words=False,
        settings={"VIDGEN_VEO_STORAGE_URI": "gs://studio-bucket/videos/"},
        wrong_secret='{"type": "service_account"}',
        money=("429-per-day",),
        hints=GOOGLE_HINTS,
        long_looks=True,
        renews_tokens=True,
        operation_id=AT_VERTEX,
        result="gs://bucket/video.mp4",
        twin=True,
    ),
    Format(
        name="veo-vertex-inline",
        request=ON_VERTEX,
        body=body(generateAudio=True),
        carries=carries,
        unknown_words=False,
        wrong_secret='{"type": "service_account"}',
        money=("429-per-day",),
        hints=GOOGLE_HINTS,
        inline=True,
        long_looks=True,
        renews_tokens=True,
        operation_id=AT_VERTEX,
        result="inline:0",
    ),
)
