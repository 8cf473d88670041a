"""MiniMax in both versions, as the conformance suite wants them told."""

import base64
from typing import Any

from vidgen.job import VideoRequest
from vidgen.providers.protocol import ImageBytes
from vidgen.testing.provider_wire import PROMPT, Format

MONEY = ("429-insufficient-quota", "429-credit-balance-exhausted")


def as_url(image: ImageBytes) -> str:
    return f"data:{image.content_type};base64,{base64.b64encode(image.data).decode()}"


def in_content(body: dict[str, Any], image: ImageBytes) -> bool:
    sent = {"type": "image_url", "image_url": {"url": as_url(image)}, "role": image.role}
    return bool(body["content"][1:] == [sent])


def in_a_field(body: dict[str, Any], image: ImageBytes) -> bool:
    return bool(body["first_frame_image"] == as_url(image))


FORMATS = (
    Format(
        name="minimax",
        request=VideoRequest(
            provider="minimax",
            prompt=PROMPT,
            model="MiniMax-H3",
            seconds=8,
            aspect_ratio="16:9",
            resolution="768p",
        ),
        body={
            "model": "MiniMax-H3",
            "content": [{"type": "text", "text": PROMPT}],
            "resolution": "768P",
            "duration": 8,
            "ratio": "16:9",
        },
        carries=in_content,
        money=MONEY,
        operation_extra={"version": "v2"},
    ),
    Format(
        name="minimax-v1",
        request=VideoRequest(
            provider="minimax",
            prompt=PROMPT,
            model="MiniMax-Hailuo-2.3",
            seconds=6,
            resolution="768p",
        ),
        body={
            "model": "MiniMax-Hailuo-2.3",
            "prompt": PROMPT,
            "resolution": "768P",
            "duration": 6,
        },
        carries=in_a_field,
        money=MONEY,
        operation_extra={"version": "v1"},
    ),
)
