"""What a refused request is told: `application/problem+json` (RFC 9457) with a stable code."""

from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType

import orjson
from aiohttp import web

from vidgen.document import json_value
from vidgen.job import JsonValue

CONTENT_TYPE = "application/problem+json"


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    members: Mapping[str, object] = MappingProxyType({}),
    **headers: str,
) -> web.Response:
    """
    An answer that says what was wanted and what came.

    *members* are more of its own, for programs. `success` and `message` are what the first three
    endpoints have always said.
    """
    document: dict[str, JsonValue] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
        "success": False,
        "message": detail,
        **{name: json_value(value) for name, value in members.items()},
    }
    return web.Response(
        status=status,
        body=orjson.dumps(document),
        content_type=CONTENT_TYPE,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )
