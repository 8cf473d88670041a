"""What S3 looks like on the wire: errors, XML both ways, dates, and the names of its operations."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
BUCKET_NAME = re.compile(r"(?!\d+\.\d+\.\d+\.\d+$)[a-z0-9](?:[a-z0-9.-]{1,61})[a-z0-9]")

# Subresources of S3 that are not here; silence about them would look like success.
UNSUPPORTED = frozenset(
    {
        "accelerate",
        "acl",
        "analytics",
        "attributes",
        "encryption",
        "intelligent-tiering",
        "inventory",
        "legal-hold",
        "logging",
        "metrics",
        "notification",
        "object-lock",
        "ownershipControls",
        "policy",
        "policyStatus",
        "publicAccessBlock",
        "replication",
        "requestPayment",
        "restore",
        "retention",
        "select",
        "torrent",
        "versionId",
        "versions",
        "website",
    }
)
CONFIGURATIONS = {"lifecycle": "Lifecycle", "cors": "Cors", "tagging": "Tagging"}


class S3Error(Exception):
    """One refusal, as S3 words it."""

    def __init__(
        self, status: int, code: str, message: str = "", *, headers: Mapping[str, str] | None = None
    ) -> None:
        """Keep what the answer needs."""
        super().__init__(f"{code}: {message}")
        self.status = status
        self.code = code
        self.message = message or code
        self.headers = dict(headers or {})


def operation(method: str, bucket: str, key: str, query: Mapping[str, str]) -> str:
    """
    Name what a request asks for, e.g. `PutObject`.

    Raises:
        S3Error: Nothing that is here (501), or a method that does not fit (405).
    """
    if UNSUPPORTED & query.keys():
        raise S3Error(501, "NotImplemented", "This server has no such subresource.")
    kind = "object" if key else "bucket" if bucket else "service"
    match kind, method:
        case "service", "GET":
            return "ListBuckets"
        case "bucket", _:
            name = _bucket_operation(method, query)
        case "object", _:
            name = _object_operation(method, query)
        case _:
            name = ""
    if not name:
        raise S3Error(405, "MethodNotAllowed", "The method does not fit the resource.")
    return name


def _bucket_operation(method: str, query: Mapping[str, str]) -> str:
    verb = {"GET": "Get", "PUT": "Put", "DELETE": "Delete"}.get(method)
    for subresource, name in CONFIGURATIONS.items():
        if subresource in query:
            return f"{verb}Bucket{name}" if verb else ""
    if method == "GET":
        for subresource, name in (
            ("location", "GetBucketLocation"),
            ("uploads", "ListMultipartUploads"),
            ("versioning", "GetBucketVersioning"),
        ):
            if subresource in query:
                return name
        return "ListObjectsV2" if query.get("list-type") == "2" else "ListObjects"
    if method == "POST":
        return "DeleteObjects" if "delete" in query else "PostObject"
    return {"PUT": "CreateBucket", "DELETE": "DeleteBucket", "HEAD": "HeadBucket"}.get(method, "")


def _object_operation(method: str, query: Mapping[str, str]) -> str:
    verb = {"GET": "Get", "PUT": "Put", "DELETE": "Delete"}.get(method)
    if "tagging" in query:
        return f"{verb}ObjectTagging" if verb else ""
    if method == "POST":
        if "uploads" in query:
            return "CreateMultipartUpload"
        return "CompleteMultipartUpload" if "uploadId" in query else ""
    if "uploadId" in query:
        names = {"PUT": "UploadPart", "GET": "ListParts", "DELETE": "AbortMultipartUpload"}
        return names.get(method, "")
    return f"{verb}Object" if verb else "HeadObject" if method == "HEAD" else ""


def render(root: str, content: object) -> bytes:
    """Write XML: a mapping becomes elements, a sequence repeats one, None leaves it out."""
    body = _elements(root, content).replace(f"<{root}>", f'<{root} xmlns="{NAMESPACE}">', 1)
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + body.encode()


def _elements(name: str, content: object) -> str:
    match content:
        case None:
            return ""
        case Mapping():
            inner = "".join(_elements(str(key), value) for key, value in content.items())
            return f"<{name}>{inner}</{name}>"
        case str():
            return f"<{name}>{escape(content)}</{name}>"
        case bool():
            return f"<{name}>{'true' if content else 'false'}</{name}>"
        case Sequence():
            return "".join(_elements(name, one) for one in content)
        case datetime():
            return f"<{name}>{iso(content)}</{name}>"
        case _:
            return f"<{name}>{content}</{name}>"


def parse(body: bytes) -> "ElementTree.Element[str]":
    """
    Read an XML body, with the namespaces taken off its tags.

    Raises:
        S3Error: Not XML, or with a document type: entities are never expanded.
    """
    try:
        text = body.decode("utf-8-sig")
        if "<!DOCTYPE" in text.upper():
            raise S3Error(400, "MalformedXML", "A document type is not allowed.")
        root = ElementTree.fromstring(text)  # noqa: S314  # no document type, so no entities
    except (UnicodeDecodeError, ElementTree.ParseError) as error:
        raise S3Error(400, "MalformedXML", "The body is not well-formed XML.") from error
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def text_of(element: "ElementTree.Element[str]", name: str) -> str:
    """Give the text of a child, empty if it is not there."""
    return (element.findtext(name) or "").strip()


def iso(at: datetime) -> str:
    """Write a point in time as XML bodies do."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"


def http_date(at: datetime) -> str:
    """Write a point in time as headers do."""
    return format_datetime(at.astimezone(UTC), usegmt=True)


def parse_http_date(text: str) -> datetime | None:
    """Read a header's date; None when it is none, which HTTP says to ignore."""
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def number(query: Mapping[str, str], name: str, default: int, highest: int) -> int:
    """
    Read a count from the query.

    Raises:
        S3Error: It is none, or a negative one.
    """
    value: Any = query.get(name, default)
    try:
        count = int(value)
    except ValueError as error:
        raise S3Error(400, "InvalidArgument", f"{name} must be a number.") from error
    if count < 0:
        raise S3Error(400, "InvalidArgument", f"{name} must not be negative.")
    return min(count, highest)
