"""
What a create of the OpenAI Videos protocol asks for, checked as its servers check it.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Literal

from vidgen.job import JsonValue
from vidgen.simulator import clips
from vidgen.simulator.control import Wish
from vidgen.simulator.faults import Refusal
from vidgen.simulator.wire import Incoming

_SMALL = frozenset({"720x1280", "1280x720"})
_LARGE = _SMALL | {"1024x1792", "1792x1024", "1080x1920", "1920x1080"}
_PRO = ("sora-2-pro", "sora-2-pro-2025-10-06")
_SIZES: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(("sora-2", "sora-2-2025-10-06", "sora-2-2025-12-08"), _SMALL),
    **dict.fromkeys(_PRO, _LARGE),
}
_SECONDS = ("4", "8", "12", "16", "20")
_PROMPT_LIMIT = 32_000
_MICROS_PER_SECOND = {"720": 300_000, "1024": 500_000, "1080": 700_000}  # of pro; plain: 0.10 USD
_IMAGES = frozenset({"image/jpeg", "image/png", "image/webp"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """
    Where a server differs from api.openai.com.

    Attributes:
        strict: Models, seconds and sizes are OpenAI's; else any plausible ones go.
        words: Its words for ours, where they are not the same.
        not_ready: The status of content asked for too early.
    """

    name: Literal["openai", "azure", "sglang", "vllm-omni", "openrouter", "new-api"]
    strict: bool = False
    takes_json: bool = True
    id_prefix: str = "video_"
    created_status: int = 200
    words: Mapping[str, str] = field(default_factory=dict)
    not_ready: int = 404
    has_variants: bool = True


DIALECTS: Mapping[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        Dialect(name="openai", strict=True),
        Dialect(name="azure"),
        Dialect(name="sglang", has_variants=False),
        Dialect(name="vllm-omni", takes_json=False, id_prefix="video_gen_", has_variants=False),
        Dialect(
            name="openrouter",
            id_prefix="gen-vid-",
            created_status=202,
            words={"queued": "pending"},
            not_ready=400,
            has_variants=False,
        ),
        Dialect(
            name="new-api",
            id_prefix="task_",
            created_status=202,
            words={"in_progress": "processing"},
            not_ready=409,
            has_variants=False,
        ),
    )
}


def read_page(query: Mapping[str, str]) -> tuple[int, str, str] | Refusal:
    """Limit, order and the id to go on after."""
    limit, order = query.get("limit", "20"), query.get("order", "desc")
    if not limit.isdecimal() or int(limit) > 100:
        return invalid("limit", "an integer from 0 to 100")
    if order not in {"asc", "desc"}:
        return invalid("order", "'asc' or 'desc'")
    return int(limit), order, query.get("after", "")


def read_wish(incoming: Incoming, dialect: Dialect, project: str) -> Wish | Refusal:
    """What a create asks for, or why it is refused."""
    fields = _fields(incoming, dialect)
    if isinstance(fields, Refusal):
        return fields
    prompt, model = fields.get("prompt"), fields.get("model", "sora-2")
    if not isinstance(prompt, str) or not prompt:
        return _missing("prompt")
    if len(prompt) > _PROMPT_LIMIT:
        return invalid("prompt", f"a string of at most {_PROMPT_LIMIT} characters")
    if not isinstance(model, str) or (dialect.strict and model not in _SIZES):
        return Refusal(
            status=404,
            message=f"The model '{model}' does not exist or you do not have access to it.",
            code="model_not_found",
            word="NOT_FOUND",
        )
    seconds = _seconds(fields.get("seconds", "4"), dialect)
    size = _size(fields.get("size", "720x1280"), model, dialect)
    if isinstance(seconds, Refusal):
        return seconds
    if isinstance(size, Refusal):
        return size
    wrong = _wrong_image(incoming, fields, size) or _wrong_characters(fields)
    if wrong is not None:
        return wrong
    return Wish(
        operation_id=dialect.id_prefix + token_hex(24),
        prompt=prompt,
        model=model,
        seconds=seconds,
        width=size[0],
        height=size[1],
        audio=True,
        cost_micros=seconds * _micros_per_second(model, size),
        project=project,
        parameters={
            name: value for name, value in fields.items() if name not in {"prompt", "model"}
        },
    )


def _fields(incoming: Incoming, dialect: Dialect) -> dict[str, JsonValue] | Refusal:
    """The create's fields, bracketed form keys (`input_reference[image_url]`) put back together."""
    if incoming.fields is None:
        if not dialect.takes_json:
            return Refusal(status=422, message="Expected multipart/form-data.")
        if not isinstance(incoming.json, dict):
            return Refusal(status=400, message="We could not parse the JSON body of your request.")
        return dict(incoming.json)
    fields: dict[str, JsonValue] = {}
    for name, value in incoming.fields.items():
        nested = re.fullmatch(r"(\w+)\[(\w+)\]", name)
        if nested is None:
            fields[name] = value
        else:
            inner = fields.setdefault(nested[1], {})
            if isinstance(inner, dict):
                inner[nested[2]] = value
    return fields


