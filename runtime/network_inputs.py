"""The inputs of a bundle's two networks, from the arguments of a call.

`input_checks` checks single values. This file says which inputs the networks of a bundle take, and in which shapes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stylert.core.errors import InputError, shown
from stylert.runtime.bundle import STYLE_OFFSETS, Bundle
from stylert.runtime.cuda.arrays import DeviceView
from stylert.runtime.input_checks import MAX_VALUE, finite_number, float_input, host_floats, one_hot, whole_number


def mapping_inputs(
    bundle: Bundle, z: Any, psi: Any, cutoff: Any, labels: Sequence[int] | np.ndarray | None
) -> dict[str, np.ndarray]:
    """The inputs of the mapping network: `z` `[N, z_dim]`, `psi` `[N, num_ws]`, and `c` `[N, c_dim]` of a conditional one.

    Args:
        bundle: The bundle.
        z: As for `Generator.map`, like the arguments below.
        psi: Truncation of the first latents.
        cutoff: How many latents are truncated; None for all.
        labels: Class indices `[N]` or label vectors `[N, c_dim]`.

    Raises:
        InputError: An argument has another form, shape or range, or the network takes no labels.
    """
    c_dim = bundle.model["c_dim"]
    z = host_floats(z, ("N", bundle.model["z_dim"]), "z")
    psi = finite_number(psi, "psi")
    if abs(psi) > MAX_VALUE:
        raise InputError(f"psi is at most {MAX_VALUE:g} in size, not {psi:g}")
    if cutoff is not None:
        cutoff = whole_number(cutoff, "cutoff", 0, bundle.num_ws)
    psi_of_latents = np.ones((len(z), bundle.num_ws), np.float32)
    psi_of_latents[:, :cutoff] = psi
    inputs = {"z": z, "psi": psi_of_latents}
    if c_dim:
        return inputs | {"c": one_hot(labels, len(z), c_dim)}
    if labels is not None:
        raise InputError("this network takes no labels")
    return inputs


def synthesis_inputs(
    bundle: Bundle, ws: Any, noise: Any, style_offsets: Any, on_gpu: bool, backend: str
) -> dict[str, np.ndarray | DeviceView]:
    """The inputs of the synthesis network: `ws` `[N, num_ws, w_dim]`, the noise, and the offsets of the styles.

    Args:
        bundle: The bundle.
        ws: As for `Generator.synthesize`, like the two arguments below.
        noise: A mapping from each noise input to an array `[N, 1, R, R]`; None if there are none.
        style_offsets: `[N, S]`; None adds nothing.
        on_gpu: Whether the backend takes arrays that lie on the GPU.
        backend: Name of the backend, for errors.

    Raises:
        InputError: An argument has another form or shape, or the network has no such input.
    """
    inputs = {"ws": float_input(ws, ("N", bundle.num_ws, bundle.model["w_dim"]), "ws", on_gpu, backend)}
    n = len(inputs["ws"])
    for name, value in _noise_of(bundle, noise).items():
        inputs[name] = float_input(value, (n, 1, *bundle.noise_sizes[name]), name, on_gpu, backend)
    if style_offsets is None:
        return inputs | bundle.unmoved_styles(n)
    if not bundle.style_channels:
        raise InputError("this bundle has no input for styles; export it with --style-offsets")
    return inputs | {STYLE_OFFSETS: float_input(style_offsets, (n, bundle.style_channels), STYLE_OFFSETS, on_gpu, backend)}


def _noise_of(bundle: Bundle, noise: Any) -> Mapping[Any, Any]:
    """The noise by input. Raises InputError unless it has exactly the inputs of the network."""
    if noise is None:
        noise = {}
    if not isinstance(noise, Mapping):
        raise InputError(f"noise is a dictionary of arrays by name, not {shown(noise)}")
    if set(noise) != set(bundle.noise_inputs):
        names = ", ".join(sorted(bundle.noise_inputs))
        raise InputError(f"this bundle takes {f'exactly the noise inputs {names}' if names else 'no noise inputs'}")
    return noise
