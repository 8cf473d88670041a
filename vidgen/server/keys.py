"""What requests find in the application."""

from aiohttp import web

from vidgen.queue import VideoQueue
from vidgen.resources import Resources
from vidgen.server.hub import Hub

RESOURCES = web.AppKey("resources", Resources)
QUEUE = web.AppKey("queue", VideoQueue)
HUB = web.AppKey("hub", Hub)
