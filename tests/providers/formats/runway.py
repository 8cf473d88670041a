"""Runway's API, as the conformance suite wants it told."""

import base64
from typing import Any

from vidgen.job import VideoRequest
from vidgen.providers.protocol import ImageBytes
from vidgen.testing.provider_wire import PROMPT, Format


def carries(body: dict[str, Any], image: ImageBytes) -> bool:
    data = f"data:{image.content_type};base64,{base64.b64encode(image.data).decode()}"
    return bool(body["promptImage"] == [{"uri": data, "position": "first"}])


FORMATS = (
    Format(
        name="runway",
        request=VideoRequest(
            provider="runway", prompt=PROMPT, model="gen4.5", seconds=8, size="1280x720"
        ),
        body={"model": "gen4.5", "promptText": PROMPT, "duration": 8, "ratio": "1280:720"},
        carries=carries,
        money=("429-insufficient-quota", "429-credit-balance-exhausted"),
    ),
)
