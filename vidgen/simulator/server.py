"""
The simulated providers on real ports: one for all of them, one for a host foreign to them.

    /v1/videos...  /v1beta/models...  /v1/projects...  /token  /storage/v1/...   Sora and Veo
    /NAME/...                   every other provider that the catalog has a simulator for
    GET  /_simulator/bill       what was accepted and is to be paid, by simulator
    GET  /_simulator/received   the requests, by simulator
    POST /_simulator/script     {"simulator": "sora", "rules": [{...}], "generation_s": 5,
                                 "dialect": "sglang"}
    POST /_simulator/reset      {"simulator": "sora"}, or {} for all
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

import orjson
from aiohttp import web
from aiohttp.web_runner import AppRunner, TCPSite

from vidgen import catalog
from vidgen.catalog.vendor import Vendor, resolved
from vidgen.job import JsonValue
from vidgen.simulator.control import Charge, ProviderSimulator, Received, Rule
from vidgen.simulator.state import StateFile
from vidgen.simulator.wire import Incoming, SimulatedWire, clip_of, json_answer, serve

_BODY_LIMIT_BYTES = 64 * 1024 * 1024  # three images of 20 MiB in base64 do not fit, as with Google


class SimulatorServer:
    """
    Every simulated provider and a foreign host, listening while the context is open.

    Attributes:
        simulators: All of them by name, as `simulators["fal"]`; the foreign host as `foreign`.
        sora: The OpenAI Videos protocol: `sora.url`, `sora.script(...)`, `sora.bill`.
        veo: Gemini API, Vertex AI, bucket and tokens: `veo.gemini_url`, `veo.vertex_url`,
            `veo.gcs_url`, `veo.token_url`.
        foreign: Where `redirect-foreign` leads; look in `foreign.received` for leaked keys.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        generation_s: float | Callable[[], float] = 2.0,
        dialect: str = "openai",
        state_file: Path | None = None,
        origin: str = "",
        only: Collection[str] | None = None,
    ) -> None:
        """
        Nothing listens yet.

        Args:
            port: 0 lets the system choose.
            state_file: Outlives a restart.
            origin: `http://host:port` under which others see the providers; empty: as they listen.
            only: These providers; None is every one.
        """
        self._wires: dict[str, SimulatedWire] = {
            vendor.name: resolved(vendor.simulator)
            for vendor in _chosen(only)
            if vendor.simulator is not None
        }
        self.simulators = {
            name: ProviderSimulator(
                name=name, generation_s=generation_s, failure_cost=wire.failure_cost
            )
            for name, wire in self._wires.items()
        }
        if "sora" in self.simulators:
            self.sora.dialect = dialect
        for name, wire in self._wires.items():
            if wire.tokens_of in self.simulators:
                self.simulators[name].tokens = self.simulators[wire.tokens_of].tokens
        self.foreign = self.simulators["foreign"] = ProviderSimulator(name="foreign")
        self._host = host
        self._port = port
        self._origin = origin.rstrip("/")
        self._state = StateFile(state_file) if state_file is not None else None
        self._runners: list[AppRunner] = []

    @property
    def sora(self) -> ProviderSimulator:
        """Speaks the OpenAI Videos protocol."""
        return self.simulators["sora"]

    @property
    def veo(self) -> ProviderSimulator:
        """Speaks the Gemini API and Vertex AI."""
        return self.simulators["veo"]

    async def __aenter__(self) -> Self:
        """Load what a former process left, and listen."""
        if self._state is not None:
            for name in self._wires:
                self._state.attach(self.simulators[name])
        try:
            self.foreign.origin = await self._listen(self._foreign_app(), 0)
            origin = await self._listen(self._app(), self._port)
        except BaseException:
            await self._close()
            raise
        origin = self._origin or origin
        for name, wire in self._wires.items():
            self.simulators[name].origin = origin if wire.at_root else f"{origin}/{name}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close every connection, hanging answers too."""
        await self._close()

    def urls(self) -> dict[str, JsonValue]:
        """Where everything listens, by the names other programs look for."""
        return {
            "origin": self.sora.origin,
            "sora_url": self.sora.url,
            "gemini_url": self.veo.gemini_url,
            "vertex_url": self.veo.vertex_url,
            "gcs_url": self.veo.gcs_url,
            "token_url": self.veo.token_url,
            "foreign_url": self.foreign.origin,
            "addresses": dict(self.addresses()),
        }

    def addresses(self) -> dict[str, str]:
        """The variables of the environment that lead to the simulated providers, and to where."""
        found: dict[str, str] = {}
        for name, wire in self._wires.items():
            found |= wire.addresses(self.simulators[name])
        return found

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=_BODY_LIMIT_BYTES)
        for name, wire in self._wires.items():
            routes = wire.routes(self.simulators[name], self.foreign)
            if wire.at_root:
                app.add_routes(routes)
                continue
            own = web.Application()
            own.add_routes(routes)
            app.add_subapp(f"/{name}", own)
        app.add_routes(
            [
                web.get("/_simulator/bill", self._bill),
                web.get("/_simulator/received", self._received),
                web.post("/_simulator/script", self._script),
                web.post("/_simulator/reset", self._reset),
            ]
        )
        return app

    def _foreign_app(self) -> web.Application:
        """A host that asks for no key, records what it was given, and serves any finished clip."""

        async def content(incoming: Incoming) -> web.StreamResponse:
            path = incoming.request.match_info
            simulator = self.simulators.get(path["name"])
            generation = simulator.generations.get(path["id"]) if simulator is not None else None
            if simulator is None or generation is None:
                return web.Response(text="not found", status=404)
            clip = await clip_of(simulator, generation.wish)
            return web.Response(body=clip, content_type="video/mp4")

        app = web.Application()
        app.add_routes([web.get("/{name}/{id:.+}", serve(self.foreign, "content", content))])
        return app

    async def _listen(self, app: web.Application, port: int) -> str:
        # Cancelled when the client is gone: a hanging answer must not outlive who waits for it.
        runner = AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        self._runners.append(runner)
        await runner.setup()
        await TCPSite(runner, self._host, port, backlog=4096).start()
        host, bound, *_ = runner.addresses[0]
        return f"http://{host}:{bound}"

    async def _close(self) -> None:
        while self._runners:
            await self._runners.pop().cleanup()
        if self._state is not None:
            self._state.close()

    async def _bill(self, _: web.Request) -> web.Response:
        return json_answer({s.name: _dicts(s.bill) for s in self.simulators.values()})

    async def _received(self, _: web.Request) -> web.Response:
        return json_answer({s.name: _dicts(s.received) for s in self.simulators.values()})

    async def _script(self, request: web.Request) -> web.Response:
        try:
            wanted = orjson.loads(await request.read())
            simulator = self.simulators[wanted["simulator"]]
            rules = [Rule(**rule) for rule in wanted.get("rules", [])]
        except (ValueError, TypeError, KeyError) as error:
            return json_answer({"error": str(error)}, status=400)
        simulator.script(*rules)
        simulator.generation_s = wanted.get("generation_s", simulator.generation_s)
        simulator.dialect = wanted.get("dialect", simulator.dialect)
        return json_answer({"rules": len(rules)})

    async def _reset(self, request: web.Request) -> web.Response:
        body = await request.read()
        name = orjson.loads(body).get("simulator") if body else None
        for simulator in self.simulators.values():
            if name in {None, simulator.name}:
                simulator.reset()
        return json_answer({})


def _chosen(only: Collection[str] | None) -> list[Vendor]:
    if only is None:
        return [*catalog.vendors()]
    return [catalog.vendor(name) for name in only]


def _dicts(records: Iterable[Charge | Received]) -> list[JsonValue]:
    return [asdict(record) for record in records]
