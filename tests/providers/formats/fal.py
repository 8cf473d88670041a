"""fal's queue, as the conformance suite wants it told."""

import base64
from typing import Any

from vidgen.job import VideoRequest
from vidgen.providers.protocol import ImageBytes
from vidgen.testing.provider_wire import PROMPT, Format


def carries(body: dict[str, Any], image: ImageBytes) -> bool:
    encoded = base64.b64encode(image.data).decode()
    return bool(body["image_url"] == f"data:{image.content_type};base64,{encoded}")


FORMATS = (
    Format(
        name="fal",
        request=VideoRequest(
            provider="fal",
            prompt=PROMPT,
            model="fal-ai/veo3.1/fast/image-to-video",
            seconds=8,
            aspect_ratio="16:9",
            resolution="720p",
            audio=True,
        ),
        body={
            "prompt": PROMPT,
            "duration": "8s",
            "aspect_ratio": "16:9",
            "resolution": "720p",
            "generate_audio": True,
        },
        carries=carries,
        money=("429-insufficient-quota",),
    ),
)
