"""All routes of a server as one ASGI application."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from stylert.core.errors import StylertError
from stylert.runtime.serving.drag_routes import drag_routes
from stylert.runtime.serving.dragging import DragService
from stylert.runtime.serving.host_work import HostWork
from stylert.runtime.serving.image_routes import ImageService, image_routes
from stylert.runtime.serving.kserve.http_routes import kserve_routes
from stylert.runtime.serving.metrics import Metrics
from stylert.runtime.serving.model_store import ModelStore
from stylert.runtime.serving.page_routes import page_routes
from stylert.runtime.serving.refusals import error_body, status_of
from stylert.runtime.serving.request_guard import RequestGuard
from stylert.runtime.serving.service_routes import service_routes
from stylert.runtime.serving.settings import ServerSettings


def application(
    store: ModelStore, settings: ServerSettings, metrics: Metrics, work: HostWork, drag: DragService | None = None
) -> RequestGuard:
    """The application of a server.

    Args:
        store: The models, loaded.
        settings: Limits, and the key.
        metrics: The counters that `/metrics` shows.
        work: The threads of the host's work.
        drag: Runs drags; None leaves their route out.
    """
    # The pages of FastAPI for its documentation load scripts from another server; `/docs` is a page of our own.
    app = FastAPI(
        title="stylert",
        version=version("stylert"),
        docs_url=None,
        redoc_url=None,
        description=DESCRIPTION,
        responses={"default": REFUSAL},
    )
    service = ImageService(store, settings, work)
    images = image_routes(service)
    kserve = kserve_routes(store, settings, work, lambda: not guard.draining)
    for router in (images, page_routes(), service_routes(store, settings, metrics, drag), kserve):
        app.include_router(router)
    if drag is not None:
        app.include_router(drag_routes(drag, service))
    for kind in (StylertError, Exception):
        app.add_exception_handler(kind, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    direct = [route for router in (images, kserve) for route in router.routes if isinstance(route, APIRoute)]
    direct_app = DirectRoutes(app, [route for route in direct if route.path in DIRECT_PATHS])
    guard = RequestGuard(direct_app, settings, metrics)  # the routes of health ask it when they run
    return guard


#: The routes that make images, as their routers name them.
DIRECT_PATHS = ("/v1/images", "/v1/images/{name}", "/v2/models/{name}/infer")


class DirectRoutes:
    """Calls a few routes by themselves, around an application with all of them.

    The framework's search for the route, its middlewares and its dependencies take a quarter of the server's time for a request.
    These routes need none of them: they take the parts of their path and the request. The guard around answers their errors.

    Args:
        app: The application.
        routes: Those to call directly.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[APIRoute]) -> None:
        self._app = app
        self._routes = [(method, route.path_regex, route.endpoint) for route in routes for method in route.methods or ()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        for method, pattern, endpoint in self._routes:
            if scope["type"] == "http" and scope["method"] == method and (match := pattern.match(scope["path"])):
                scope["path_params"] = match.groupdict()
                response = await endpoint(request=Request(scope, receive), **scope["path_params"])
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


#: Any other status than those that a route names, for its description.
REFUSAL = {
    "description": "A refusal, with one line that names its reason",
    "content": {
        "application/json": {
            "schema": {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]},
        }
    },
}
DESCRIPTION = "Images of StyleGAN2 bundles. Every error is one line in the field `error`."


async def _refused(request: Request, error: Exception) -> Response:
    status, message, headers = status_of(error)
    return Response(error_body(message), status, headers, "application/json")


async def _http_error(request: Request, error: Exception) -> Response:
    """The errors of the framework, such as an unknown path, in the form of our own."""
    assert isinstance(error, HTTPException)
    return Response(error_body(str(error.detail)), error.status_code, error.headers, "application/json")
