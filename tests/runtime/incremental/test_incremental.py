"""`Generator.load(incremental=True)`: the images of a full run, from the layers that have changed."""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stylert.core.errors import BackendError, BundleError, InputError
from stylert.core.images.similarity import psnr
from stylert.export.pipeline import export_bundle
from stylert.runtime import Bundle, Generator
from stylert.runtime.backends import available_backends, backend
from stylert.runtime.incremental.kept_features import KeptFeatures
from stylert.runtime.incremental.session import IncrementalSession

BACKENDS = [name for name in available_backends() if backend(name).facts.stages]
#: Around an 8-bit convolution OpenVINO rounds to bfloat16, but not at the borders of a stage.
EXACT = [(b, p) for b in BACKENDS for p in ("fp32", "int8") if (b, p) != ("openvino", "int8")]


def session_of(g: Generator) -> IncrementalSession:
    session = g._synthesis
    assert isinstance(session, IncrementalSession)
    return session


@pytest.fixture
def runs() -> Counter[int]:
    """How often the block of each number has run since `count_runs`."""
    return Counter()


def count_runs(g: Generator, runs: Counter[int]) -> None:
    """Count the runs of each block."""
    for number, stage in enumerate(session_of(g)._blocks):

        def run_stage(inputs, number=number, run=stage.session.run_stage):  # type: ignore[no-untyped-def]
            runs[number] += 1
            return run(inputs)

        stage.session.run_stage = run_stage  # type: ignore[method-assign]


@pytest.mark.parametrize(("name", "precision"), EXACT)
def test_any_sequence_of_moves_gives_the_bytes_of_full_runs(bundle: Bundle, name: str, precision: str) -> None:
    with Generator.load(bundle, name, precision) as whole, Generator.load(bundle, name, precision, incremental=True) as g:
        latents = whole.map(np.random.standard_normal((8, bundle.model["z_dim"])))

        @given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 7), st.integers(0, bundle.num_ws)), min_size=1, max_size=6))
        @settings(max_examples=15)
        def moves(sequence: list[tuple[int, int, int]]) -> None:
            ws = latents.copy()
            for n, seed, first in sequence:
                ws[:, first:] = np.roll(latents, seed, axis=0)[:, first:]
                np.testing.assert_array_equal(g.synthesize(ws[:n]), whole.synthesize(ws[:n]))

        moves()


@pytest.mark.skipif("openvino" not in BACKENDS, reason="OpenVINO is not installed")
def test_stages_of_openvino_in_8_bits_keep_the_promise(bundle: Bundle) -> None:
    with Generator.load(bundle) as reference, Generator.load(bundle, "openvino", "int8", incremental=True) as g:
        expected, images = reference(range(16)), g(range(16))
        assert np.mean([psnr(a, b) for a, b in zip(images, expected, strict=True)]) >= bundle.precision("int8").min_psnr_db
        ws = g.map(np.random.standard_normal((2, bundle.model["z_dim"])))
        ws[1, :3] = ws[0, :3]
        whole = [g.synthesize(w[None]) for w in ws]
        for order in itertools.permutations((0, 1)):
            for i in order:
                np.testing.assert_array_equal(g.synthesize(ws[i : i + 1]), whole[i])


