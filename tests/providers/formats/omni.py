"""Gemini Omni on its ways, as the conformance suite wants them told."""

import base64
from typing import Any

from tests.providers.formats.veo import GOOGLE_HINTS
from vidgen.job import JsonValue, VideoRequest
from vidgen.providers.protocol import ImageBytes
from vidgen.testing.provider_wire import PROMPT, Format

BUCKET = "gs://studio-bucket/videos/"
ON_GEMINI = VideoRequest(
    provider="omni",
    prompt=PROMPT,
    model="gemini-omni-1.1-flash",
    seconds=8,
    aspect_ratio="16:9",
    resolution="720p",
    audio=True,
)
ON_VERTEX = VideoRequest(
    provider="omni",
    prompt=PROMPT,
    model="gemini-omni-1.2-flash",
    seconds=8,
    aspect_ratio="16:9",
    resolution="720p",
    audio=True,
)


def body(model: str | None, **more: JsonValue) -> dict[str, JsonValue]:
    wanted: dict[str, JsonValue] = {
        "type": "video",
        "aspect_ratio": "16:9",
        "resolution": "720p",
        "duration": "8s",
    }
    return {
        "model": model,
        "input": [{"type": "text", "text": PROMPT}],
        "response_format": wanted | more,
        "generation_config": {"video_config": {"task": "text_to_video"}},
        "background": True,
        "store": True,
    }


def carries(body: dict[str, Any], image: ImageBytes) -> bool:
    same = bool(
        body["input"][0]
        == {
            "type": "image",
            "mime_type": image.content_type,
            "data": base64.b64encode(image.data).decode(),
        }
    )
    return same and bool(body["generation_config"]["video_config"]["task"] == "image_to_video")


FORMATS = (
    Format(
        name="omni-gemini",
        request=ON_GEMINI,
        body=body(ON_GEMINI.model, delivery="uri"),
        carries=carries,
        money=("429-per-day",),
        hints=GOOGLE_HINTS,
        inline=True,
        operation_id="v1_1",
        operation_extra={"api": "gemini"},
        result="inline:0",
        long_looks=True,
        long_receipts=True,
    ),
    # A server that does not take `background`: the receipt is the result.
    Format(
        name="omni-gemini-at-once",
        request=ON_GEMINI,
        body=body(ON_GEMINI.model, delivery="uri"),
        carries=carries,
        dialect="synchronous",
        looks_deliver=True,
        at_once=True,
        money=("429-per-day",),
        hints=GOOGLE_HINTS,
        operation_id="v1_1",
        operation_extra={"api": "gemini"},
        result="{url}/files/f:download?alt=media",
        twin=True,
        long_looks=True,
        long_receipts=True,
    ),
    Format(
        name="omni-vertex-gcs",
        request=ON_VERTEX,
        body=body(ON_VERTEX.model, delivery="uri", gcs_uri=BUCKET),
        carries=carries,
        settings={"VIDGEN_VEO_STORAGE_URI": BUCKET},
        wrong_secret='{"type": "service_account"}',
        money=("429-per-day",),
        hints=GOOGLE_HINTS,
        operation_id="v1_1",
        operation_extra={"api": "vertex", "project": "p"},
        result="gs://bucket/video.mp4",
        twin=True,
        long_looks=True,
        long_receipts=True,
        renews_tokens=True,
    ),
    Format(
        name="omni-vertex-inline",
        request=ON_VERTEX,
        body=body(ON_VERTEX.model),
        carries=carries,
        wrong_secret='{"type": "service_account"}',
        money=("429-per-day",),
        hints=GOOGLE_HINTS,
        inline=True,
        operation_id="v1_1",
        operation_extra={"api": "vertex", "project": "p"},
        result="inline:0",
        long_looks=True,
        long_receipts=True,
        renews_tokens=True,
    ),
)
