"""Whatever bytes a client sends, it gets an answer without a defect in it, or none."""

import asyncio
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.server.conftest import TOKEN
from tests.server.test_app import served
from tests.server.test_connection import PATIENCE_S, connected
from vidgen.resources import Resources
from vidgen.server import body, connection

ID = "00000000-0000-4000-8000-000000000000"
paths = st.sampled_from(
    (
        *("/", "/api/jobs", f"/api/jobs/{ID}", f"/api/jobs/{ID}/result", "/api/login") * 2,
        *("/api/me", "/api/webhooks/openai", "/api/failed", "/api/stats", "/assets/app.js") * 2,
        *("//[", "http://[", "/api/jobs/%00", "/api/jobs/\xff", "/%2e%2e/%2e%2e/etc/passwd"),
        *("/assets/..%2fapp.py", "/api/jobs/%ff", "/api/jobs/" + "0" * 5000),
    )
)
queries = st.sampled_from(
    (
        *("", "", "?before=%00", "?status=%ff", "?a=1&a=2", "?%", "?limit=%D9%A3"),
        *("?limit=" + "9" * 5000, "?" * 9, "?limit=٣"),
    )
)
names = st.sampled_from(
    (
        *("Last-Event-ID", "Origin", "Cookie", "Idempotency-Key", "X-Forwarded-For", "traceparent"),
        *("Accept-Encoding", "If-None-Match", "Sec-Fetch-Site", "webhook-signature", "webhook-id"),
    )
)
# What says where a request ends; most of these end it at once.
framing = st.sampled_from(
    ("Content-Length", "Transfer-Encoding", "Host", "Expect", "Content-Encoding", "Upgrade")
)
texts = st.sampled_from(
    (
        *(
            "9" * 5000,
            "http://[",
            "null",
            "\xff\xfe",
            f"Bearer {TOKEN}",
            "Bearer \xff",
        ),
        *(
            "vidgen_session=..",
            "vidgen_session=1.YQ.x",
            "chunked",
            "0",
            "5",
            "-1",
        ),
        *(
            "100-continue",
            'W/"',
            "00-x-y-z",
            "gzip",
        ),
    )
) | st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=12)
requests = st.builds(
    lambda method, path, query, headers, sent: (
        f"{method} {path}{query} HTTP/1.1\r\nHost: h\r\n".encode("utf-8", "replace")
        + b"".join(f"{name}: {text}\r\n".encode("latin-1", "replace") for name, text in headers)
        + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(sent)
        + sent
    ),
    st.sampled_from((*("GET", "POST") * 4, "HEAD", "OPTIONS", "PUT", "get", "P\x00ST")),
    paths,
    queries,
    st.tuples(
        st.lists(st.just(("Authorization", f"Bearer {TOKEN}")), max_size=1),
        st.lists(st.tuples(names, texts), max_size=3),
        st.lists(st.tuples(framing, texts), max_size=1),
    ).map(lambda parts: [*parts[0], *parts[1], *(parts[2] if len(parts[1]) == 3 else [])]),
    st.sampled_from(
        [b"", b"{}", b"[" * 2000, b'{"token": "x"}', b"\xff", b"5\r\nhello\r\n0\r\n\r\n"]
    ),
)


@pytest.mark.timeout(300)
async def test_no_request_meets_a_defect(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Many of them promise more than they send.
    monkeypatch.setattr(body, "STALL_S", 0.02)
    monkeypatch.setattr(connection, "LINGER_S", 0.02)
    monkeypatch.setattr(connection, "HEAD_S", 0.3)
    async with served(resources) as port:

        async def answer_to(request: bytes) -> bytes:
            async with asyncio.timeout(PATIENCE_S), connected(port) as (reader, writer):
                with suppress(ConnectionError):
                    writer.write(request)
                    # Of a stream, which has no end, the head says enough.
                    return await reader.read(65_536)
            return b""

        loop = asyncio.get_running_loop()

        @settings(
            max_examples=300,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(requests)
        @example(
            b"GET /api/events HTTP/1.1\r\nHost: h\r\n"
            b"Authorization: Bearer %s\r\nLast-Event-ID: %s\r\n\r\n" % (TOKEN.encode(), b"9" * 5000)
        )
        @example(b"POST /api/jobs HTTP/1.1\r\nHost: h\r\nOrigin: http://[\r\nCookie: a=b\r\n\r\n")
        @example(b"GET /livez HTTP/1.1\r\nHost: h\r\nExpect: \xff\r\n\r\n")
        @example(b"POST /api/login HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}")
        def drawn(request: bytes) -> None:
            answer = asyncio.run_coroutine_threadsafe(answer_to(request), loop).result()

            line = answer.partition(b"\r\n")[0]
            assert b" 500 " not in line, (request, answer)
            assert b"Traceback" not in answer
            assert b".py" not in answer.replace(b"app.py", b"")

        await asyncio.to_thread(drawn)
        assert b" 200 " in await answer_to(b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n")
