"""Grids of samples are signed. A run goes on where a signature is not possible."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from stylert.core.provenance.signing import forget_signer
from stylert.core.provenance.verification import verify_files
from stylert.train.snapshots.run_folder import _save_fakes
from tests.core.provenance.certificate_chains import make_chain

SAMPLES = np.zeros((4, 8, 8, 3), np.uint8)


def test_a_grid_of_samples_is_signed_and_says_that_a_model_made_it(signing_folder: Path, tmp_path: Path) -> None:
    _save_fakes(SAMPLES, tmp_path, "fakes-0010.png")
    (verdict,) = verify_files([tmp_path / "fakes-0010.png"])
    assert (verdict.state, verdict.source, verdict.recipe) == ("valid", "trainedAlgorithmicMedia", None)


def test_a_missing_library_leaves_the_grid_unsigned(
    signing_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_signer()
    monkeypatch.setitem(sys.modules, "c2pa", None)
    _save_fakes(SAMPLES, tmp_path, "fakes-0010.png")
    assert b"c2pa" not in (tmp_path / "fakes-0010.png").read_bytes()


def test_an_expired_certificate_leaves_the_grid_unsigned(signing_folder: Path, tmp_path: Path) -> None:
    expired = make_chain(start=-9, end=-2)
    (signing_folder / "certificates.pem").write_bytes(expired.pem)
    (signing_folder / "key.pem").write_bytes(expired.key)
    forget_signer()
    _save_fakes(SAMPLES, tmp_path, "fakes-0010.png")
    (verdict,) = verify_files([tmp_path / "fakes-0010.png"])
    assert verdict.state == "unsigned"
