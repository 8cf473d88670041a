"""The OpenAI Videos protocol, as the conformance suite wants it told."""

import hashlib
from typing import Any

from vidgen.job import VideoRequest
from vidgen.providers.protocol import ImageBytes
from vidgen.testing.provider_wire import PROMPT, Format


def carries(body: dict[str, Any], image: ImageBytes) -> bool:
    sent = body["input_reference"]
    same = sent["sha256"] == hashlib.sha256(image.data).hexdigest()
    return bool(same and sent["content_type"] == image.content_type)


FORMATS = (
    Format(
        name="sora",
        request=VideoRequest(
            provider="sora", prompt=PROMPT, model="sora-2", seconds=8, size="1280x720"
        ),
        body={"model": "sora-2", "prompt": PROMPT, "seconds": "8", "size": "1280x720"},
        carries=carries,
        money=(
            "429-insufficient-quota",
            "429-credit-balance-exhausted",
            "429-project-spend-limit-exceeded",
        ),
        not_ready=("404", "409", "400"),
        operation_id="video_1",
        result="video",
    ),
)
