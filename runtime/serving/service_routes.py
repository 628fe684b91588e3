"""The routes about the server itself: its models, its metrics and its reloads."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from stylert.core.images.handles import MAX_HANDLES
from stylert.runtime.serving.dragging import DragService, drags
from stylert.runtime.serving.metrics import Metrics
from stylert.runtime.serving.model_store import ModelStore, ServedModel
from stylert.runtime.serving.network_facts import network_facts
from stylert.runtime.serving.refusals import Refusal
from stylert.runtime.serving.served_directions import direction_facts, usable_names
from stylert.runtime.serving.settings import ServerSettings


def service_routes(store: ModelStore, settings: ServerSettings, metrics: Metrics, drag: DragService | None = None) -> APIRouter:
    """The routes of a server."""
    router = APIRouter(tags=["server"])

    @router.get("/v1/models", summary="The served models")
    async def models() -> Response:
        """Every model with its size, classes, style levels and backend, and the limits of a request."""
        limits: dict[str, float] = {"images": settings.max_images, "pixels": settings.max_pixels, "body": settings.max_body}
        if drag is not None:
            limits |= {"handles": MAX_HANDLES, "drag_seconds": drag.max_seconds}
        document = {"models": [_facts(model, drag) for model in store.models], "limits": limits}
        return Response(msgspec.json.encode(document), media_type="application/json")

    @router.get("/v1/models/{name}/directions", summary="The directions of a model")
    async def directions(name: str) -> Response:
        """Every direction that the field `edits` may name, with its space, its latents and how it was found."""
        model = store.find(name)
        known = model.directions
        document = {
            "directions": [] if known is None else direction_facts(known, model.bundle),
            "sha256": None if known is None else known.sha256,
        }
        return Response(msgspec.json.encode(document), media_type="application/json")

    @router.post("/v1/models/{name}/reload", summary="Read a bundle again")
    async def reload(name: str) -> Response:
        """Read a bundle again without losing a request. It needs a server with an API key; SIGHUP does the same without one."""
        if settings.api_key is None:
            raise Refusal(403, "reloading by a request needs a server with an API key; send SIGHUP to the process")
        await store.reload(name)
        return Response(msgspec.json.encode({"reloaded": name}), media_type="application/json")

    @router.get("/metrics", response_class=PlainTextResponse, summary="Metrics for Prometheus")
    async def prometheus() -> Response:
        """Requests, batches and times, in the text format of Prometheus."""
        for model in store.models:
            metrics.waiting.labels(model.name).set(model.batcher.waiting)
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return router


def _facts(model: ServedModel, drag: DragService | None) -> dict[str, Any]:
    generator, bundle = model.generator, model.bundle
    return {
        "name": model.name,
        "precision": generator.precision,
        "backend": generator.backend,
        "why": generator.why,
        **network_facts(bundle),
        "directions": 0 if model.directions is None else len(usable_names(model.directions, bundle)),
        "drags": drag is not None and drags(drag.dragger, bundle),
        "sha256": model.bundle_hash,
        "waiting": model.batcher.waiting,
    }
