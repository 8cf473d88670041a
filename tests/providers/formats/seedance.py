"""Seedance on Ark, as the conformance suite wants it told."""

from tests.providers.formats.minimax import in_content
from vidgen.job import VideoRequest
from vidgen.testing.provider_wire import PROMPT, Format

FORMATS = (
    Format(
        name="seedance",
        request=VideoRequest(
            provider="seedance",
            prompt=PROMPT,
            model="dreamina-seedance-2-0-260128",
            seconds=8,
            aspect_ratio="16:9",
            resolution="720p",
            audio=True,
        ),
        body={
            "model": "dreamina-seedance-2-0-260128",
            "content": [{"type": "text", "text": PROMPT}],
            "resolution": "720p",
            "ratio": "16:9",
            "duration": 8,
            "generate_audio": True,
        },
        carries=in_content,
        money=("429-insufficient-quota", "429-credit-balance-exhausted"),
    ),
)
