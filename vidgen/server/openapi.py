"""`/openapi.json`, made from the operations that are served: it cannot say anything else."""

from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from vidgen.server import access, problem
from vidgen.server.operation import (
    JSON,
    Operation,
    Schema,
    model_schema,
    or_null,
    parameters_of,
    record,
    schema_of,
)

_SENTENCES = {
    400: "The request is wrong; `detail` says what was wanted and what came.",
    401: "A token is missing or wrong.",
    402: "A budget cannot bear it; `budget` says which. Or nobody knows its price.",
    403: "The role is too low, or a page of another site asked.",
    404: "There is no such thing.",
    409: "Not possible as it stands.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    415: "The body is compressed, or no JSON by its `Content-Type`.",
    429: "Too many requests, or wrong tokens; `Retry-After` says when to come again.",
    500: "A defect of vidgen.",
    503: "PostgreSQL or Redis is away; try again.",
}
_ALWAYS = (401, 403, 429, 500, 503)
_WITH_BODY = (400, 408, 413, 415)
_SECURITY: list[Any] = [{"token": []}, {"session": []}]
_BUDGET: Schema = record(
    scope=schema_of(str),
    period=schema_of(str),
    limit_micros=schema_of(int),
    spent_micros=schema_of(int),
    reserved_micros=schema_of(int),
    wanted_micros=schema_of(int),
    frees_at=or_null({"type": "string", "format": "date-time"}),
)
_PROBLEM: Schema = record(
    type=schema_of(str),
    title=schema_of(str),
    status=schema_of(int),
    code=schema_of(str),
    detail=schema_of(str),
    success=schema_of(bool),
    message=schema_of(str),
)
_PROBLEM["properties"]["budget"] = _BUDGET  # of `budget_exceeded` only


def document(operations: Iterable[Operation]) -> dict[str, Any]:
    """The whole description, OpenAPI 3.1."""
    schemas: dict[str, Any] = {"Problem": _PROBLEM}
    paths: dict[str, Any] = {}
    for one in operations:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "vidgen",
            "version": version("vidgen"),
            "description": "Paid AI video generations: nothing is lost, nothing is paid twice.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": access.COOKIE},
            },
        },
        "security": _SECURITY,
    }


def _operation(one: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {
        "operationId": f"{one.tag}_{one.name}",
        "summary": one.summary,
        "tags": [one.tag],
        "responses": _answers(one),
    }
    if one.path in access.OPEN:
        told["security"] = [{}, *_SECURITY]
    parameters: list[Any] = []
    if "{id}" in one.path:
        parameters.append(
            {
                "name": "id",
                "in": "path",
                "required": True,
                "schema": {"type": "string", "format": "uuid"},
            }
        )
    if one.query is not None:
        parameters += parameters_of(one.query, schemas)
    if parameters:
        told["parameters"] = parameters
    if one.body is not None:
        schema = model_schema(one.body, schemas)
        schemas[one.body.__name__] = schema
        told["requestBody"] = {
            "required": bool(schema.get("required")),
            "content": {JSON: {"schema": {"$ref": f"#/components/schemas/{one.body.__name__}"}}},
        }
    return told


def _answers(one: Operation) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for status, answer in one.answers.items():
        content: dict[str, Any] = {}
        if answer.schema is not None:
            content = {answer.content_type: {"schema": answer.schema}}
        elif answer.content_type != JSON:
            content = {answer.content_type: {"schema": {"type": "string"}}}
        content |= {kind: {"schema": {"type": "string"}} for kind in answer.also}
        told[str(status)] = {"description": answer.sentence} | (
            {"content": content} if content else {}
        )
    refusals = {*one.refusals, *_ALWAYS, *(_WITH_BODY if one.body else ())}
    for status in sorted(refusals - set(one.answers)):
        told[str(status)] = {
            "description": _SENTENCES[status],
            "content": {problem.CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    return told
