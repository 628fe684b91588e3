"""Measured tables of tiles win over those of the package, a broken table is refused, the cost model is monotonic."""

import json

import pytest

from stylert.core.machine.gpu_specs import GPU_SPECS
from stylert.plugins.aot import ARCHITECTURES
from stylert.plugins.triton import tiles
from stylert.plugins.triton.cost_model import (
    ResourceUsage,
    best_tile,
    candidate_tiles,
    estimated_seconds,
    ranked_tiles,
    tile_variants,
)
from stylert.plugins.triton.tiles import ConvProblem, Tile, choose_tile, default_tile, read_table, table_document

PROBLEM = ConvProblem("float16", 4, 64 * 64, 512, 512, 3, 1, 90)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("STYLERT_TILES", str(tmp_path))
    tiles._tables.cache_clear()
    yield tmp_path
    tiles._tables.cache_clear()


def write(folder, layers, architecture=90):
    (folder / f"sm_{architecture}.json").write_text(table_document(architecture, "measured", {"gpu": "none"}, layers))


def test_a_measured_table_wins_over_that_of_the_package(folder):
    other = Tile(64, 128, 32, 4, 2, group=8)
    write(folder, {PROBLEM.layer: {4: other}})
    assert choose_tile(PROBLEM) == other
    assert read_table(folder / "sm_90.json") == {PROBLEM.layer: {4: other}}
    # Any other layer comes from the table of the package.
    assert choose_tile(ConvProblem("float16", 4, 16, 512, 512, 3, 1, 90), allow_splits=False).splits == 1


def test_the_tile_of_the_nearest_batch_is_chosen_with_a_split_sum_only_if_allowed(folder):
    one, eight = Tile(16, 64, 64, splits=4), Tile(128, 128, 64, 8)
    write(folder, {PROBLEM.layer: {1: one, 8: eight}})
    for batch, expected in ((1, one), (2, one), (3, eight), (100, eight)):
        problem = ConvProblem("float16", batch, 64 * 64, 512, 512, 3, 1, 90)
        assert choose_tile(problem) == expected
        assert choose_tile(problem, allow_splits=False) == eight
    assert choose_tile(PROBLEM, min_channels=200).n >= 200


