"""The pictures of a request: one file, or several as ZIP, as parts, or in JSON.

Pictures carry their recipe, so that `stylert again` makes them again. A recipe does not name the size of the request: it makes the
picture in the size of the network.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import secrets
import zipfile
from collections.abc import AsyncIterator
from importlib.metadata import version

import msgspec
import numpy as np
from PIL import Image

from stylert.core.errors import shown
from stylert.runtime.media.composition import Composition
from stylert.runtime.media.pictures import as_picture, encoded_image
from stylert.runtime.media.recipes import Recipe
from stylert.runtime.serving.image_request import ImageOrder, resized_shape
from stylert.runtime.serving.model_store import Item, ServedModel
from stylert.runtime.serving.refusals import Refusal

ZIP, PARTS, JSON = "application/zip", "multipart/mixed", "application/json"
#: Modification time of the files in a ZIP, so that equal requests give equal bytes.
ZIP_TIME = (1980, 1, 1, 0, 0, 0)


def several_type(accept: str, media_type: str) -> str | None:
    """The media type in which a client wants several pictures, by its header `Accept`: the first that the server has.

    Args:
        accept: The header; empty for none.
        media_type: The type of one picture.

    Returns:
        `ZIP`, `PARTS` or `JSON`. None if the client takes anything, or names the type of a picture.

    Raises:
        Refusal: The client takes none of them; status 406.
    """
    ranges = [part.partition(";")[0].strip().lower() for part in accept.split(",") if part.strip()]
    for wanted in ranges:
        if wanted in (ZIP, PARTS, JSON):
            return wanted
        if wanted in ("*/*", "image/*", media_type):
            return None
    if ranges:
        raise Refusal(406, f"pictures come as {media_type}, {ZIP}, {PARTS} or {JSON}, not {shown(accept)}")
    return None


def encoded(order: ImageOrder, index: int, image: np.ndarray) -> bytes:
    """The picture file of one image of an order, in its size and with its recipe."""
    height, width = resized_shape(image.shape[0], image.shape[1], order.size)
    if (height, width) != image.shape[:2]:
        resized = np.asarray(as_picture(image).resize((width, height), Image.Resampling.LANCZOS))
        image = resized.reshape(height, width, -1)
    return encoded_image(image, order.suffix, comment(order.model, order.items[index]), order.quality)


def comment(model: ServedModel, item: Item) -> str:
    """The comment of a picture: its recipe. A picture of latents has none, only the origin of its pixels."""
    generator = model.generator
    if isinstance(item, np.ndarray):
        digest = hashlib.sha256(item.tobytes()).hexdigest()
        facts = {"stylert": version("stylert"), "bundle": model.bundle_hash, "backend": generator.backend}
        return json.dumps({"AI-generated": True, **facts, "precision": generator.precision, "ws": f"sha256 {digest}"})
    return recipe(model, item).to_json()


def recipe(model: ServedModel, item: Composition) -> Recipe:
    """The recipe of a composition. It has the batch 1, since a batch of the server has images of several requests."""
    seed, is_vector = item.only_seed, isinstance(item.label, tuple)
    shared = {
        "bundle": model.bundle_hash,
        "backend": model.generator.backend,
        "precision": model.generator.precision,
        "psi": (item.psi,),
        "cutoff": item.cutoff,
        "label": None if is_vector else item.label,
        "label_vector": item.label if is_vector else None,
        "batch": 1,
    }
    moved = {} if model.directions is None or not item.moves else {"directions": model.directions.sha256, "moves": item.moves}
    if seed is not None and item.moves:
        return Recipe(command="edit", seeds=(seed,), **shared, **moved)  # type: ignore[arg-type]
    if seed is not None:
        return Recipe(command="generate", seeds=(seed,), together=(seed,), **shared)  # type: ignore[arg-type]
    first = item.latents[0]
    toward = first if item.toward is None else item.toward
    own = {"latents": item.latents, "toward": toward, "at": item.at, **moved}
    return Recipe(command="compose", seeds=(first,), **shared, **own)  # type: ignore[arg-type]


def file_name(order: ImageOrder, index: int) -> str:
    """The name of a picture in a ZIP or a part: its number, and its seed if it has one."""
    item = order.items[index]
    seed = item.only_seed if isinstance(item, Composition) else None
    return f"{index:04d}{'' if seed is None else f'-seed{seed}'}{order.suffix}"


def zip_of(order: ImageOrder, pictures: list[bytes]) -> bytes:
    """A ZIP file of the pictures. They are stored, since pictures are compressed."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for index, picture in enumerate(pictures):
            archive.writestr(zipfile.ZipInfo(file_name(order, index), ZIP_TIME), picture)
    return file.getvalue()


def json_of(order: ImageOrder, pictures: list[bytes]) -> bytes:
    """A JSON document of the pictures in base64, each with its recipe."""
    entries = [
        {
            "name": file_name(order, index),
            "media_type": order.media_type,
            "base64": base64.b64encode(picture).decode(),
            "recipe": msgspec.Raw(comment(order.model, order.items[index]).encode()),
        }
        for index, picture in enumerate(pictures)
    ]
    return msgspec.json.encode({"model": order.model.name, "images": entries})


def new_boundary() -> str:
    return f"stylert-{secrets.token_hex(12)}"


async def parts_of(order: ImageOrder, pictures: AsyncIterator[bytes], boundary: str) -> AsyncIterator[bytes]:
    """The pictures as parts of a multipart document, each as soon as it and those before it are ready."""
    index = 0
    async for picture in pictures:
        head = (
            f"--{boundary}\r\nContent-Type: {order.media_type}\r\nContent-Length: {len(picture)}\r\n"
            f'Content-Disposition: attachment; filename="{file_name(order, index)}"\r\n\r\n'
        )
        yield head.encode() + picture + b"\r\n"
        index += 1
    yield f"--{boundary}--\r\n".encode()
