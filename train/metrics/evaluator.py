"""Computes metrics of a generator. Each input that several metrics share is made once, see `evaluation_inputs`.

The names of the values say which network was used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch

from stylert.core.errors import InputError
from stylert.core.progress import Progress
from stylert.core.seeds import z_from_seeds
from stylert.models.features.extractors import Extractor
from stylert.models.stylegan2.networks import Generator
from stylert.train.metrics.coverage import coverage
from stylert.train.metrics.distances import NEIGHBOURS, frechet_distance, inception_score, kernel_distance, precision_recall
from stylert.train.metrics.evaluation_inputs import EvaluationInputs, SharedInputs
from stylert.train.metrics.features import generated_features, generated_images, seeds_of_images
from stylert.train.metrics.metric import FEATURE_METRICS, FULL, PART_METRICS, PATH_METRICS, Metric
from stylert.train.metrics.perceptual_path import PathSampling, mean_without_outliers, path_distances
from stylert.train.metrics.separability import linear_separability
from stylert.train.sampling import labels_of_seeds

BATCH = 50

#: The values of metrics, by the name under which they are reported.
Values = dict[str, float]


class Evaluator:
    """Computes the same metrics of one or several generators. Real images are read once."""

    def __init__(self, metrics: Sequence[Metric], inputs: EvaluationInputs, progress: Progress | None = None) -> None:
        """Check that the inputs suffice. Nothing is read yet.

        Args:
            metrics: The metrics.
            inputs: The inputs.
            progress: Called while images are read, generated and compared.

        Raises:
            InputError: A metric lacks an input, or the noise is unknown.
        """
        self.metrics, self.progress = tuple(metrics), progress
        self.shared = SharedInputs(metrics, inputs, progress)

    def evaluate(self, generator: Generator) -> Values:
        """The values of all metrics of a generator, which is on a CPU.

        With another noise than `random`, the names of the values say so.

        Raises:
            DataError: The real images cannot be read.
            InputError: There are too few of them, the generator has another resolution or other labels than they, or its images
                are neither grey nor RGB.
        """
        if generator.cfg.img_channels not in (1, 3):
            raise InputError(f"metrics compare grey or RGB images, and this network has {generator.cfg.img_channels} channels")
        by_extractor: dict[str, np.ndarray] = {}

        def features(extractor: Extractor) -> np.ndarray:
            if extractor.name not in by_extractor:
                by_extractor[extractor.name] = self._generated_features(extractor, generator)
            return by_extractor[extractor.name]

        @cache
        def pixels() -> np.ndarray:
            return self._generated_pixels(generator)

        values: Values = {}
        for metric in self.metrics:
            if metric.name in FEATURE_METRICS:
                values |= self._feature_values(metric, features)
            elif metric.name in PATH_METRICS:
                values |= self._path_length(metric, generator)
            elif metric.name == "modes":
                values |= self._modes(self.shared.classifier.predict(pixels()[: metric.images]))
            else:
                values |= self._separability(metric, generator, pixels()[: metric.images])
        return self._with_noise_named(values)

    def floor(self) -> Values:
        """The values between two sets of real images, for the metrics that have them.

        Feature metrics compare `inputs.floor` with `inputs.data`. Modes compare the parts that the classifier reads in
        held-out images with their known parts.
        """
        values: Values = {}
        for metric in self.metrics:
            if metric.name in FEATURE_METRICS and self.shared.inputs.floor is not None:
                values |= self._feature_values(metric, self.shared.floor_features)
            elif metric.name == "modes":
                held_out_images, _ = self.shared.held_out
                values |= self._modes(self.shared.classifier.predict(held_out_images[: metric.images]))
        return self._with_noise_named(values)

    @property
    def real_images(self) -> int:
        """See `SharedInputs.real_images`."""
        return self.shared.real_images

    def _with_noise_named(self, values: Values) -> Values:
        mode = self.shared.inputs.noise_mode
        return values if mode == "random" else {f"{name} ({mode} noise)": value for name, value in values.items()}

    # --- generated images ------------------------------------------------------------------------------------------

    def _generated_features(self, extractor: Extractor, generator: Generator) -> np.ndarray:
        """Features of generated images, for the feature metric that needs most."""
        shared = self.shared
        count, labels = shared.most_generated, shared.labels(generator)
        return generated_features(
            extractor, generator, count, self.progress, labels=labels, noise_mode=shared.inputs.noise_mode
        )

    def _generated_pixels(self, generator: Generator) -> np.ndarray:
        """Generated images uint8 `[N, C, R, R]`, for the part metric that needs most."""
        shared = self.shared
        shape = (generator.cfg.img_channels, generator.cfg.height, generator.cfg.width)
        if shape != shared.dataset.images.shape[1:]:
            raise InputError(
                f"parts are read at one size: the generator draws {list(shape)}, the real images are "
                f"{list(shared.dataset.images.shape[1:])}"
            )
        count = max(m.images for m in self.metrics if m.name in PART_METRICS)
        batches = []
        for start in range(0, count, BATCH):
            n = min(BATCH, count - start)
            images = generated_images(generator, start, n, shared.labels(generator), shared.inputs.noise_mode)
            batches.append(images.transpose(0, 3, 1, 2))
            if self.progress is not None:
                self.progress("drawn images", start + n, count)
        return np.concatenate(batches)

    # --- the metrics -----------------------------------------------------------------------------------------------

    def _feature_values(self, metric: Metric, features: Callable[[Extractor], np.ndarray]) -> Values:
        """A metric between the real features and those that `features` returns."""
        extractor = self.shared.extractor(metric)
        real = self.shared.real_features(extractor)[: None if metric.full else metric.images]
        compared = features(extractor)[: metric.images]
        suffix = FULL if metric.full else ""
        if metric.name == "fid":
            return {f"FID{suffix}": frechet_distance(compared, real)}
        if metric.name in ("fd", "fd_vgg"):
            return {f"FD-{extractor.name}{suffix}": frechet_distance(compared, real)}
        if metric.name == "kid":
            name = f"KID-{extractor.name}" if self.shared.inputs.inception is None else "KID"
            return {name + suffix: kernel_distance(compared, real)}
        if metric.name == "is":
            mean, deviation = inception_score(self.shared.inception.logits(compared))
            return {"IS": mean, "IS-deviation": deviation}
        if len(real) <= NEIGHBOURS:
            raise InputError(f"precision and recall need more than {NEIGHBOURS} real images")
        precision, recall = precision_recall(compared, real)
        return {f"precision-{extractor.name}{suffix}": precision, f"recall-{extractor.name}{suffix}": recall}

    def _path_length(self, metric: Metric, generator: Generator) -> Values:
        """A metric named `ppl_<space>[_end][_crop]`."""
        options = metric.name.split("_")[1:]
        sampling = PathSampling(options[0], "end" not in options, "crop" in options, self.shared.inputs.noise_mode)
        distances = path_distances(
            generator,
            self.shared.distance,
            sampling,
            metric.images,
            progress=self.progress,
            stage=metric.name,
            labels=self.shared.labels(generator),
        )
        suffix = "" if self.shared.distance.name == "LPIPS" else f"-{self.shared.distance.name}"
        return {f"PPL_{'_'.join(options)}{suffix}": mean_without_outliers(distances)}

    def _modes(self, parts: np.ndarray) -> Values:
        """Coverage of the predicted parts `[N, L]`, and the accuracy of the classifier on held-out real images."""
        held_out_images, held_out_parts = self.shared.held_out
        result = coverage(parts, held_out_parts)
        return {
            f"parts covered (of {result.parts})": float(result.covered),
            "part frequencies, distance": result.distance,
            "distinct combinations": result.distinct,
            "reader, right on real images": float((self.shared.classifier.predict(held_out_images) == held_out_parts).mean()),
        }

    def _separability(self, metric: Metric, generator: Generator, pixels: np.ndarray) -> Values:
        """A metric named `ls_z` or `ls_w`."""
        space = metric.name.removeprefix("ls_")
        seeds = seeds_of_images(0, metric.images)
        latents = torch.from_numpy(z_from_seeds(seeds, generator.cfg.z_dim))
        if space == "w":
            latents = _map_to_w(generator, latents, labels_of_seeds(generator, seeds, self.shared.labels(generator)))
        margins = self.shared.classifier.margins(pixels)
        return {f"linear separability in {space}": linear_separability(latents.double().numpy(), margins, rare=True)}


@torch.no_grad()
def _map_to_w(generator: Generator, z: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
    """w `[N, w_dim]` of z `[N, z_dim]` and labels `[N, c_dim]`."""
    ws: torch.Tensor = generator.mapping(z, c)
    return ws[:, 0]
