"""A small service that sells videos: the one whose tests the README shows."""

from aiohttp import web

from vidgen import VideoQueue, VideoRequest

QUEUE = web.AppKey("QUEUE", VideoQueue)


def shop(queue: VideoQueue) -> web.Application:
    """POST /orders asks for a video, GET /orders/{id} tells the buyer how it goes."""
    app = web.Application()
    app[QUEUE] = queue
    app.add_routes([web.post("/orders", _order), web.get("/orders/{id}", _show)])
    return app


async def _order(request: web.Request) -> web.Response:
    order = await request.json()
    if not order["wish"]:
        return web.json_response({"error": "what shall it show?"}, status=400)
    wish = VideoRequest(provider="sora", prompt=f"{order['wish']}, in the rain", seconds=4)
    await request.app[QUEUE].enqueue(
        wish, scene_id=order["id"], idempotency_key=order["id"], metadata={"buyer": order["buyer"]}
    )
    return web.json_response({"order": order["id"]}, status=202)


async def _show(request: web.Request) -> web.Response:
    [job] = await request.app[QUEUE].recent(scene_id=request.match_info["id"])
    sorry = "Please word it differently." if job.error_code == "content_blocked" else None
    return web.json_response({"status": job.status, "message": sorry})
