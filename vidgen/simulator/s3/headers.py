"""What headers ask of an object and tell about it: facts, conditions, ranges."""

import re
from collections.abc import Mapping

from aiohttp import web

from vidgen.simulator.s3.disk import Facts, Object, Precondition
from vidgen.simulator.s3.wire import S3Error, http_date, parse_http_date

_KEPT = (
    "Content-Type",
    "Cache-Control",
    "Content-Disposition",
    "Content-Encoding",
    "Content-Language",
    "Expires",
)
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_METADATA = "x-amz-meta-"
MAX_METADATA_BYTES = 2048


def facts(headers: Mapping[str, str], checksums: Mapping[str, str]) -> Facts:
    """
    Collect what is kept with an object.

    Raises:
        S3Error: More than 2 KiB of metadata.
    """
    lower = {name.lower(): value for name, value in headers.items()}
    kept = {name: lower[name.lower()] for name in _KEPT if name.lower() in lower}
    coding = kept.get("Content-Encoding", "").replace("aws-chunked", "").strip(", ")
    if coding:
        kept["Content-Encoding"] = coding
    else:
        kept.pop("Content-Encoding", None)
    metadata = {n.removeprefix(_METADATA): v for n, v in lower.items() if n.startswith(_METADATA)}
    if sum(len(name) + len(value) for name, value in metadata.items()) > MAX_METADATA_BYTES:
        raise S3Error(400, "MetadataTooLarge", "At most 2 KiB of metadata.")
    return Facts(headers=kept, metadata=metadata, checksums=checksums)


def precondition(headers: Mapping[str, str]) -> Precondition:
    """What a write demands of the object that is there before it."""
    match, none_match = headers.get("If-Match"), headers.get("If-None-Match")

    def condition(before: Object | None) -> None:
        if none_match is not None and before is not None and _names(none_match, before):
            raise S3Error(412, "PreconditionFailed", "If-None-Match did not hold.")
        if match is not None and before is None:
            raise S3Error(404, "NoSuchKey", "If-Match wants an object that is there.")
        if match is not None and before is not None and not _names(match, before):
            raise S3Error(412, "PreconditionFailed", "If-Match did not hold.")

    return condition


def is_unchanged(headers: Mapping[str, str], found: Object) -> bool:
    """
    Whether the reader has this object already (304).

    Raises:
        S3Error: The reader wants another one (412).
    """
    at = found.modified_at.replace(microsecond=0)
    match, none_match = headers.get("If-Match"), headers.get("If-None-Match")
    since = parse_http_date(headers.get("If-Modified-Since", ""))
    until = parse_http_date(headers.get("If-Unmodified-Since", ""))
    if match is not None:
        if not _names(match, found):
            raise S3Error(412, "PreconditionFailed", "If-Match did not hold.")
    elif until is not None and at > until:
        raise S3Error(412, "PreconditionFailed", "If-Unmodified-Since did not hold.")
    if none_match is not None:
        return _names(none_match, found)
    return since is not None and at <= since


def section(wanted: str, size_bytes: int) -> tuple[int, int] | None:
    """
    Where a range starts and ends (exclusive); None when it is not one, which HTTP says to ignore.

    Raises:
        S3Error: It lies outside of the object (416).
    """
    match = _RANGE.fullmatch(wanted.strip())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if first:
        start, end = int(first), int(last) + 1 if last else size_bytes
        if end <= start:
            return None if last and int(last) < start else _unsatisfiable(size_bytes)
    else:
        start, end = max(0, size_bytes - int(last)), size_bytes
    if start >= min(end, size_bytes):
        return _unsatisfiable(size_bytes)
    return start, min(end, size_bytes)


def describe(found: Object, query: Mapping[str, str], *, is_signed: bool) -> dict[str, str]:
    """The headers that tell about *found*, with what the signed query overrides."""
    headers = {
        "Content-Type": "binary/octet-stream",
        **found.facts.headers,
        **{f"{_METADATA}{name}": value for name, value in found.facts.metadata.items()},
        "ETag": f'"{found.etag}"',
        "Last-Modified": http_date(found.modified_at),
        "Accept-Ranges": "bytes",
    }
    for name in _KEPT:
        value = query.get(f"response-{name.lower()}")
        if value is not None and is_signed:
            headers[name] = value
    return headers


def allow_reading_elsewhere(answer: web.StreamResponse) -> None:
    """Let pages of any origin read: what is signed may be read by whoever holds the address."""
    answer.headers["Access-Control-Allow-Origin"] = "*"
    answer.headers["Access-Control-Expose-Headers"] = (
        "Accept-Ranges, Content-Length, Content-Range, Content-Type, ETag, Last-Modified"
    )


def _names(tags: str, found: Object) -> bool:
    """Whether an If-(None-)Match header names this object."""
    return tags.strip() == "*" or found.etag in {
        tag.strip().removeprefix("W/").strip('"') for tag in tags.split(",")
    }


def _unsatisfiable(size_bytes: int) -> tuple[int, int]:
    raise S3Error(
        416,
        "InvalidRange",
        "The requested range is not satisfiable",
        headers={"Content-Range": f"bytes */{size_bytes}"},
    )
