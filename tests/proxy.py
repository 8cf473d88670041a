"""A server that can go away and come back, at the same address."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from ssl import SSLContext

_PIECE_BYTES = 65_536
_ABORT_ON_CLOSE = struct.pack("ii", 1, 0)  # the kernel then says RST instead of FIN


class Proxy:
    """
    A TCP address in front of another one.

    Attributes:
        port: Where it listens, also after it was away.
        target_port: Where new connections lead.
        delay_s: Everything that is said, in either direction, is held back for so long.
    """

    def __init__(self, target_port: int, ssl: SSLContext | None = None) -> None:
        """Speak TLS with those who connect if there is *ssl*, never with the target."""
        self.port = 0
        self.delay_s = 0.0
        self.target_port = target_port
        self._ssl = ssl
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._answer_bytes: int | None = None
        self._speaks = asyncio.Event()
        self._speaks.set()

    async def restore(self) -> None:
        """Take connections, and hand on what they say."""
        self.delay_s = 0.0
        self._answer_bytes = None
        self._speaks.set()
        if self._server is None:
            self._server = await asyncio.start_server(
                self._serve, "127.0.0.1", self.port, ssl=self._ssl
            )
            self.port = self._server.sockets[0].getsockname()[1]

    def mute(self) -> None:
        """Take connections, and say nothing."""
        self._speaks.clear()

    def drop(self) -> None:
        """Cut every connection; new ones are taken."""
        for writer in self._open:
            writer.close()

    def reset(self) -> None:
        """Cut every connection without a goodbye, and forget what was not handed on yet."""
        for writer in self._open:
            socket_: socket.socket = writer.get_extra_info("socket")
            with suppress(OSError):  # it is closed already
                socket_.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT_ON_CLOSE)
            writer.transport.abort()

    def truncate(self, after_bytes: int) -> None:
        """Hand on so many bytes of the next answer, then cut its connection."""
        self._answer_bytes = after_bytes

    async def cut(self) -> None:
        """Refuse connections, and cut those there are."""
        if self._server is not None:
            server, self._server = self._server, None
            server.close()
            self._speaks.set()
            self.drop()
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.close()
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(self._hand_on(reader, far_writer, answers=False))
            group.create_task(self._hand_on(far_reader, writer, answers=True))

    async def _hand_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        self._open.add(writer)
        try:
            with suppress(OSError):
                while said := await reader.read(_PIECE_BYTES):
                    await self._speaks.wait()
                    if self.delay_s:
                        await asyncio.sleep(self.delay_s)
                    if answers and self._answer_bytes is not None:
                        writer.write(said[: self._answer_bytes])
                        self._answer_bytes = None
                        return
                    writer.write(said)
                    await writer.drain()
        finally:
            self._open.discard(writer)
            writer.close()


@asynccontextmanager
async def proxy_of(port: int, ssl: SSLContext | None = None) -> AsyncIterator[Proxy]:
    """A proxy in front of *port* of the loopback."""
    proxy = Proxy(port, ssl)
    await proxy.restore()
    try:
        yield proxy
    finally:
        await proxy.cut()
