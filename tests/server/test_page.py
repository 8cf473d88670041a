"""The files of the page: open to everybody, never more than they are, and held to themselves."""

import gzip
import re
from dataclasses import replace
from importlib.resources import files

import pytest

from tests.server.conftest import Client
from tests.server.test_app import raw
from vidgen import catalog
from vidgen.resources import Resources
from vidgen.server import page
from vidgen.storage import Bucket, Storage

ASSETS = sorted(file.name for file in files("vidgen.server").joinpath("assets").iterdir())
TEXTS = {
    file.name: file.read_text() for file in files("vidgen.server").joinpath("assets").iterdir()
}


async def test_everybody_gets_the_page_and_its_files(stranger: Client) -> None:
    for path in ["/", *(f"/assets/{name}" for name in ASSETS)]:
        async with stranger.get(path) as response:
            body = await response.read()

        assert response.status == 200, path
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert body


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/assets/app.js", "text/javascript; charset=utf-8"),
        ("/assets/style.css", "text/css; charset=utf-8"),
        ("/assets/icon.svg", "image/svg+xml"),
    ],
)
async def test_each_file_says_what_it_is(stranger: Client, path: str, content_type: str) -> None:
    async with stranger.get(path) as response:
        assert response.headers["Content-Type"] == content_type


async def test_a_file_that_is_known_is_not_sent_again(stranger: Client) -> None:
    async with stranger.get("/assets/app.js") as response:
        etag = response.headers["ETag"]
        assert response.headers["Cache-Control"] == "no-cache"

    for known in (etag, f'"older", {etag}', f"W/{etag}", "*"):
        async with stranger.get("/assets/app.js", headers={"If-None-Match": known}) as again:
            assert (again.status, await again.read()) == (304, b"")
            assert again.headers["ETag"] == etag
    async with stranger.get("/assets/app.js", headers={"If-None-Match": '"older"'}) as newer:
        assert newer.status == 200


async def test_files_are_packed_for_those_who_can_unpack(stranger: Client) -> None:
    headers = {"Accept-Encoding": "gzip, br"}
    async with stranger.get("/assets/style.css", headers=headers, auto_decompress=False) as packed:
        body = await packed.read()
    async with stranger.get("/assets/style.css", headers={"Accept-Encoding": "br"}) as plain:
        text = await plain.text()

    assert packed.headers["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Vary"] == plain.headers["Vary"] == "Accept-Encoding"
    assert packed.headers["ETag"] != plain.headers["ETag"]
    assert gzip.decompress(body).decode() == text == TEXTS["style.css"]
    assert len(body) < len(text) / 2


async def test_a_head_request_tells_the_same_without_the_file(stranger: Client) -> None:
    async with stranger.get("/assets/app.js") as full, stranger.head("/assets/app.js") as head:
        assert (head.status, await head.read()) == (200, b"")
        assert head.headers["ETag"] == full.headers["ETag"]


@pytest.mark.parametrize(
    "path",
    [
        "/assets/",
        "/assets/nothing.js",
        "/assets/page.py",
        "/assets/../page.py",
        "/assets/..%2fpage.py",
        "/assets/%2e%2e%2fpage.py",
        "/assets/..\\page.py",
        "/assets//etc/passwd",
        "/assets/%2fetc%2fpasswd",
        "/assets/app.js%00",
        "/assets/./app.js/../../page.py",
    ],
)
async def test_no_path_leads_out_of_the_folder(admin: Client, path: str) -> None:
    token = admin.session.headers["Authorization"]

    answer = await raw(
        admin, f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\n".encode()
    )

    assert answer.split(b" ", 2)[1] in {b"400", b"404"}
    assert b"RouteTableDef" not in answer
    assert b"root:" not in answer


# --- what the browser is told to allow ---


async def test_the_page_may_run_nothing_but_itself(stranger: Client) -> None:
    async with stranger.get("/") as response:
        policy = policy_of(response.headers["Content-Security-Policy"])

    assert policy["default-src"] == ["'none'"]
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == ["'self'"]
    assert policy["img-src"] == ["'self'", "data:", "http://127.0.0.1:1"]
    assert policy["media-src"] == ["'self'", "http://127.0.0.1:1"]
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == ["'none'"]
    assert policy["require-trusted-types-for"] == ["'script'"]


def policy_of(header: str) -> dict[str, list[str]]:
    parts = [part.split() for part in header.split(";")]
    return {name: words for name, *words in parts}


@pytest.mark.parametrize(
    ("bucket", "origins"),
    [
        ({"endpoint_url": None, "region": "eu-central-1"}, ["https://videos.s3.amazonaws.com"]),
        ({"endpoint_url": "https://s3.test:9000/x"}, ["https://s3.test:9000"]),
        (
            {"endpoint_url": "https://s3.test", "public_url": "https://cdn.test/videos"},
            ["https://cdn.test", "https://s3.test"],
        ),
        (
            {"endpoint_url": "https://s3.test", "addressing_style": "virtual"},
            ["https://videos.s3.test"],
        ),
    ],
    ids=["aws", "endpoint", "public", "virtual"],
)
async def test_pictures_and_videos_come_from_the_bucket_only(
    resources: Resources, bucket: dict[str, str], origins: list[str]
) -> None:
    place = {"name": "videos", "access_key_id": "x", "secret_access_key": "x", **bucket}
    async with Storage.open(Bucket(**place)) as storage:  # type: ignore[arg-type]  # texts fit
        assert await page._bucket_origins(replace(resources, storage=storage)) == origins


# --- what the files are made of ---


def test_nothing_comes_from_elsewhere_and_nothing_stands_inline() -> None:
    assert "<style" not in TEXTS["index.html"]
    assert re.findall(r"<script(?![^>]*\bsrc=)", TEXTS["index.html"]) == []
    assert re.findall(r"\s(?:on\w+|style)=", TEXTS["index.html"]) == []
    for name, text in TEXTS.items():
        addresses = set(re.findall(r"(?:https?:)?//[\w.]+\.\w+[^\s\"']*", text))
        assert addresses - {"http://www.w3.org/2000/svg"} == set(), name


def test_text_never_becomes_markup() -> None:
    sinks = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\(|new Function"
        r"|setAttribute\(.style|srcdoc|createContextualFragment"
    )

    assert [name for name, text in TEXTS.items() if sinks.search(text)] == []


def test_every_import_and_every_preload_is_a_file() -> None:
    wanted = set(re.findall(r'/assets/([\w.-]+)"', TEXTS["index.html"]))
    for name, text in TEXTS.items():
        if name.endswith(".js"):
            wanted |= set(re.findall(r'from "\./([\w.-]+)"', text))

    assert wanted <= set(TEXTS)
    assert set(TEXTS) - wanted == {"index.html"}


def test_the_page_has_the_name_of_every_provider_of_ours() -> None:
    told = set(re.findall(r'^  (\w+): "([^"]+)",$', TEXTS["words.js"], re.MULTILINE))

    assert {(each.name, each.title) for each in catalog.vendors()} <= told
