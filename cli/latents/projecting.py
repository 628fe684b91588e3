"""Runs project: finds the latents of pictures, one after the other, and writes the result of each as soon as it is found."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from stylert.cli.console import print_line, print_note, print_table, progress
from stylert.core.errors import InputError, OutputError, missing_extra
from stylert.core.files.digests import sha256_of
from stylert.core.files.locks import locked_folder
from stylert.core.files.outputs import check_output, is_same_file, is_within, write_json
from stylert.core.files.safetensors_files import safetensors_file
from stylert.core.images.grids import make_grid
from stylert.core.progress import Progress
from stylert.models.checkpoint import generator_module
from stylert.models.importers.import_checkpoint import read_stylegan2_generator
from stylert.runtime.media.pictures import check_own_picture, save_image
from stylert.runtime.media.video import check_video, write_video
from stylert.runtime.steering.latents_file import Latents, read_latents, write_latents

if TYPE_CHECKING:
    from stylert.models.features.perceptual import MapDistance
    from stylert.train.projection.objective import Objective
    from stylert.train.projection.pictures import TargetPicture
    from stylert.train.projection.projector import Noise, Projection, Projector, Space

#: The stage, for the refusal of other networks
PURPOSE = "stylert project"
#: Folder of the results of single pictures in --out, and the latents of all pictures
FOLDER, ALL = "pictures", "latents.safetensors"
#: Steps, unless they are given
STEPS = 400
#: Pictures that are compared with the random latents together. Their feature maps are in memory.
GROUP = 64
#: Least and greatest side of the images in EfficientNet-Lite0. Smaller images are enlarged for it.
LEAST_SIDE, GREATEST_SIDE = 64, 224
FPS = 25


@dataclass(frozen=True)
class ProjectOptions:
    """The options of the command. The texts of `stylert project --help` describe them."""

    checkpoint: Path
    out: Path
    encoder: Path | None
    space: str | None
    noise: str
    steps: int | None
    starts: int
    candidates: int
    pixel_weight: float
    explore: float
    lpips: tuple[Path, ...]
    transform: str
    seed: int
    video: bool
    replace: bool
    json: Path | None


def project(places: Sequence[Path], self_test: int, psis: Sequence[float], options: ProjectOptions) -> None:
    """Project pictures, and in a self-test images of the network itself.

    Args:
        places: Picture files, and folders or zips of them.
        self_test: How many images of the network are projected in place of pictures; 0 for none.
        psis: Truncations of these images.
        options: The options.

    Raises:
        StylertError: A picture or file cannot be read, an option is out of range, or a result cannot be written.
    """
    try:
        from stylert.cli.latents.encoding import Encoding
        from stylert.train.projection.objective import Objective
        from stylert.train.projection.pictures import read_pictures
        from stylert.train.projection.starts import SAMPLES
    except ImportError:
        raise missing_extra("PyTorch", "train") from None
    if bool(places) == bool(self_test):
        raise InputError("give pictures, or --self-test N for images of the network itself")
    if self_test and len({f"{psi:g}" for psi in psis}) < len(psis):
        raise InputError("--psi names a truncation twice, and each has images of its own")
    if options.candidates and not options.starts <= options.candidates <= SAMPLES:
        raise InputError(f"--candidates is 0, or from --starts to {SAMPLES}, not {options.candidates}")
    _check_places(places, options)
    method = Optimisation(options) if options.encoder is None else Encoding(options.encoder, options)
    weights = read_stylegan2_generator(options.checkpoint, PURPOSE)
    cfg = weights.config
    generator = generator_module(weights)
    if self_test:
        pictures = _own_images(generator, self_test, psis)
    else:
        cfg.require_usual_shape("a projection")
        pictures = read_pictures(places, cfg.resolution, cfg.img_channels, options.transform)
    for picture in pictures:
        if picture.note:
            print_note(f"{picture.name}: {picture.note}")
    distance = perceptual_distance(options.lpips, cfg.resolution)
    objective = Objective(distance, options.pixel_weight)
    settings = method.facts | {
        "pixel_weight": options.pixel_weight,
        "distance": distance.name,
        "weights": [sha256_of(file) for file in options.lpips],
    }
    results = _Results(options, sha256_of(options.checkpoint), settings)
    started = time.process_time()
    with locked_folder(options.out):
        with progress() as report:
            rows = _rows(method, method.load(generator, objective), pictures, results, report)
        latents = Latents(results.network, np.concatenate([row.ws for row in rows]), tuple(row.names[0] for row in rows))
        write_latents(options.out / ALL, latents)
    _show(rows, psis if self_test else ())
    print_line(f"{(time.process_time() - started) / len(rows):.3g} s of processor time for each picture")
    if options.json is not None:
        content = {"checkpoint_sha256": results.network, "settings": results.settings}
        write_json(options.json, {**content, "pictures": [_row(row) for row in rows]})
    print_line(f"wrote {options.out / ALL}: latents of {len(rows)} pictures")


def _check_places(places: Sequence[Path], options: ProjectOptions) -> None:
    check_output(options.json, "JSON", (options.checkpoint, options.encoder, *options.lpips, *places))
    for place in places:
        if place.is_dir() and is_within(options.out, place):
            raise OutputError(f"cannot write into {options.out}: it lies among the pictures of {place}; choose another folder")
    if options.out.exists() and not options.out.is_dir():
        raise OutputError(f"cannot write into {options.out}: it is a file")
    check_output(options.out / ALL, "latents", (options.checkpoint, options.encoder, *options.lpips))
    check_apart(options.json, options.out, options.out / ALL)
    if options.video:
        check_video(options.out / "a.mp4", FPS)


def check_apart(json: Path | None, out: Path, *results: Path) -> None:
    """Raise InputError if `--json` would be written over a result in the folder `out`."""
    if json is not None and (is_within(json, out / FOLDER) or any(is_same_file(json, place) for place in (out, *results))):
        raise InputError(f"--out and --json both write {json}: choose another file")


def _own_images(generator: Any, count: int, psis: Sequence[float]) -> list[TargetPicture]:
    """Images of the seeds from 0 on for each psi, with the network's constant noise."""
    from stylert.train.projection.pictures import TargetPicture
    from stylert.train.sampling import sample_images

    return [
        TargetPicture(f"psi{psi:g}-seed{seed:04d}", image)
        for psi in psis
        for seed, image in enumerate(sample_images(generator, count, psi))
    ]


