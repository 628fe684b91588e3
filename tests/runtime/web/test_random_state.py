"""A seed gives the same latent in the browser as in Python."""

from __future__ import annotations

import json
import shutil
import subprocess

import numpy as np
import pytest

from stylert.core.seeds import MAX_SEED, z_from_seeds
from stylert.runtime.web.site import OWN_FILES

NODE = shutil.which("node")
PROGRAM = """
const { standardNormals } = await import(process.argv[1]);
const [seeds, width] = JSON.parse(process.argv[2]);
console.log(JSON.stringify(seeds.map((seed) => [...new Uint32Array(standardNormals(seed, width).buffer)])));
"""


@pytest.mark.skipif(NODE is None, reason="needs node")
@pytest.mark.parametrize("width", [1, 7, 512])
def test_numbers_of_a_seed_equal_those_of_numpy_bit_for_bit(rng: np.random.Generator, width: int) -> None:
    seeds = [0, 1, 2**31 - 1, 2**31, MAX_SEED, *map(int, rng.integers(0, MAX_SEED, 200))]
    command = [str(NODE), "--input-type=module", "-e", PROGRAM, str(OWN_FILES / "random_state.js"), json.dumps([seeds, width])]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    drawn = np.array(json.loads(done.stdout), np.uint32)
    np.testing.assert_array_equal(drawn, z_from_seeds(seeds, width).view(np.uint32))
