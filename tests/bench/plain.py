"""
The same work as most people write it: plain arq, aiohttp and aiobotocore, and nothing that minds.

`arq tests.bench.plain.WorkerSettings` takes jobs, polls every five seconds, downloads the video and
stores it, updates its row. A baseline to hold vidgen against, not an example to follow: a kill
starts every video again, and pays for it again.
"""

import asyncio
import os
from typing import Any, ClassVar

import aiohttp
import asyncpg
import orjson
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from arq import func
from arq.connections import RedisSettings

ENVIRONMENT = dict(os.environ)  # noqa: TID251  a program of its own, without our settings
SCHEMA = """
    CREATE TABLE IF NOT EXISTS plain_jobs (
        id text PRIMARY KEY, status text NOT NULL, video_id text, storage_key text
    )
"""


async def generate(ctx: dict[str, Any], job_id: str) -> None:
    """Make one video."""
    http, s3, pool = ctx["http"], ctx["s3"], ctx["pool"]
    base = ENVIRONMENT["OPENAI_BASE_URL"]
    async with http.post(f"{base}/videos", json={"model": "sora-2", "prompt": "a tram"}) as answer:
        video_id = (await answer.json())["id"]
    await pool.execute("UPDATE plain_jobs SET status = 'running' WHERE id = $1", job_id)
    while True:
        await asyncio.sleep(5)
        async with http.get(f"{base}/videos/{video_id}") as answer:
            video = await answer.json()
        if video["status"] == "completed":
            break
    async with http.get(f"{base}/videos/{video_id}/content") as answer:
        body = await answer.read()
    key = f"videos/{job_id}.mp4"
    await s3.put_object(Bucket=ENVIRONMENT.get("S3_BUCKET", "videos"), Key=key, Body=body)
    await pool.execute(
        "UPDATE plain_jobs SET status = 'completed', video_id = $2, storage_key = $3 WHERE id = $1",
        job_id,
        video_id,
        key,
    )


async def startup(ctx: dict[str, Any]) -> None:
    """Open one of each."""
    ctx["pool"] = await asyncpg.create_pool(ENVIRONMENT["DATABASE_URL"], max_size=10)
    ctx["http"] = aiohttp.ClientSession()
    ctx["client"] = get_session().create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=ENVIRONMENT["S3_ENDPOINT_URL"],
        aws_access_key_id=ENVIRONMENT["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=ENVIRONMENT["AWS_SECRET_ACCESS_KEY"],
        config=AioConfig(s3={"addressing_style": "path"}, max_pool_connections=50),
    )
    ctx["s3"] = await ctx["client"].__aenter__()
    ctx["ready"] = print('{"message":"worker ready"}', flush=True)  # noqa: T201  for whoever waits


async def shutdown(ctx: dict[str, Any]) -> None:
    """Close them."""
    await ctx["client"].__aexit__(None, None, None)
    await ctx["http"].close()
    await ctx["pool"].close()


class WorkerSettings:
    """What arq runs."""

    functions: ClassVar = [func(generate, timeout=3600)]
    on_startup = startup
    on_shutdown = shutdown
    redis_settings = RedisSettings.from_dsn(
        ENVIRONMENT.get("REDIS_URL", "redis://localhost").rstrip("/")
    )
    max_jobs = int(ENVIRONMENT.get("VIDGEN_CONCURRENCY", "10"))
    job_serializer = orjson.dumps
    job_deserializer = orjson.loads
