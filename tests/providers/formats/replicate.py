"""Replicate's API, as the conformance suite wants it told."""

import base64
from typing import Any

from vidgen.job import VideoRequest
from vidgen.providers.protocol import ImageBytes
from vidgen.testing.provider_wire import PROMPT, Format


def carries(body: dict[str, Any], image: ImageBytes) -> bool:
    data = f"data:{image.content_type};base64,{base64.b64encode(image.data).decode()}"
    return bool(body["input"]["image"] == data)


FORMATS = (
    Format(
        name="replicate",
        request=VideoRequest(
            provider="replicate",
            prompt=PROMPT,
            model="bytedance/seedance-1-pro",
            seconds=8,
            aspect_ratio="16:9",
            resolution="720p",
        ),
        body={
            "input": {
                "prompt": PROMPT,
                "duration": 8,
                "aspect_ratio": "16:9",
                "resolution": "720p",
            }
        },
        carries=carries,
        money=("429-insufficient-quota", "429-credit-balance-exhausted"),
    ),
)
