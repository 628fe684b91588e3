"""The latents that quantisation measures on: one set for the calibration, and another for the sensitivity search.

Both start at seeds far above those that people look at, so no image is judged on the latents that set its scales.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stylert.core.seeds import z_from_seeds
from stylert.export.quantization.evaluation import cpu_session
from stylert.models.network_config import BaseGeneratorConfig

CALIBRATION_SAMPLES, CALIBRATION_FIRST_SEED = 128, 1_000_000_000
SEARCH_SAMPLES, SEARCH_FIRST_SEED = 16, 3_000_000_000


def calibration_latents(cfg: BaseGeneratorConfig, mapping: Path) -> list[np.ndarray]:
    """`CALIBRATION_SAMPLES` latents like those that users ask for: psi is from 0.5 to 1, and half of them mix two
    styles.

    Args:
        cfg: The generator's configuration.
        mapping: The file of the mapping network.

    Returns:
        ws `[1, num_ws, w_dim]`, float32.
    """
    rng = np.random.default_rng(CALIBRATION_FIRST_SEED)
    # The second half of the seeds gives the styles to mix in.
    seeds = range(CALIBRATION_FIRST_SEED, CALIBRATION_FIRST_SEED + 2 * CALIBRATION_SAMPLES)
    psi = rng.uniform(0.5, 1.0, (len(seeds), 1))
    labels = rng.integers(cfg.c_dim, size=len(seeds)) if cfg.c_dim else None
    ws = _map(cfg, mapping, seeds, psi, labels)
    ws, mixed_in = ws[:CALIBRATION_SAMPLES], ws[CALIBRATION_SAMPLES:]
    for i in range(0, CALIBRATION_SAMPLES, 2):
        crossover = int(rng.integers(1, cfg.num_ws))
        ws[i, crossover:] = mixed_in[i, crossover:]
    return _one_by_one(ws)


def search_latents(cfg: BaseGeneratorConfig, mapping: Path) -> list[np.ndarray]:
    """`SEARCH_SAMPLES` latents like those of verification: psi 1, and the class labels in turn.

    Arguments and result are those of `calibration_latents`.
    """
    seeds = range(SEARCH_FIRST_SEED, SEARCH_FIRST_SEED + SEARCH_SAMPLES)
    labels = np.arange(len(seeds)) % cfg.c_dim if cfg.c_dim else None
    return _one_by_one(_map(cfg, mapping, seeds, np.ones((len(seeds), 1)), labels))


def _map(cfg: BaseGeneratorConfig, mapping: Path, seeds: range, psi: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    """ws `[N, num_ws, w_dim]` for N seeds, psi `[N, 1]` and class labels `[N]`."""
    inputs = {"z": z_from_seeds(seeds, cfg.z_dim), "psi": np.repeat(psi, cfg.num_ws, 1).astype(np.float32)}
    if labels is not None:
        inputs["c"] = np.eye(cfg.c_dim, dtype=np.float32)[labels]
    return cpu_session(mapping).run(["ws"], inputs)[0]


def _one_by_one(ws: np.ndarray) -> list[np.ndarray]:
    return [ws[i : i + 1] for i in range(len(ws))]
