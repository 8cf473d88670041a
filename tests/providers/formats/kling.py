"""Kling, as the conformance suite wants it told."""

import base64
from typing import Any

from vidgen.job import VideoRequest
from vidgen.providers.protocol import ImageBytes
from vidgen.testing.provider_wire import PROMPT, Format


class OurMark(str):
    """Equal to any mark that we put on a task."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and other.startswith("vidgen-")

    __hash__ = str.__hash__


def carries(body: dict[str, Any], image: ImageBytes) -> bool:
    return bool(body["image"] == base64.b64encode(image.data).decode())


FORMATS = (
    Format(
        name="kling",
        request=VideoRequest(
            provider="kling",
            prompt=PROMPT,
            model="kling-v3",
            seconds=8,
            aspect_ratio="16:9",
            resolution="720p",
            audio=False,
        ),
        body={
            "model_name": "kling-v3",
            "prompt": PROMPT,
            "mode": "std",
            "duration": "8",
            "aspect_ratio": "16:9",
            "sound": "off",
            "external_task_id": OurMark(),
        },
        carries=carries,
        money=("429-insufficient-quota", "429-credit-balance-exhausted"),
        operation_extra={"subpath": "text2video"},
        list_length=600,
    ),
)
