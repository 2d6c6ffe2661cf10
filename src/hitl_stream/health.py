"""The small HTTP server of every role: `/metrics`, `/livez`, `/readyz`, `/version`. It only reads.

`/livez` says that the event loop turns and asks nothing of Kafka: a broker that is away is no reason to restart us.
`/readyz` asks each check and answers 503 with all of them while one fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from time import monotonic

from aiohttp import web
from mode import Service
from prometheus_client.exposition import choose_encoder

from hitl_stream.core.errors import SettingsError
from hitl_stream.metrics import Metrics

Check = Callable[[], str]
"""Says what is missing; an empty string: nothing, we are ready. It must not block."""

STOP_SECONDS = 1.0
"""How long a scrape that is under way may hold up the end of the process."""


class Health(Service):
    """Serves the state of this process on `host:port` (port 0: any free one; read `port` after the start)."""

    def __init__(
        self,
        metrics: Metrics,
        checks: Mapping[str, Check],
        version: Mapping[str, str],
        *,
        host: str = "127.0.0.1",
        port: int = 9464,
    ) -> None:
        super().__init__()
        self.metrics, self.checks, self.version = metrics, dict(checks), dict(version)
        self.host, self.port = host, port
        self.runner: web.AppRunner | None = None
        self.started_at = monotonic()
        metrics.ready.set_function(lambda: float(not any(self.missing().values())))

    @property
    def url(self) -> str:
        """Where it listens, such as `http://127.0.0.1:9464`."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    async def on_start(self) -> None:
        """Listen.

        Raises:
            SettingsError: the port cannot be had.
        """
        app = web.Application()
        app.add_routes(
            [
                web.get("/metrics", self._metrics),
                web.get("/livez", self._livez),
                web.get("/readyz", self._readyz),
                web.get("/version", self._version),
            ]
        )
        app.on_response_prepare.append(_say_little)
        self.runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=STOP_SECONDS)
        await self.runner.setup()
        try:
            await web.TCPSite(self.runner, self.host, self.port).start()
        except OSError as error:
            await self.runner.cleanup()
            raise SettingsError(
                f"metrics_port: cannot listen on {self.host}:{self.port} ({error.strerror or error}); stop what "
                "listens there, or choose another with --metrics-port or HITL_METRICS_PORT (0: any free one)"
            ) from error
        self.port = self.runner.addresses[0][1]

    async def on_stop(self) -> None:
        """Stop listening."""
        if self.runner is not None:
            await self.runner.cleanup()

    def absorb(self, other: Health) -> None:
        """Answer for another one of this process, too, which then does not listen itself."""
        role = other.version.get("role", "other")
        for name, check in other.checks.items():
            self.checks[f"{name} ({role})" if name in self.checks else name] = check
        self.version = {**other.version, **self.version}
        self.metrics.ready.set_function(lambda: float(not any(self.missing().values())))

    def missing(self) -> dict[str, str]:
        """Ask every check; a check that raises is not passed."""
        return {name: _ask(check) for name, check in self.checks.items()}

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        response = web.Response(body=encode(self.metrics.registry), headers={"Content-Type": content_type})
        response.enable_compression()
        return response

    async def _livez(self, request: web.Request) -> web.Response:
        before = monotonic()
        await asyncio.sleep(0)
        now = monotonic()
        return web.json_response(
            {"live": True, "turn_s": round(now - before, 6), "up_s": round(now - self.started_at, 3)}
        )

    async def _readyz(self, request: web.Request) -> web.Response:
        missing = self.missing()
        ready = not any(missing.values())
        checks = {name: why or "ok" for name, why in missing.items()}
        return web.json_response({"ready": ready, "checks": checks}, status=200 if ready else 503)

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response(self.version)


def _ask(check: Check) -> str:
    try:
        return check()
    except Exception as error:  # a broken check means: not ready, and say why
        return f"the check itself failed: {type(error).__name__}"


async def _say_little(request: web.Request, response: web.StreamResponse) -> None:
    """Keep versions out of `Server`, answers out of caches, and a browser from guessing types."""
    response.headers["Server"] = "hitl"
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