def perceptual_distance(lpips: Sequence[Path], resolution: int) -> MapDistance:
    """LPIPS from the files of the user, or the stand-in on EfficientNet-Lite0."""
    from stylert.models.features.perceptual import EffNetLite0MapDistance, Lpips

    if lpips:
        return Lpips(lpips)
    return EffNetLite0MapDistance(min(max(-(-resolution // 32) * 32, LEAST_SIDE), GREATEST_SIDE))


#: A picture with its result, and the images of its convergence if there is to be a video
Found = tuple["TargetPicture", "Projection", "list[np.ndarray] | None"]


class Method(Protocol):
    """A way to find latents."""

    @property
    def facts(self) -> dict[str, Any]:
        """All that a result depends on, beside the network, the picture and the loss."""

    def load(self, generator: Any, objective: Objective) -> Any:
        """Make ready for a generator."""

    def groups(self, pictures: Sequence[TargetPicture], ready: Collection[str]) -> list[Sequence[TargetPicture]]:
        """The pictures that are computed together. Those that are all `ready`, by name, are left out."""

    def find(self, loaded: Any, group: Sequence[TargetPicture], report: Progress) -> Iterator[Found]:
        """The results of a group, one after the other."""


class Optimisation:
    """From the nearest random latents, picture by picture (`Projector`)."""

    def __init__(self, options: ProjectOptions) -> None:
        """Raises InputError for a setting that is out of range."""
        from stylert.train.projection.projector import ProjectionSettings
        from stylert.train.projection.schedule import Schedule

        schedule = Schedule(STEPS if options.steps is None else options.steps, noise=options.explore)
        space, noise = cast("Space", options.space or "w"), cast("Noise", options.noise)
        self.options, self.settings = options, ProjectionSettings(space, noise, schedule, seed=options.seed)

    @property
    def facts(self) -> dict[str, Any]:
        """See `Method`."""
        options, settings = self.options, self.settings
        return {
            "space": settings.space,
            "noise": settings.noise,
            "steps": settings.schedule.steps,
            "starts": options.starts,
            "candidates": options.candidates,
            "explore": settings.schedule.noise,
            "seed": settings.seed,
        }

    def load(self, generator: Any, objective: Objective) -> Projector:
        """See `Method`."""
        from stylert.train.projection.projector import Projector
        from stylert.train.projection.starts import latent_statistics

        return Projector(generator, latent_statistics(generator), objective, self.settings)

    def groups(self, pictures: Sequence[TargetPicture], ready: Collection[str]) -> list[Sequence[TargetPicture]]:
        """See `Method`."""
        missing = [picture for picture in pictures if picture.name not in ready]
        return [missing[begin : begin + GROUP] for begin in range(0, len(missing), GROUP)]

    def find(self, projector: Projector, group: Sequence[TargetPicture], report: Progress) -> Iterator[Found]:
        """See `Method`."""
        from stylert.train.projection.starts import nearest_latents

        options, statistics = self.options, projector.statistics
        targets = [projector.objective.target(picture.image) for picture in group]
        starts = [statistics.mean[None]] * len(group)
        if options.candidates:
            count = (options.candidates, options.starts)
            starts = nearest_latents(projector.generator, statistics, projector.objective, targets, *count, report)
        for picture, target, start in zip(group, targets, starts, strict=True):
            frames: list[np.ndarray] | None = [] if options.video else None
            on_image = None if frames is None else frames.append
            yield picture, projector.project(target, start, report, on_image, picture.name), frames


def _rows(method: Method, loaded: Any, pictures: Sequence[TargetPicture], results: _Results, report: Progress) -> list[Latents]:
    """The latents of each picture: those that are there, and the others as they are found."""
    rows = {picture.name: row for picture in pictures if (row := results.read(picture)) is not None}
    if rows:
        print_note(f"{len(rows)} of {len(pictures)} pictures are there already")
    for group in method.groups(pictures, rows.keys()):
        for picture, found, frames in method.find(loaded, group, report):
            if picture.name not in rows:
                rows[picture.name] = results.write(picture, found, frames)
    return [rows[picture.name] for picture in pictures]


@dataclass(frozen=True)
class _Results:
    """The files of single pictures in `--out`. The latents come last: where they are, all is."""

    options: ProjectOptions
    network: str
    settings: dict[str, Any]

    def read(self, picture: TargetPicture) -> Latents | None:
        """The latents of a picture that an earlier call has projected in the same way, or None.

        Raises:
            OutputError: They are those of another picture, network or other settings, and not to be replaced.
            InputError: The file is damaged.
        """
        file = self._file(picture, ".safetensors")
        check_own_picture(self._file(picture, ".png"))
        if self.options.video:
            check_own_picture(self._file(picture, ".mp4"))
        check_output(file, "latents")
        if not file.exists() or file.stat().st_size == 0 or self.options.replace:
            return None
        found = read_latents(file)
        if (found.network, found.facts.get("settings"), found.facts.get("picture_sha256")) != (
            self.network,
            self.settings,
            _sha256(picture),
        ):
            raise OutputError(
                f"{file} was found for another picture or network, or with other settings: choose another --out, or --replace"
            )
        return None if self.options.video and not self._file(picture, ".mp4").exists() else found

    def write(self, picture: TargetPicture, found: Projection, frames: Sequence[np.ndarray] | None) -> Latents:
        """Write the results of a picture: pair, video and noise, and then the latents."""
        facts = {"psnr_db": round(found.psnr, 3), "distance": round(found.distance, 6)}
        if found.noise_psnr is not None:
            facts["psnr_with_noise_db"] = round(found.noise_psnr, 3)
        comment = json.dumps({"AI-generated": True, "command": "project", "picture": picture.name, **facts})
        pair = make_grid(np.stack([picture.pixels, found.image]), 2)
        save_image(pair, self._file(picture, ".png"), comment)
        if frames is not None:
            images = (np.concatenate([picture.pixels, frame], 1)[None] for frame in frames)
            write_video(self._file(picture, ".mp4"), images, FPS, comment)
        if found.noise:
            from safetensors.numpy import save_file

            tensors = {_noise_input(name): np.ascontiguousarray(maps[None, None]) for name, maps in found.noise.items()}
            with safetensors_file(self._file(picture, ".noise.safetensors")) as temporary:
                save_file(tensors, temporary)
        facts |= {"picture_sha256": _sha256(picture), "settings": self.settings}  # type: ignore[dict-item]
        latents = Latents(self.network, found.ws[None], (picture.name,), facts)
        write_latents(self._file(picture, ".safetensors"), latents)
        return latents

    def _file(self, picture: TargetPicture, suffix: str) -> Path:
        return self.options.out / FOLDER / f"{picture.name}{suffix}"


def _sha256(picture: TargetPicture) -> str:
    return hashlib.sha256(np.ascontiguousarray(picture.pixels).data).hexdigest()


def _noise_input(buffer: str) -> str:
    """The name of a bundle's noise input for a buffer such as `b8.conv0.noise_const`."""
    block, layer, _ = buffer.split(".")
    return f"noise_{block[1:]}_{layer}"


def _row(row: Latents) -> dict[str, Any]:
    return {"name": row.names[0], **{key: value for key, value in row.facts.items() if key != "settings"}}


def _show(rows: Sequence[Latents], psis: Sequence[float]) -> None:
    """Print PSNR and distance of each picture, and for a self-test the mean and the worst of each psi."""
    print_table(
        "pictures",
        ["<name", "PSNR dB", "distance"],
        [(row.names[0], f"{row.facts['psnr_db']:.2f}", f"{row.facts['distance']:.4f}") for row in rows],
    )
    for psi in psis:
        values = [row.facts["psnr_db"] for row in rows if row.names[0].startswith(f"psi{psi:g}-")]
        print_line(
            f"psi {psi:g}: PSNR {np.mean(values):.2f} dB in the mean and {min(values):.2f} dB at worst, {len(values)} images"
        )
