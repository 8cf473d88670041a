"""
What the API offers, said once: each operation declares what it takes and answers, the router and
`/openapi.json` are made from that.
"""

import dataclasses
import types
import typing
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import Enum
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints
from uuid import UUID

import orjson
from aiohttp import web
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from vidgen.document import json_value
from vidgen.errors import InvalidRequestError
from vidgen.job import JsonValue
from vidgen.server import body

M = TypeVar("M", bound=BaseModel)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Schema = dict[str, Any]

JSON = "application/json"
MAX_PROBLEMS = 5


def _written(value: object) -> object:
    if isinstance(value, str) and value[:4].isdigit() and "T" in value.upper():
        return value
    raise ValueError("a moment is wanted as 2026-12-24T18:00:00Z")


# asyncpg and PostgreSQL take no null character in a text.
Text = Annotated[str, Field(max_length=255, pattern=r"^[^\x00]*$")]
# Numbers would be taken for seconds since 1970.
Moment = Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_written)]


class Query(BaseModel):
    """What may stand behind a question mark; what nobody knows is refused, lest it be missed."""

    model_config = ConfigDict(extra="forbid")


class Body(BaseModel):
    """What a JSON body may hold: each field in its own type, and no other one."""

    model_config = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """
    One answer an operation may give.

    Attributes:
        schema: Of its JSON; None without any.
        content_type: Of what is not JSON.
        also: Other types that a client may ask for, as text.
    """

    sentence: str
    schema: Schema | None = None
    content_type: str = JSON
    also: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """
    One method of one path.

    Attributes:
        query: What may stand behind the question mark.
        body: What the JSON body has to be.
        answers: By status, beside those that every operation may give.
        refusals: Statuses of problems it may answer with.
    """

    method: str
    path: str
    name: str
    summary: str
    handler: Handler
    tag: str
    query: type[Query] | None = None
    body: type[Body] | None = None
    answers: Mapping[int, Answer] = field(default_factory=dict)
    refusals: Sequence[int] = ()


class Operations:
    """The operations of one module, in the order of their declaration."""

    def __init__(self, tag: str) -> None:
        """Under the heading *tag* in the documentation."""
        self._tag = tag
        self._all: list[Operation] = []

    def __iter__(self) -> Iterator[Operation]:
        """Each of them."""
        return iter(self._all)

    def add(
        self,
        method: Literal["GET", "POST", "PUT", "DELETE"],
        path: str,
        *,
        query: type[Query] | None = None,
        body: type[Body] | None = None,
        answers: Mapping[int, Answer],
        refusals: Sequence[int] = (),
    ) -> Callable[[Handler], Handler]:
        """Declare the function below as what answers *method* at *path*."""

        def declare(handler: Handler) -> Handler:
            self._all.append(
                Operation(
                    method=method,
                    path=path,
                    name=getattr(handler, "__name__", path),
                    summary=" ".join((handler.__doc__ or "").split()),
                    handler=handler,
                    tag=self._tag,
                    query=query,
                    body=body,
                    answers=answers,
                    refusals=refusals,
                )
            )
            return handler

        return declare

    def routes(self) -> list[web.RouteDef]:
        """For the router of aiohttp."""
        return [web.route(one.method, one.path, one.handler) for one in self._all]


def read_query(request: web.Request, model: type[M]) -> M:
    """
    What stands behind the question mark, checked.

    Raises:
        InvalidRequestError: With what is wrong, at most the first few.
    """
    return _checked(model, dict(request.query), "query")


async def read_body(request: web.Request, model: type[M], max_bytes: int = body.SMALL_BYTES) -> M:
    """
    The JSON body, checked; an empty one is `{}`.

    Raises:
        InvalidRequestError: With what is wrong, at most the first few.
        web.HTTPException: It is too long, comes too slowly, or is no JSON by what is said of it;
            see `body.read`.
    """
    data = await body.read(request, max_bytes, content_type=JSON)
    try:
        document = orjson.loads(data) if data else {}
    except orjson.JSONDecodeError as error:
        raise InvalidRequestError(f"the body is no JSON: {error}") from error
    return _checked(model, document, "body")


def read_id(request: web.Request) -> UUID:
    """
    The id in the path.

    Raises:
        InvalidRequestError: It is none.
    """
    text = request.match_info["id"]
    try:
        return UUID(text)
    except ValueError as error:
        raise InvalidRequestError(f"an id is a UUID, not {text[:50]!r}") from error


def answer(document: object, *, status: int = 200, **headers: str) -> web.Response:
    """*document*, which may hold values of ours, as JSON."""
    return web.Response(
        status=status,
        body=orjson.dumps(json_value(document)),
        content_type=JSON,
        headers={"Cache-Control": "no-store", **headers},
    )


def _checked(model: type[M], document: object, place: str) -> M:
    try:
        return model.model_validate(document)
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in detail['loc']) or place}: {detail['msg']}"
            for detail in error.errors(include_url=False, include_input=False)[:MAX_PROBLEMS]
        ]
        raise InvalidRequestError(
            f"the {place} is not as it should be: " + "; ".join(problems)
        ) from error


# --- schemas --------------------------------------------------------------------------------------


def object_of(kind: type[Any], *, without: frozenset[str] = frozenset(), **more: Schema) -> Schema:
    """The schema of a document with the fields of the dataclass *kind*, and *more*."""
    hints = get_type_hints(kind)
    properties = {
        each.name: schema_of(hints[each.name])
        for each in dataclasses.fields(kind)
        if each.name not in without
    }
    return record(**properties, **more)


def record(**properties: Schema) -> Schema:
    """The schema of a document that has all of *properties* and nothing else."""
    return {
        "type": "object",
        "properties": properties,
        "required": sorted(properties),
        "additionalProperties": False,
    }


def list_of(items: Schema) -> Schema:
    """The schema of a list."""
    return {"type": "array", "items": items}


def or_null(schema: Schema) -> Schema:
    """The same, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


_PLAIN: Mapping[Any, Schema] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    type(None): {"type": "null"},
    UUID: {"type": "string", "format": "uuid"},
    datetime: {"type": "string", "format": "date-time"},
    date: {"type": "string", "format": "date"},
}


def schema_of(hint: Any) -> Schema:
    """The schema of what a field annotated by *hint* is in JSON (see `document.json_value`)."""
    if hint in _PLAIN:
        return dict(_PLAIN[hint])
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in {typing.Union, types.UnionType}:
        return {"anyOf": [schema_of(each) for each in arguments]}
    if origin is not None and issubclass(origin, Mapping):
        return {"type": "object"}
    if origin is not None and issubclass(origin, Sequence):
        return list_of(schema_of(arguments[0]))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return {"enum": [each.value for each in hint]}
    assert dataclasses.is_dataclass(hint), f"{hint} has no form in JSON"
    return object_of(hint)  # type: ignore[arg-type]  # a class, not one of its values


def model_schema(model: type[BaseModel], schemas: Schema) -> Schema:
    """The schema of *model*; what it refers to is put into *schemas*."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= schema.pop("$defs", {})
    return schema


def parameters_of(model: type[Query], schemas: Schema) -> list[JsonValue]:
    """The fields of *model* as query parameters; what they refer to is put into *schemas*."""
    schema = model_schema(model, schemas)
    required = schema.get("required", [])
    return [
        {
            "name": name,
            "in": "query",
            "required": name in required,
            "schema": {key: value for key, value in each.items() if key != "title"},
            "description": each.get("description", ""),
        }
        for name, each in schema["properties"].items()
    ]
