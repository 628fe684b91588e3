"""Runs drag: pulls points of an image to their targets, and writes the picture and its latents."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from stylert.cli.console import print_line, print_note, print_table, progress
from stylert.cli.latents.projecting import check_apart
from stylert.core.errors import InputError, OutputError, PictureError, missing_extra
from stylert.core.files.digests import sha256_of
from stylert.core.files.inputs import read_file
from stylert.core.files.locks import locked_folder
from stylert.core.files.outputs import check_output, write_json
from stylert.core.images.handles import Handle, check_handles, parse_handle, shown_handle
from stylert.core.images.pictures import MAX_BYTES, decode_picture
from stylert.core.seeds import z_from_seeds
from stylert.models.checkpoint import generator_module
from stylert.models.importers.import_checkpoint import read_stylegan2_generator
from stylert.runtime.input_checks import one_hot
from stylert.runtime.media.pictures import check_channels, check_own_picture, save_image
from stylert.runtime.media.video import check_video, write_video
from stylert.runtime.steering.latents_file import Latents, read_latents, truncated, write_latents

if TYPE_CHECKING:
    from stylert.models.stylegan2.networks import Generator
    from stylert.train.dragging.dragger import Drag, Dragger, DragSettings

#: The stage, for the refusal of other networks
PURPOSE = "stylert drag"
#: Files in --out
PICTURE, HANDLES, VIDEO, LATENTS = "picture.png", "handles.png", "drag.mp4", "latents.safetensors"
FPS = 25
#: Least side of each image in the picture of the handles
MARKED_SIDE = 256
#: Values of a mask from here on let the image change
WHITE = 128
#: Colors of a handle where it was, of its target, and of the place where tracking found it
START_COLOR, TARGET_COLOR, FOUND_COLOR = (220, 30, 30), (30, 70, 230), (20, 200, 60)


@dataclass(frozen=True)
class DragOptions:
    """The options of the command. The texts of `stylert drag --help` describe them."""

    checkpoint: Path
    points: tuple[str, ...]
    out: Path
    seed: int
    psi: float
    label: int | None
    latents: Path | None
    mask: Path | None
    steps: int
    seconds: float
    rate: float
    mask_weight: float
    features: int | None
    video: bool
    json: Path | None


def drag(options: DragOptions) -> None:
    """Drag points of an image.

    Raises:
        StylertError: A file cannot be read or does not fit, an option is out of range, or a result cannot be written.
    """
    try:
        from stylert.train.dragging.dragger import DragSettings
    except ImportError:
        raise missing_extra("PyTorch", "train") from None
    handles = [parse_handle(text) for text in options.points]
    settings = DragSettings(options.steps, options.seconds, options.rate, options.mask_weight)
    _check_places(options)
    weights = read_stylegan2_generator(options.checkpoint, PURPOSE)
    cfg, network = weights.config, sha256_of(options.checkpoint)
    check_handles(handles, cfg.resolution)
    check_channels(options.out / (VIDEO if options.video else PICTURE), cfg.img_channels, options.video)
    mask = None if options.mask is None else _read_mask(options.mask, cfg.resolution)
    generator = generator_module(weights)
    name, ws = _start(generator, network, options)
    dragger = new_dragger(generator, network, settings, options.features)
    frames: list[np.ndarray] = []
    started = time.process_time()
    with locked_folder(options.out):
        with progress() as report:
            found = dragger.drag(ws, handles, mask, progress=report, on_image=frames.append if options.video else None)
        took = time.process_time() - started
        facts = _facts(found, handles, options)
        comment = json.dumps({"AI-generated": True, "command": "drag", "picture": name, **facts})
        save_image(found.image, options.out / PICTURE, comment)
        save_image(_marked(found, handles), options.out / HANDLES, comment)
        if options.video:
            write_video(options.out / VIDEO, (frame[None] for frame in frames), FPS, comment)
        write_latents(options.out / LATENTS, Latents(network, found.ws[None], (name,), {"drag": facts}))
    if options.json is not None:
        write_json(options.json, {"checkpoint_sha256": network, "picture": name, **facts})
    _show(found, handles, took, options)


def new_dragger(generator: Generator, network: str, settings: DragSettings, features: int | None = None) -> Dragger:
    """The dragger of a generator. `features` is the side of the block whose features it compares."""
    from stylert.train.dragging.dragger import Dragger
    from stylert.train.dragging.features import BlockFeatures

    return Dragger(BlockFeatures(generator.requires_grad_(False).synthesis, features), settings, network)


def _check_places(options: DragOptions) -> None:
    inputs = (options.checkpoint, options.latents, options.mask)
    check_output(options.json, "JSON", inputs)
    if options.out.exists() and not options.out.is_dir():
        raise OutputError(f"cannot write into {options.out}: it is a file")
    results = [options.out / name for name in (PICTURE, HANDLES, VIDEO, LATENTS)]
    check_output(results[-1], "latents", inputs)
    for place in results[:-1]:
        check_own_picture(place)
    if results[-1].exists() and not results[0].exists():
        raise OutputError(f"cannot replace {results[-1]}: it is not of `stylert drag`; choose another folder")
    check_apart(options.json, options.out, *results)
    if options.video:
        check_video(options.out / VIDEO, FPS)


def _read_mask(file: Path, resolution: int) -> np.ndarray:
    """The mask of a picture file, bool `[R, R]`: true where it is white."""
    try:
        picture = decode_picture(read_file(file, InputError, MAX_BYTES, "mask"))
    except PictureError as e:
        raise InputError(f"mask {file} cannot be read: {e}") from None
    if picture.size != (resolution, resolution):
        raise InputError(
            f"mask {file} is {picture.width}x{picture.height} and the image {resolution}x{resolution}: give one of the same size"
        )
    mask = np.asarray(picture.convert("L")) >= WHITE
    if not mask.any():
        raise InputError(f"mask {file} is black everywhere, and the image may change where it is white")
    return mask


def _start(generator: Generator, network: str, options: DragOptions) -> tuple[str, np.ndarray]:
    """Name and ws `[num_ws, w_dim]` of the image that is dragged."""
    import torch

    cfg = generator.cfg
    if options.latents is None:
        z, c = torch.from_numpy(z_from_seeds([options.seed], cfg.z_dim)), None
        if cfg.c_dim and options.label is None:
            raise InputError(f"this network has {cfg.c_dim} classes: choose one with --class")
        if options.label is not None:
            if not cfg.c_dim:
                raise InputError("this network has no classes: leave out --class")
            c = torch.from_numpy(one_hot([options.label], 1, cfg.c_dim))
        with torch.no_grad():
            ws = generator.mapping(z, c, options.psi)
        return f"seed{options.seed:04d}", ws[0].numpy()
    if options.label is not None:
        raise InputError("--class is for seeds, and latents have their class already")
    latents = read_latents(options.latents)
    if latents.network != network or latents.ws.shape[1:] != (cfg.num_ws, cfg.w_dim):
        raise InputError(
            f"{options.latents} belongs to the network {latents.network[:12]}, and {options.checkpoint} is {network[:12]}"
        )
    name = latents.name(options.seed)
    w_avg = generator.mapping.w_avg.numpy()
    return name, truncated(latents.rows([options.seed]), w_avg, options.psi, None)[0]


def _facts(found: Drag, handles: Sequence[Handle], options: DragOptions) -> dict[str, Any]:
    outside = None if found.outside_psnr is None else round(found.outside_psnr, 3)
    return {
        "psi": options.psi,
        "handles": [
            {"handle": shown_handle(handle), "found": [float(x), float(y)], "distance": round(distance, 3)}
            for handle, (x, y), distance in zip(handles, found.points, found.distances, strict=True)
        ],
        "steps": found.steps,
        "ending": found.ending,
        "outside_psnr_db": outside,
        "rate": options.rate,
        "mask_weight": options.mask_weight,
        "mask_sha256": None if options.mask is None else sha256_of(options.mask),
    }


def _marked(found: Drag, handles: Sequence[Handle]) -> np.ndarray:
    """The images before and after side by side, enlarged, with the handles drawn over them. uint8 `[H, W, 3]`."""
    scale = max(1, -(-MARKED_SIDE // found.image.shape[0]))
    pair = []
    for image, is_after in ((found.before, False), (found.image, True)):
        pixels = np.broadcast_to(image[..., :1], (*image.shape[:2], 3)) if image.shape[2] < 3 else image[..., :3]
        picture = Image.fromarray(np.ascontiguousarray(pixels.repeat(scale, 0).repeat(scale, 1)))
        draw = ImageDraw.Draw(picture)
        for handle, place in zip(handles, found.points, strict=True):
            start, target, end = (tuple((float(v) + 0.5) * scale for v in point) for point in (handle[:2], handle[2:], place))
            draw.line([start, target], fill=TARGET_COLOR, width=max(1, scale // 4))
            _dot(draw, start, START_COLOR, scale)
            _dot(draw, target, TARGET_COLOR, scale)
            if is_after:
                _dot(draw, end, FOUND_COLOR, scale)
        pair.append(np.asarray(picture))
    return np.concatenate(pair, 1)


def _dot(draw: ImageDraw.ImageDraw, place: tuple[float, ...], color: tuple[int, int, int], scale: int) -> None:
    x, y = place
    radius = max(2.0, scale * 0.75)
    draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=color, outline=(255, 255, 255))


def _show(found: Drag, handles: Sequence[Handle], took: float, options: DragOptions) -> None:
    rows = [
        (shown_handle(handle), f"{np.hypot(handle.target_x - handle.x, handle.target_y - handle.y):.1f}", f"{distance:.1f}")
        for handle, distance in zip(handles, found.distances, strict=True)
    ]
    print_table("distance to the target", ["<handle", "before, px", "after, px"], rows)
    outside = (
        "" if found.outside_psnr is None else f"; outside of the mask, the image is the old one to {found.outside_psnr:.2f} dB"
    )
    print_line(f"{found.steps} steps in {took:.3g} s of processor time{outside}")
    if found.ending == "steps":
        print_note(f"not all handles arrived within {found.steps} steps: see --steps", style="yellow")
    elif found.ending == "seconds":
        print_note(f"not all handles arrived within {options.seconds:g} s: see --seconds", style="yellow")
    print_line(f"wrote {options.out / PICTURE}, and {options.out / LATENTS} for it")
