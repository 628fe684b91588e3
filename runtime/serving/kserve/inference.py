"""A served model in the terms of the KServe protocol: named tensors in, named tensors out.

Inputs are either `seed`, with `psi`, `cutoff` and `label` as options, or the latents `ws`. Outputs are `image` and `ws`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stylert.core.errors import InputError, shown
from stylert.runtime.input_checks import host_floats
from stylert.runtime.media.composition import Composition
from stylert.runtime.serving.kserve.tensors import TensorFacts
from stylert.runtime.serving.model_store import Item, ModelStore, ServedModel, latents_of
from stylert.runtime.serving.refusals import Refusal
from stylert.runtime.serving.settings import ServerSettings

#: The one version of every model.
VERSION = "1"
PLATFORM = "stylert"
IMAGE, WS = "image", "ws"


def find_model(store: ModelStore, name: str, version: str = "") -> ServedModel:
    """The model of a name and version. Raises Refusal with status 404."""
    if version not in ("", VERSION):
        raise Refusal(404, f"models have the version {VERSION}, not {shown(version)}")
    return store.find(name)


def inputs_of(model: ServedModel) -> list[TensorFacts]:
    """Every input. All are optional, but one of `seed` and `ws` is needed."""
    bundle = model.bundle
    labels = [TensorFacts("label", "INT32", (-1,))] if bundle.model["c_dim"] else []
    return [
        TensorFacts("seed", "INT64", (-1,)),
        TensorFacts("psi", "FP32", (-1,)),
        TensorFacts("cutoff", "INT32", (-1,)),
        *labels,
        TensorFacts(WS, "FP32", (-1, bundle.num_ws, bundle.model["w_dim"])),
    ]


def outputs_of(model: ServedModel) -> list[TensorFacts]:
    """Every output."""
    bundle = model.bundle
    return [
        TensorFacts(IMAGE, "UINT8", (-1, bundle.height, bundle.width, bundle.model["img_channels"])),
        TensorFacts(WS, "FP32", (-1, bundle.num_ws, bundle.model["w_dim"])),
    ]


def metadata_of(model: ServedModel) -> dict[str, Any]:
    """The answer to a request for metadata."""

    def facts(tensors: list[TensorFacts]) -> list[dict[str, Any]]:
        return [{"name": t.name, "datatype": t.datatype, "shape": t.shape} for t in tensors]

    own = {"name": model.name, "versions": [VERSION], "platform": PLATFORM}
    return {**own, "inputs": facts(inputs_of(model)), "outputs": facts(outputs_of(model))}


def requested_outputs(model: ServedModel, names: Sequence[str]) -> list[TensorFacts]:
    """The outputs of these names; all for none. Raises InputError for an unknown one."""
    known = {tensor.name: tensor for tensor in outputs_of(model)}
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"model {model.name} has no output {shown(unknown[0])}, only: {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names)] or list(known.values())


async def infer(
    model: ServedModel, tensors: Mapping[str, np.ndarray], outputs: Sequence[TensorFacts], settings: ServerSettings
) -> dict[str, Sequence[np.ndarray]]:
    """Run one inference.

    Args:
        model: The model.
        tensors: Inputs by name.
        outputs: The outputs to compute.
        settings: The limits of a request.

    Returns:
        One array for each image, by the name of the output.

    Raises:
        InputError: An input is unknown, missing, or has another shape or range.
        Overloaded: The queue is full.
    """
    items = _items(model, tensors, settings)
    names = [tensor.name for tensor in outputs]
    if IMAGE not in names:
        return {WS: list(await asyncio.to_thread(latents_of, model.generator, items))}
    job = model.batcher.submit(items)
    try:
        made = await asyncio.gather(*job.results)
    finally:
        model.batcher.cancel(job)
    results: dict[str, Sequence[np.ndarray]] = {IMAGE: [each.image for each in made], WS: [each.ws for each in made]}
    return {name: results[name] for name in names}


def _items(model: ServedModel, tensors: Mapping[str, np.ndarray], settings: ServerSettings) -> list[Item]:
    bundle = model.bundle
    known = [tensor.name for tensor in inputs_of(model)]
    if unknown := [name for name in tensors if name not in known]:
        raise InputError(f"model {model.name} has no input {shown(unknown[0])}, only: {', '.join(known)}")
    if WS in tensors:
        if len(tensors) > 1:
            raise InputError(f"ws are the whole image: leave out {', '.join(name for name in tensors if name != WS)}")
        if tensors[WS].ndim:
            _check_count(len(tensors[WS]), bundle.pixels, settings)
        return list(host_floats(tensors[WS], ("N", bundle.num_ws, bundle.model["w_dim"]), WS))
    if "seed" not in tensors:
        raise InputError(f"model {model.name} needs the input seed or ws")
    seeds = _column("seed", tensors["seed"], "iu", None)
    _check_count(len(seeds), bundle.pixels, settings)
    count = len(seeds)
    psi = _column("psi", tensors.get("psi", np.ones(1, np.float32)), "f", count)
    labels = _column("label", tensors["label"], "iu", count) if "label" in tensors else [None] * count
    cutoffs = _column("cutoff", tensors["cutoff"], "iu", count) if "cutoff" in tensors else [None] * count
    items: list[Item] = []
    for seed, factor, cutoff, label in zip(seeds, psi, cutoffs, labels, strict=True):
        item = Composition((seed,) * bundle.num_ws, factor, cutoff, label)
        item.check(bundle)
        items.append(item)
    return items


def _column(name: str, tensor: np.ndarray, kinds: str, count: int | None) -> list[Any]:
    """The values of an input with one value per image: [N], [N, 1], or one value for all."""
    is_column = tensor.ndim == 1 or (tensor.ndim == 2 and tensor.shape[1] == 1)
    if not is_column or tensor.dtype.kind not in kinds or (count is not None and tensor.size not in (1, count)):
        raise InputError(
            f"input {name} has one {'number' if kinds == 'f' else 'whole number'} per image, not {list(tensor.shape)}"
        )
    values = tensor.ravel().tolist()
    return values if count is None else values * (count if len(values) == 1 else 1)


def _check_count(count: int, pixels: int, settings: ServerSettings) -> None:
    most = min(settings.max_images, settings.max_pixels // pixels)
    if not 1 <= count <= most:
        raise InputError(f"a request is for 1 to {most} images, not {count}")
