"""The body of `POST /v1/images`, checked against a model and turned into the images to make."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np

from stylert.core.errors import InputError, shown
from stylert.core.files.json_documents import read_document
from stylert.core.numerals import is_plain_number
from stylert.core.seeds import MAX_SEED, parse_seeds
from stylert.runtime.bundle import Bundle
from stylert.runtime.input_checks import host_floats
from stylert.runtime.media.composition import MAX_PSI, Composition
from stylert.runtime.media.pictures import check_bundle_channels
from stylert.runtime.serving.model_store import Item, ServedModel
from stylert.runtime.serving.request_limits import check_marks
from stylert.runtime.serving.settings import ServerSettings
from stylert.runtime.steering.directions_file import Directions
from stylert.runtime.steering.moves import MAX_STRENGTH
from stylert.runtime.style_levels import parse_levels

#: Suffix and media type of each picture format.
FORMATS = {"png": (".png", "image/png"), "jpeg": (".jpg", "image/jpeg"), "webp": (".webp", "image/webp")}
MAX_SIDE = 4096
#: Edits of one image, and characters of the name of one, with its levels. So the recipe of an image stays short.
MAX_EDITS = 32
MAX_EDIT_NAME = 100

Seed = Annotated[int, msgspec.Meta(ge=0, le=MAX_SEED)]
Psi = Annotated[float, msgspec.Meta(ge=-MAX_PSI, le=MAX_PSI)]
Part = Annotated[float, msgspec.Meta(ge=0, le=1)]
Label = int | list[float]
EditName = Annotated[str, msgspec.Meta(max_length=MAX_EDIT_NAME)]
Strength = Annotated[float, msgspec.Meta(ge=-MAX_STRENGTH, le=MAX_STRENGTH)]


def field(description: str, *examples: object) -> msgspec.Meta:
    """The text about a field of a request in the description of the API."""
    return msgspec.Meta(description=description, examples=list(examples) or None)


class ImagesRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The images that a client asks for.

    A list holds one value for each image. A single value, or a list of one, holds for all images.
    """

    model: Annotated[str | None, field("Name of a model or bundle; the first by default", "cats64")] = None
    precision: Annotated[str | None, field("Precision of the model, such as int8")] = None
    seeds: Annotated[list[Seed] | str, field("Seeds, as a list or as text such as 0-3,7", [0, 1])] = "0"
    psi: Annotated[Psi | list[Psi], field("Truncation: 1 is none, 0 is the average image", 0.7)] = 1.0
    cutoff: Annotated[int | None, field("Truncate only the first so many latents")] = None
    labels: Annotated[int | list[Label] | None, field("Class or label vector of each image")] = None
    mix: Annotated[dict[str, Seed], field("Style levels from other seeds: coarse, middle, fine, or latents", {"fine": 5})] = {}
    toward: Annotated[Seed | None, field("Seed that the images move to, in w")] = None
    at: Annotated[Part | list[Part], field("Part of the way to it, from 0 to 1")] = 0.0
    edits: Annotated[
        dict[EditName, Strength | list[Strength]],
        msgspec.Meta(max_length=MAX_EDITS),
        field("Directions and strengths to move by, perhaps with levels", {"smile": 2, "pose@0-3": -1}),
    ] = {}
    ws: Annotated[list[list[list[float]]] | None, field("Latents [N, num_ws, w_dim], in place of all of the above")] = None
    size: Annotated[int | None, field("Width and height of the pictures; by default that of the network")] = None
    format: Annotated[str, field("png, jpeg or webp", "png")] = "png"
    quality: Annotated[int, msgspec.Meta(ge=1, le=100), field("Quality of jpeg and webp")] = 90


@dataclass(frozen=True, eq=False)
class ImageOrder:
    """A request that was checked: the images to make, and the form of their pictures.

    Attributes:
        model: The model that makes them.
        items: One per image.
        size: Width and height of the pictures; None for those of the network.
        suffix: Suffix of the picture files.
        media_type: Their media type.
        quality: Quality of JPEG and WebP.
    """

    model: ServedModel
    items: list[Item]
    size: int | None
    suffix: str
    media_type: str
    quality: int

    @property
    def etag(self) -> str:
        """A weak ETag of compositions. Equal ones are equal images, up to the last bits, which may depend on the batch."""
        model = self.model
        parts = [model.bundle_hash, model.generator.backend, model.generator.precision, repr(self.items)]
        parts += [str(self.size), self.suffix, str(self.quality), model.directions.sha256 if model.directions else ""]
        return f'W/"{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:32]}"'


def read_request(body: bytes, settings: ServerSettings) -> ImagesRequest:
    """Read the body of a request. Raises InputError unless it is one."""
    check_marks(body)
    return read_document(body or b"{}", ImagesRequest, "the request", InputError, settings.max_body)


def image_order(request: ImagesRequest, model: ServedModel, settings: ServerSettings) -> ImageOrder:
    """Check a request against the network and the limits.

    Raises:
        InputError: A value is out of range, the lists have different lengths, or it asks for too much.
    """
    bundle = model.bundle
    if request.format not in FORMATS:
        raise InputError(f"format is one of {', '.join(FORMATS)}, not {shown(request.format)}")
    suffix, media_type = FORMATS[request.format]
    check_bundle_channels(f"a picture as {request.format}{suffix}", bundle)
    if request.size is not None and not 1 <= request.size <= MAX_SIDE:
        raise InputError(f"size is from 1 to {MAX_SIDE} pixels, not {request.size}")
    items = _items(request, bundle, model.directions, settings.max_images)
    drawn = resized_shape(bundle.height, bundle.width, request.size)
    pixels = len(items) * max(bundle.pixels, drawn[0] * drawn[1])
    if pixels > settings.max_pixels:
        raise InputError(f"{len(items)} pictures have {pixels} pixels; a request may have {settings.max_pixels}")
    return ImageOrder(model, items, request.size, suffix, media_type, request.quality)