def _seconds(value: JsonValue, dialect: Dialect) -> int | Refusal:
    if dialect.strict:
        if not isinstance(value, str):
            wanted = ", ".join(f"'{choice}'" for choice in _SECONDS)
            return Refusal(
                status=400,
                message=f"Invalid type for 'seconds': expected one of {wanted}, "
                f"but got {type(value).__name__} instead.",
                code="invalid_type",
                param="seconds",
            )
        return int(value) if value in _SECONDS else invalid("seconds", f"one of {_SECONDS}")
    text = str(value)
    return (
        int(text) if text.isdecimal() and 0 < int(text) <= 120 else invalid("seconds", "1 to 120")
    )


def _size(value: JsonValue, model: str, dialect: Dialect) -> tuple[int, int] | Refusal:
    allowed = _SIZES.get(model, frozenset()) if dialect.strict else None
    found = re.fullmatch(r"(\d{2,4})x(\d{2,4})", str(value))
    if found is None or (allowed is not None and value not in allowed):
        return invalid("size", f"one of {', '.join(sorted(allowed or _LARGE))}")
    return int(found[1]) // 2 * 2, int(found[2]) // 2 * 2  # H.264 wants even ones


def _wrong_image(
    incoming: Incoming, fields: Mapping[str, JsonValue], size: tuple[int, int]
) -> Refusal | None:
    """What is wrong with the reference image; None if there is none or it is fine."""
    file, reference = incoming.files.get("input_reference"), fields.get("input_reference")
    data: bytes | None = None
    if file is not None:
        if file.content_type not in _IMAGES:
            return invalid("input_reference", "an image/jpeg, image/png or image/webp file")
        data = file.data
    elif isinstance(reference, dict):
        if len(reference.keys() & {"image_url", "file_id"}) != 1:
            return invalid("input_reference", "an object with exactly one of image_url, file_id")
        data = _data_url(reference.get("image_url"))
    elif reference is not None:
        return invalid("input_reference", "a file or an object")
    if data is None:
        return None
    found = clips.image_size(data)
    if found is None:
        return invalid("input_reference", "a readable image")
    if found != size:
        return Refusal(
            status=400, message="Inpaint image must match the requested width and height"
        )
    return None


def _data_url(value: JsonValue) -> bytes | None:
    """The bytes of a data URL, unreadable ones as no bytes; None for any other address."""
    if not isinstance(value, str) or not value.startswith("data:"):
        return None
    try:
        return base64.b64decode(value.partition(",")[2], validate=True)
    except binascii.Error:
        return b""


def _wrong_characters(fields: Mapping[str, JsonValue]) -> Refusal | None:
    characters = fields.get("characters")
    if characters is None or (isinstance(characters, list) and len(characters) <= 2):
        return None
    return invalid("characters", "an array of at most 2 objects")


def _micros_per_second(model: str, size: tuple[int, int]) -> int:
    return _MICROS_PER_SECOND.get(str(min(size)), 300_000) if model in _PRO else 100_000


def _missing(param: str) -> Refusal:
    return Refusal(
        status=400,
        message=f"Missing required parameter: '{param}'.",
        code="missing_required_parameter",
        param=param,
    )


def invalid(param: str, wanted: str) -> Refusal:
    """400 for *param*, with what it should have been."""
    return Refusal(
        status=400,
        message=f"Invalid value for '{param}': expected {wanted}.",
        code="invalid_value",
        param=param,
    )
