"""Luma's Dream Machine API, as the conformance suite wants it told."""

from vidgen.job import VideoRequest
from vidgen.testing.provider_wire import PROMPT, Format

FORMATS = (
    Format(
        name="luma",
        request=VideoRequest(
            provider="luma",
            prompt=PROMPT,
            model="ray-2",
            seconds=5,
            aspect_ratio="16:9",
            resolution="720p",
        ),
        body={
            "generation_type": "video",
            "model": "ray-2",
            "prompt": PROMPT,
            "aspect_ratio": "16:9",
            "resolution": "720p",
            "duration": "5s",
        },
        carries=None,
        money=("429-insufficient-quota", "429-credit-balance-exhausted"),
    ),
)
