"""The route `POST /v1/drag`: handles pull points of an image to their targets."""

from __future__ import annotations

import base64
import binascii
import time
from dataclasses import replace
from typing import Annotated, Any

import msgspec
import numpy as np
from fastapi import APIRouter, Request, Response

from stylert.core.errors import InputError, PictureError
from stylert.core.files.json_documents import read_document
from stylert.core.images.handles import MAX_HANDLES, Handle
from stylert.core.images.pictures import decode_picture
from stylert.runtime.media.composition import Composition
from stylert.runtime.serving.dragging import MAX_SECONDS, Dragged, DragService
from stylert.runtime.serving.image_request import ImageOrder, ImagesRequest, field
from stylert.runtime.serving.image_response import JSON
from stylert.runtime.serving.image_routes import ImageService
from stylert.runtime.serving.request_limits import check_marks
from stylert.runtime.steering.directions_file import Directions

#: Values of a mask from here on let the image change.
WHITE = 128
#: Characters of a mask in base64, at most, and its pixels. It has the size of the network's image.
MAX_MASK, MAX_MASK_PIXELS = 2**22, 2**22

Coordinates = Annotated[list[float], msgspec.Meta(min_length=4, max_length=4)]


class DragRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """An image, and the handles that are pulled."""

    image: Annotated[ImagesRequest, field("The image, with the fields of `/v1/images`")] = ImagesRequest()
    handles: Annotated[
        list[Coordinates],
        msgspec.Meta(min_length=1, max_length=MAX_HANDLES),
        field("Handles [x, y, target x, target y] in pixels of the network's image", [[20, 30, 26, 30]]),
    ]
    mask: Annotated[
        Annotated[str, msgspec.Meta(max_length=MAX_MASK)] | None,
        field("Picture file in base64, of the size of the network's image, which may change where this is white"),
    ] = None
    seconds: Annotated[float, msgspec.Meta(gt=0, le=MAX_SECONDS), field("Time of the drag, at most")] = MAX_SECONDS


def drag_routes(service: DragService, images: ImageService) -> APIRouter:
    """The route of a service."""
    router = APIRouter(tags=["images"])

    @router.post("/v1/drag", summary="Drag points of an image", openapi_extra=_body_schema(), responses=_RESPONSES)
    async def drag(request: Request) -> Response:
        """Drag points of one image to their targets. The answer has the new latents, the picture, and how far each handle is."""
        body = await request.body()
        asked, order = await images.work.run_if_large(len(body), _read, body, images)
        handles = [Handle(*values) for values in asked.handles]
        service.check(order.model.bundle, handles)
        mask = None
        if asked.mask is not None:
            mask = await images.work.run_if_large(len(asked.mask), _mask, asked.mask, order.model.bundle.resolution)
        start = await _latents(order)
        begin = time.perf_counter()
        found = await service.drag(start, handles, mask, asked.seconds)
        seconds = time.perf_counter() - begin
        moved = replace(order, items=[found.ws])
        (picture,) = [picture async for picture in images.pictures(moved)]
        return Response(_answer(moved, found, picture, seconds), media_type=JSON, headers={"Cache-Control": "no-cache"})

    return router


def _read(body: bytes, images: ImageService) -> tuple[DragRequest, ImageOrder]:
    """The checked request and its image. Raises InputError or Refusal."""
    check_marks(body)
    asked = read_document(body or b"{}", DragRequest, "the request", InputError, images.settings.max_body)
    order = images.order(asked.image)
    if len(order.items) != 1:
        raise InputError(f"a drag moves one image, not {len(order.items)}")
    item, directions = order.items[0], order.model.directions
    if isinstance(item, Composition) and directions is not None and _moves_styles(item, directions):
        raise InputError("an image with edits of styles cannot be dragged, because its latents do not have them")
    return asked, order


def _moves_styles(item: Composition, directions: Directions) -> bool:
    return any(directions[move.name].space == "styles" for move in item.parsed_moves)


def _mask(text: str, resolution: int) -> np.ndarray:
    """The mask, bool `[R, R]`. Raises InputError unless it is a picture of this size with white in it."""
    try:
        picture = decode_picture(base64.b64decode(text, validate=True), MAX_MASK_PIXELS)
    except binascii.Error:
        raise InputError("the mask is no base64") from None
    except PictureError as e:
        raise InputError(f"the mask cannot be read: {e}") from None
    if picture.size != (resolution, resolution):
        raise InputError(f"the mask is {picture.width}x{picture.height} and the image {resolution}x{resolution}")
    mask = np.asarray(picture.convert("L")) >= WHITE
    if not mask.any():
        raise InputError("the mask is black everywhere, and the image may change where it is white")
    return mask


async def _latents(order: ImageOrder) -> np.ndarray:
    """The latents `[num_ws, w_dim]` of the image of an order, after its edits."""
    item = order.items[0]
    if isinstance(item, np.ndarray):
        return item
    batcher = order.model.batcher
    job = batcher.submit(order.items)
    try:
        return (await job.results[0]).ws
    finally:
        batcher.cancel(job)


def _answer(order: ImageOrder, found: Dragged, picture: bytes, seconds: float) -> bytes:
    return msgspec.json.encode(
        {
            "model": order.model.name,
            "ws": found.ws.tolist(),
            "media_type": order.media_type,
            "base64": base64.b64encode(picture).decode(),
            "points": found.points.tolist(),
            "distances": [round(distance, 3) for distance in found.distances],
            "steps": found.steps,
            "ending": found.ending,
            "outside_psnr_db": None if found.outside_psnr is None else round(found.outside_psnr, 3),
            "seconds": round(seconds, 3),
        }
    )


def _body_schema() -> dict[str, Any]:
    _, components = msgspec.json.schema_components([DragRequest], ref_template="#/components/schemas/{name}")
    own = dict(components["DragRequest"])
    own["properties"] = {**own["properties"], "image": {"type": "object", "description": "The fields of `/v1/images`"}}
    return {"requestBody": {"content": {JSON: {"schema": own}}, "required": True}}


_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {JSON: {}}},
    400: {"description": "The request has a mistake; the answer names it"},
    429: {"description": "Another drag is running; `Retry-After` says when it has ended"},
    503: {"description": "The queue is full, or the server stops; `Retry-After` says when to try again"},
}
