"""Wan on DashScope, as the conformance suite wants it told."""

from typing import Any

from tests.providers.formats.minimax import as_url
from vidgen.job import VideoRequest
from vidgen.providers.protocol import ImageBytes
from vidgen.testing.provider_wire import PROMPT, Format


def carries(body: dict[str, Any], image: ImageBytes) -> bool:
    return bool(body["input"]["media"] == [{"type": image.role, "url": as_url(image)}])


FORMATS = (
    Format(
        name="wan",
        request=VideoRequest(
            provider="wan",
            prompt=PROMPT,
            model="wan3.0-video",
            seconds=8,
            aspect_ratio="16:9",
            resolution="720p",
            audio=True,
        ),
        body={
            "model": "wan3.0-video",
            "input": {"prompt": PROMPT},
            "parameters": {"resolution": "720P", "ratio": "16:9", "duration": 8, "audio": True},
        },
        carries=carries,
        money=("429-insufficient-quota", "429-credit-balance-exhausted"),
    ),
)
