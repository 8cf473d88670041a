"""xAI's videos, as the conformance suite wants them told."""

import base64
from typing import Any

from vidgen.job import VideoRequest
from vidgen.providers.protocol import ImageBytes
from vidgen.testing.provider_wire import PROMPT, Format


def carries(body: dict[str, Any], image: ImageBytes) -> bool:
    encoded = base64.b64encode(image.data).decode()
    return bool(body["image"] == {"url": f"data:{image.content_type};base64,{encoded}"})


FORMATS = (
    Format(
        name="xai",
        request=VideoRequest(
            provider="xai",
            prompt=PROMPT,
            model="grok-imagine-video",
            seconds=8,
            aspect_ratio="16:9",
            resolution="720p",
            audio=True,
        ),
        body={
            "model": "grok-imagine-video",
            "prompt": PROMPT,
            "duration": 8,
            "aspect_ratio": "16:9",
            "resolution": "720p",
        },
        carries=carries,
        money=(
            "429-insufficient-quota",
            "429-credit-balance-exhausted",
            "429-project-spend-limit-exceeded",
        ),
    ),
)
