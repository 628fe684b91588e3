"""A bundle in the Python backend of Triton Inference Server: seeds to images. Triton imports this file as `model.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import triton_python_backend_utils as triton  # type: ignore[import-not-found]

from stylert.core.errors import StylertError
from stylert.core.images.grids import as_uint8
from stylert.runtime import Generator
from stylert.runtime.media.composition import Composition, composed_ws


class TritonPythonModel:
    """The class that Triton looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        parameters = {name: value["string_value"] for name, value in json.loads(args["model_config"])["parameters"].items()}
        threads = parameters.get("threads")
        folder = Path(__file__).parent / "bundle"
        self._generator = Generator.load(
            folder, parameters["backend"], parameters["precision"], None if threads is None else int(threads)
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """One call of the network for all requests that Triton put into a batch. A wrong request fails alone."""
        answers: dict[int, Any] = {}
        compositions: list[Composition] = []
        counts: dict[int, int] = {}
        for index, request in enumerate(requests):
            try:
                own = self._compositions(request)
            except StylertError as e:
                answers[index] = triton.InferenceResponse(error=triton.TritonError(str(e)))
            else:
                counts[index] = len(own)
                compositions += own
        if compositions:
            images = as_uint8(self._generator.synthesize(composed_ws(self._generator, compositions)))
            for index, count in counts.items():
                answers[index] = triton.InferenceResponse([triton.Tensor("image", images[:count])])
                images = images[count:]
        return [answers[index] for index in range(len(requests))]

    def finalize(self) -> None:
        self._generator.close()

    def _compositions(self, request: Any) -> list[Composition]:
        bundle = self._generator.bundle
        columns: dict[str, list[Any]] = {}
        for name in ("seed", "psi", "label"):
            tensor = triton.get_input_tensor_by_name(request, name)
            columns[name] = [] if tensor is None else tensor.as_numpy().ravel().tolist()
        seeds = columns["seed"]
        psi, labels = columns["psi"] or [1.0] * len(seeds), columns["label"] or [None] * len(seeds)
        items = [
            Composition((seed,) * bundle.num_ws, factor, None, label)
            for seed, factor, label in zip(seeds, psi, labels, strict=True)
        ]
        for item in items:
            item.check(bundle)
        return items
