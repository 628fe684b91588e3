"""The latents on which export measures: those that set the 8-bit scales, and those on which it judges what came of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort

from stylert.core.seeds import z_from_seeds
from stylert.models.stylegan2.config import GeneratorConfig

CALIBRATION_SAMPLES = 128
#: Far from the small seeds that people look at, so that no picture is judged on the latents that set the scales.
CALIBRATION_FIRST_SEED = 1_000_000_000

#: Others again, on which the search for layers to leave out measures.
SEARCH_SAMPLES, SEARCH_FIRST_SEED = 16, 3_000_000_000


def calibration_latents(cfg: GeneratorConfig, mapping: Path) -> list[np.ndarray]:
    """ws as they are served: psi from 0.5 to 1, half of them with styles mixed at a random layer; one per batch."""
    session = ort.InferenceSession(mapping, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(CALIBRATION_FIRST_SEED)
    seeds = range(CALIBRATION_FIRST_SEED, CALIBRATION_FIRST_SEED + 2 * CALIBRATION_SAMPLES)
    inputs = {"z": z_from_seeds(seeds, cfg.z_dim)}
    inputs["psi"] = np.repeat(rng.uniform(0.5, 1.0, (len(seeds), 1)), cfg.num_ws, 1).astype(np.float32)
    if cfg.c_dim:
        inputs["c"] = np.eye(cfg.c_dim, dtype=np.float32)[rng.integers(cfg.c_dim, size=len(seeds))]
    ws = session.run(["ws"], inputs)[0]
    ws, other = ws[:CALIBRATION_SAMPLES], ws[CALIBRATION_SAMPLES:]
    for i in range(0, CALIBRATION_SAMPLES, 2):
        crossover = int(rng.integers(1, cfg.num_ws))
        ws[i, crossover:] = other[i, crossover:]
    return [ws[i : i + 1] for i in range(CALIBRATION_SAMPLES)]


def search_latents(cfg: GeneratorConfig, mapping: Path) -> list[np.ndarray]:
    """ws without truncation, as verification draws them; one per batch."""
    seeds = range(SEARCH_FIRST_SEED, SEARCH_FIRST_SEED + SEARCH_SAMPLES)
    inputs = {"z": z_from_seeds(seeds, cfg.z_dim), "psi": np.ones((len(seeds), cfg.num_ws), np.float32)}
    if cfg.c_dim:
        inputs["c"] = np.eye(cfg.c_dim, dtype=np.float32)[[i % cfg.c_dim for i in range(len(seeds))]]
    ws = ort.InferenceSession(mapping, providers=["CPUExecutionProvider"]).run(["ws"], inputs)[0]
    return [ws[i : i + 1] for i in range(len(seeds))]