def test_bfloat16_takes_the_tile_of_float16_and_no_gpu_takes_the_default_tile(folder):
    write(folder, {PROBLEM.layer: {4: Tile(16, 16, 16)}})
    assert choose_tile(ConvProblem("bfloat16", 4, 64 * 64, 512, 512, 3, 1, 90)) == Tile(16, 16, 16)
    anywhere = ConvProblem("float16", 4, 64 * 64, 512, 512, 3, 1)
    assert choose_tile(anywhere) == default_tile(anywhere) == Tile(128, 128, 64, 8)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(schema=2), lambda d: d.pop("layers"), lambda d: d["layers"].update(a=3),
        lambda d: d["layers"].update(a={"x": [16, 16, 16, 4, 3, 1, 1]}), lambda d: d["layers"].update(a={"1": [16, 16, 16]}),
        lambda d: d["layers"].update(a={"1": [17, 16, 16, 4, 3, 1, 1]}), lambda d: d["layers"].update(a={"1": [16, 16, 8, 4, 3, 1, 1]}),
        lambda d: d["layers"].update(a={"1": [16, 16, 16, 4, 3, 0, 1]}), lambda d: d["layers"].update(a={"1": ["16"] * 7}),
        lambda d: d["layers"].update(a={"1": {"m": 16}}),
    ],
)  # fmt: skip
def test_a_broken_table_is_refused(folder, change):
    document = json.loads(table_document(90, "measured", {}, {PROBLEM.layer: {1: Tile(16, 16, 16)}}))
    change(document)
    (folder / "sm_90.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match="no table of tiles"):
        choose_tile(PROBLEM)


def test_text_that_is_no_json_is_refused(folder):
    (folder / "sm_90.json").write_text("{")
    with pytest.raises(ValueError, match="no table of tiles"):
        choose_tile(PROBLEM)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_tables_of_the_package_are_complete_and_marked_as_modelled(architecture):
    path = tiles.Path(tiles.__file__).parent / "tile_tables" / f"{architecture}.json"
    assert json.loads(path.read_text())["source"] == "model"
    layers = read_table(path)
    dtypes = {layer.split()[0] for layer in layers}
    assert dtypes == {"float16", "float32", "int8"} | ({"fp8"} if int(architecture[3:]) >= 89 else set())
    assert all(set(batches) == {1, 4, 8, 16, 32} for batches in layers.values())


def test_the_model_prefers_large_tiles_for_many_pixels_and_split_sums_for_few():
    gpu, usages = GPU_SPECS[90], {tile: ResourceUsage(160, 60_000) for tile in candidate_tiles("float16")}
    # Many pixels need tiles that read little. Few pixels need enough programs for the GPU.
    large = best_tile(ConvProblem("float16", 8, 512 * 512, 128, 128, 3, 1, 90), usages, gpu)
    assert (large.m, large.n, large.splits) == (128, 128, 1)
    small_problem = ConvProblem("float16", 1, 16, 512, 512, 3, 1, 90)
    small = best_tile(small_problem, usages, gpu)
    assert small.splits > 1
    whole = [estimated_seconds(small_problem, tile, usages[tile], gpu) for tile in usages]
    assert estimated_seconds(small_problem, small, usages[Tile(small.m, small.n, small.k, small.num_warps)], gpu) < min(whole)


def test_all_sms_of_an_h100_read_no_more_from_the_l2_cache_than_was_measured():
    gpu = GPU_SPECS[90]
    assert 5.3e12 < gpu.sms * gpu.l2_bytes_per_clock * gpu.clock_ghz * 1e9 < 5.7e12
    # A layer that waits for the L2 cache takes at least the time to read both operands of every step from there.
    problem, tile = ConvProblem("fp8", 8, 512 * 512, 128, 128, 3, 1, 90), Tile(16, 64, 64)
    programs, steps = 8 * 512 * 512 // tile.m * 128 // tile.n, 9 * 128 // tile.k
    read = programs * steps * (tile.m * 2 + tile.n) * tile.k
    assert estimated_seconds(problem, tile, ResourceUsage(64, 8_000), gpu) > read / 5.7e12


def test_a_tile_that_does_not_fit_or_spills_is_not_chosen():
    gpu, tile = GPU_SPECS[86], Tile(128, 128, 64, 8)
    assert estimated_seconds(PROBLEM, tile, ResourceUsage(160, 200_000), gpu) == float("inf")
    assert estimated_seconds(PROBLEM, tile, ResourceUsage(160, 60_000, spills=8), gpu) > estimated_seconds(
        PROBLEM, tile, ResourceUsage(160, 60_000), gpu
    )
    assert best_tile(PROBLEM, {tile: ResourceUsage(160, 200_000), Tile(64, 64, 64): ResourceUsage(160, 40_000)}, gpu).m == 64


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "int8", "fp8"])
def test_ranked_tiles_are_distinct_and_begin_with_a_split_sum_for_few_pixels(dtype):
    for architecture in (75, 80, 90):  # 75 has no data sheet, so it counts as an H100.
        tiles = ranked_tiles(ConvProblem(dtype, 1, 16, 512, 512, 3, 1, architecture), 100, 6)
        assert len(tiles) == len(set(tiles)) == 6
        assert tiles[0].splits > 1


def test_more_work_never_takes_less_time_in_the_cost_model(rng):
    usage = ResourceUsage(160, 60_000)
    for _ in range(200):
        number = int(rng.choice(list(GPU_SPECS)))
        batch, pixels, i, o = (int(2**v) for v in rng.integers([0, 4, 5, 5], [5, 20, 10, 10]))
        problem = ConvProblem("float16", batch, pixels, i, o, 3, 1, number)
        for tile in candidate_tiles("float16"):
            more = ConvProblem("float16", 2 * batch, pixels, 2 * i, o, 3, 1, number)
            assert estimated_seconds(more, tile, usage, GPU_SPECS[number]) >= estimated_seconds(
                problem, tile, usage, GPU_SPECS[number]
            ) * (1 - 1e-9)
            assert not tile_variants(ConvProblem("float16", batch, pixels, i, 3, 1, 1), Tile(16, 64, 16), 100)
            # A sum has at most as many parts as steps.
            for variant in tile_variants(problem, tile, GPU_SPECS[number].sms):
                assert variant.splits == 1 or variant.splits <= 9 * -(-i // tile.k)
