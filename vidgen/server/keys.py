"""What requests find in the application."""

from aiohttp import web

from vidgen.resources import Resources

RESOURCES = web.AppKey("resources", Resources)