@pytest.mark.parametrize("name", BACKENDS)
def test_only_the_blocks_behind_a_changed_latent_run(bundle: Bundle, name: str, runs: Counter[int]) -> None:
    with Generator.load(bundle, name, incremental=True) as g:
        ws = g.map(np.random.standard_normal((1, bundle.model["z_dim"])))
        g.synthesize(ws)
        count_runs(g, runs)
        for latent in reversed(range(bundle.num_ws)):
            runs.clear()
            ws[:, latent] += 1
            g.synthesize(ws)
            assert sorted(runs) == list(range(min((latent + 1) // 2, 2), 3))


def test_a_call_goes_on_from_the_most_similar_one(bundle: Bundle, runs: Counter[int]) -> None:
    """Two users who take turns each have their features, and so has another size of batch."""
    with Generator.load(bundle, incremental=True) as g:
        first, second = (g.map(np.random.standard_normal((1, bundle.model["z_dim"]))) for _ in range(2))
        both = np.concatenate([first, second])
        for ws in (first, second, both):
            g.synthesize(ws)
        count_runs(g, runs)
        for _ in range(3):
            for ws in (first, second, both):
                ws[:, -1] += 1
                g.synthesize(ws)
        assert runs == {2: 9}


def test_the_caller_may_change_its_arrays(bundle: Bundle) -> None:
    with Generator.load(bundle, incremental=True) as g, Generator.load(bundle) as whole:
        ws = g.map(np.random.standard_normal((2, bundle.model["z_dim"])))
        kept = g.synthesize(ws)
        expected = kept.copy()
        for _ in range(3):
            ws *= 0.5
            np.testing.assert_array_equal(g.synthesize(ws), whole.synthesize(ws))
        np.testing.assert_array_equal(kept, expected)


def test_noise_and_style_offsets_count_as_changes(checkpoint: Path, tmp_path: Path, runs: Counter[int]) -> None:
    bundle = export_bundle(checkpoint, tmp_path / "bundle", ["fp32"], noise="input", style_offsets=True)
    with Generator.load(bundle) as whole, Generator.load(bundle, incremental=True) as g:
        ws = g.map(np.random.standard_normal((1, bundle.model["z_dim"])))
        noise = {n: np.random.standard_normal((1, 1, side, side)) for n, side in bundle.noise_inputs.items()}
        offsets = np.zeros((1, bundle.style_channels), np.float32)
        g.synthesize(ws, noise, offsets)
        count_runs(g, runs)
        noise["noise_8_conv1"] = noise["noise_8_conv1"] * 2
        np.testing.assert_array_equal(g.synthesize(ws, noise, offsets), whole.synthesize(ws, noise, offsets))
        assert sorted(runs) == [1, 2]
        runs.clear()
        offsets[:, -1] = 3
        np.testing.assert_array_equal(g.synthesize(ws, noise, offsets), whole.synthesize(ws, noise, offsets))
        assert sorted(runs) == [2]


def test_calls_from_several_threads_give_their_own_images(bundle: Bundle) -> None:
    with Generator.load(bundle) as whole, Generator.load(bundle, incremental=True) as g, ThreadPoolExecutor(4) as pool:
        ws = whole.map(np.random.standard_normal((6, bundle.model["z_dim"])))
        ws[3:, :4] = ws[:3, :4]
        expected = whole.synthesize(ws)
        for i, image in zip(
            list(range(6)) * 4, pool.map(lambda i: g.synthesize(ws[i : i + 1]), list(range(6)) * 4), strict=True
        ):
            np.testing.assert_array_equal(image[0], expected[i])


def test_features_that_have_no_room_are_not_kept(bundle: Bundle, runs: Counter[int]) -> None:
    with Generator.load(bundle, incremental=True) as g:
        session = session_of(g)
        ws = g.map(np.random.standard_normal((2, bundle.model["z_dim"])))
        g.synthesize(ws[:1])
        session._kept = KeptFeatures(max_bytes=session._kept.nbytes)
        count_runs(g, runs)
        for _ in range(2):
            g.synthesize(ws[:1])
        assert runs == {0: 1, 1: 1, 2: 2}
        assert not g.notes
        for _ in range(2):
            g.synthesize(ws)
        assert runs == {0: 3, 1: 3, 2: 4}
        assert [note[:30] for note in g.notes] == ["a batch of 2 has features of 0"]


def test_features_are_bounded_in_number_and_in_bytes() -> None:
    kept = KeptFeatures(max_bytes=100, max_calls=3)
    shared = np.zeros(60, np.uint8)
    calls = [{"x": shared, "y": np.zeros(10, np.uint8)} for _ in range(5)]
    for call in calls:
        assert kept.keep(call)
    assert list(kept) == calls[:1:-1]
    assert kept.nbytes == 90
    replaced = {"x": shared, "y": np.zeros(40, np.uint8)}
    assert kept.keep(replaced, replaced=calls[4])
    assert replaced in list(kept)
    assert not kept.keep({"x": np.zeros(101, np.uint8)})
    assert not list(kept)


def test_other_backends_and_networks_are_refused_in_one_line(bundle: Bundle) -> None:
    for name in available_backends():
        if name not in BACKENDS:
            with pytest.raises(InputError, match="incremental synthesis runs on onnxruntime and openvino, not on"):
                Generator.load(bundle, name, incremental=True)
    with pytest.raises(InputError, match="incremental"):
        Generator.load(bundle, incremental="yes")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one call at a time"):
        Generator.load(bundle, "openvino", hint="throughput", incremental=True)


def test_auto_takes_a_backend_that_runs_in_stages(bundle: Bundle) -> None:
    for precision in ("fp32", "auto"):
        with Generator.load(bundle, "auto", precision, incremental=True) as g:
            assert g.backend in BACKENDS
            assert g([1]).shape == (1, 16, 16, 3)


def test_a_damaged_network_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    damaged = Bundle.load(shutil.copytree(bundle.path, tmp_path / "bundle"))
    file = damaged.path / damaged.network("fp32", "onnxruntime")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BundleError):
        Generator.load(damaged, incremental=True)


def test_a_closed_generator_keeps_nothing(bundle: Bundle) -> None:
    g = Generator.load(bundle, incremental=True)
    g([1])
    kept = session_of(g)._kept
    assert kept.nbytes
    g.close()
    assert not kept.nbytes
    with pytest.raises(BackendError):
        g([1])
