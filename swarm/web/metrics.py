"""/metrics, in the text format that Prometheus reads."""

from __future__ import annotations

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST


def add_metrics(app: web.Application, registry: CollectorRegistry) -> None:
    """Serve what `registry` collects at /metrics; its collectors run on the event loop and must not wait."""

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app.router.add_get("/metrics", metrics)