def resized_shape(height: int, width: int, size: int | None) -> tuple[int, int]:
    """Height and width of a picture whose longer side is `size`; those of the image itself for None."""
    longer = max(height, width)
    size = size or longer
    return max(round(height * size / longer), 1), max(round(width * size / longer), 1)


def _items(request: ImagesRequest, bundle: Bundle, directions: Directions | None, most: int) -> list[Item]:
    if request.ws is not None:
        defaults, own = ImagesRequest(), ("seeds", "psi", "cutoff", "labels", "mix", "toward", "at", "edits")
        given = [name for name in own if getattr(request, name) != getattr(defaults, name)]
        if given:
            raise InputError(f"latents ws are the whole image; leave out {', '.join(given)}")
        _check_count(len(request.ws), most)
        try:
            with np.errstate(over="ignore"):  # it becomes infinite, which is found below
                latents = np.array(request.ws, np.float32)
        except ValueError:
            raise InputError("ws are lists of different lengths") from None
        return list(host_floats(latents, ("N", bundle.num_ws, bundle.model["w_dim"]), "ws"))
    seeds = parse_seeds(request.seeds, most) if isinstance(request.seeds, str) else request.seeds
    labels = request.labels if isinstance(request.labels, list) else [request.labels]
    psi = request.psi if isinstance(request.psi, list) else [request.psi]
    at = request.at if isinstance(request.at, list) else [request.at]
    edits = {name: strength if isinstance(strength, list) else [strength] for name, strength in request.edits.items()}
    if edits and directions is None:
        raise InputError("this model has no directions, so it takes no edits")
    lists: dict[str, Sequence[object]] = {"seeds": seeds, "labels": labels, "psi": psi, "at": at}
    lists |= {f"edit {shown(name)}": strengths for name, strengths in edits.items()}
    count = max(map(len, lists.values()))
    _check_count(count, most)
    for name, values in lists.items():
        if len(values) not in (1, count):
            raise InputError(f"{name} has {len(values)} values for {count} images: give one, or one for each")
    sources = {
        index: seed for levels, seed in request.mix.items() for index in parse_levels(levels, bundle.num_ws, bundle.kind)
    }
    items: list[Item] = []
    for i in range(count):
        seed, label = seeds[i % len(seeds)], labels[i % len(labels)]
        composition = Composition(
            tuple(sources.get(index, seed) for index in range(bundle.num_ws)),
            float(psi[i % len(psi)]),
            request.cutoff,
            tuple(label) if isinstance(label, list) else label,
            request.toward,
            float(at[i % len(at)]) if request.toward is not None else 0.0,
            tuple(_move(name, strengths[i % len(strengths)]) for name, strengths in edits.items()),
        )
        composition.check(bundle, directions)
        items.append(composition)
    return items


def _move(name: str, strength: float) -> str:
    """The text of a move, from which the same strength is read again."""
    return f"{name}={float(strength)!r}".removesuffix(".0")


def _check_count(count: int, most: int) -> None:
    if not 1 <= count <= most:
        raise InputError(f"a request is for 1 to {most} images, not {count}")


def single_image(query: Sequence[tuple[str, str]], seed: int, suffix: str) -> ImagesRequest:
    """The request for one image in the query of a URL, such as `psi=0.7&mix=fine:5`.

    Raises:
        InputError: A parameter is unknown, given twice, or out of range.
    """
    format_name = {"jpg": "jpeg"}.get(suffix, suffix)
    values: dict[str, object] = {"seeds": [seed], "format": format_name}
    for name, text in query:
        if name not in QUERY or (name in values and name not in MAPPINGS):
            raise InputError(f"the query has {shown(name)} twice or it is unknown; it takes {', '.join(QUERY)}")
        if name in MAPPINGS:
            mapping: dict[str, int | float] = values.setdefault(name, {})  # type: ignore[assignment]
            for part in text.split(";"):
                key, _, value = part.rpartition(":")
                if key in mapping:
                    raise InputError(f"{name} has {shown(key)} twice")
                mapping[key] = _number(name, value, MAPPINGS[name] is int)
        else:
            values[name] = text if QUERY[name] is str else _number(name, text, QUERY[name] is int)
    try:
        return msgspec.convert(values, ImagesRequest)
    except msgspec.ValidationError as e:
        raise InputError(f"the query is not valid: {e}") from None


#: The parameters of the query and their types.
QUERY: dict[str, type] = {
    "model": str, "precision": str, "psi": float, "cutoff": int, "labels": int, "mix": str, "toward": int, "at": float,
    "edits": str, "size": int, "quality": int,
}  # fmt: skip
#: Those of them that map names to numbers, such as `fine:5;coarse:3`, and the types of their numbers.
MAPPINGS: dict[str, type] = {"mix": int, "edits": float}


def _number(name: str, text: str, whole: bool) -> int | float:
    try:
        if len(text) > 40 or not is_plain_number(text):
            raise ValueError
        return int(text) if whole else float(text)
    except ValueError:
        raise InputError(f"{name} is a {'whole ' if whole else ''}number, not {shown(text)}") from None
