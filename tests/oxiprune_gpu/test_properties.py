"""What holds for every weight, found by looking for one where it does not."""

from __future__ import annotations

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import oxiprune_gpu as ox
from oxiprune_gpu.metrics import parse_metric
from oxiprune_gpu.selection import units_to_prune, wanted_units
from tests import oracles

DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16, np.float64]

sparsities = st.floats(0, 1, exclude_max=True, width=32)
metrics = st.sampled_from(["l1", "l2", "taylor", "random:0", "random:18446744073709551615"])
granularities = st.sampled_from(["unstructured", "row", "column", "axis:0", "axis:-1"])
values = st.floats(width=32, allow_nan=False) | st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0**-149])
matrices = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=values)
ordinary = st.floats(2.0**-60, 2.0**60, width=32).flatmap(lambda x: st.sampled_from([x, -x]))
ordinary_matrices = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=ordinary)


@st.composite
def configs(draw) -> ox.PruningConfig:
    return ox.PruningConfig(draw(sparsities), draw(metrics), draw(granularities))


@st.composite
def weights(draw) -> np.ndarray:
    """Any matrix in any dtype."""
    with np.errstate(over="ignore"):
        return draw(matrices).astype(draw(st.sampled_from(DTYPES)))


def units_of(weight: np.ndarray, config: ox.PruningConfig) -> list[np.ndarray]:
    axes = {"row": 0, "axis:0": 0, "column": 1, "axis:-1": 1}
    if config.granularity.text == "unstructured":
        return list(np.arange(weight.size)[:, None])
    return oracles.axis_units(weight.shape, axes[config.granularity.text])


def scores_of(weight: np.ndarray, config: ox.PruningConfig) -> np.ndarray:
    if config.granularity.text == "unstructured":
        return oracles.element_scores(weight, config.metric.text)
    return oracles.unit_scores(weight, units_of(weight, config), config.metric.text)


def bits(array: np.ndarray) -> np.ndarray:
    return array.view(f"u{array.itemsize}")


@given(weights(), configs())
def test_the_lowest_k_units_fall(weight, config):
    """Exactly k units fall, each score that falls is at most each that stays, equal ones fall by index."""
    pruned, mask = ox.prune_tensor(weight, config)
    units, scores = units_of(weight, config), scores_of(weight, config)
    k = units_to_prune(config.sparsity, len(units), len(units[0]), config.min_nonzero)
    assert np.array_equal(~mask.reshape(-1), oracles.fallen_units(weight.size, units, scores, k))
    stays = np.array([mask.reshape(-1)[unit[0]] for unit in units])
    assert np.count_nonzero(~stays) == k
    assert scores[~stays].max(initial=0) <= scores[stays].min(initial=np.inf)
    assert np.array_equal(bits(pruned)[mask], bits(weight)[mask])
    assert not bits(pruned)[~mask].any()


@given(weights(), configs())
def test_every_way_gives_the_same(weight, config):
    pruned, mask = ox.prune_tensor(weight, config)
    assert np.array_equal(ox.compute_mask(weight, config), mask)
    assert ox.apply_mask(weight, mask).tobytes() == pruned.tobytes()
    counts = ox.prune_blocks(ox.ArrayBlocks(blocks := weight.copy()), config)
    assert blocks.tobytes() == pruned.tobytes()
    assert counts.pruned == np.count_nonzero(~mask)
    assert np.array_equal(ox.prune_tensor_inplace(weight, config), mask)
    assert weight.tobytes() == pruned.tobytes()


@given(weights(), sparsities, granularities)
def test_pruning_twice_changes_no_value(weight, sparsity, granularity):
    """The second time only zeros fall: there are at least k units of them, and nothing scores lower."""
    config = ox.PruningConfig(sparsity, "l1", granularity)
    once, mask = ox.prune_tensor(weight, config)
    twice, mask_again = ox.prune_tensor(once, config)
    assert np.array_equal(twice, once)
    assert np.count_nonzero(mask_again) == np.count_nonzero(mask)


@given(matrices, sparsities, sparsities)
def test_more_sparsity_prunes_more(weight, a, b):
    fewer, more = (ox.compute_mask(weight, ox.PruningConfig(sparsity)) for sparsity in sorted([a, b]))
    assert not (more & ~fewer).any()


@given(matrices, st.sampled_from(DTYPES), sparsities, granularities)
def test_random_masks_do_not_depend_on_the_values(weight, dtype, sparsity, granularity):
    config = ox.PruningConfig(sparsity, "random:99", granularity)
    other = np.ones(weight.shape, dtype)
    assert np.array_equal(ox.compute_mask(weight, config), ox.compute_mask(other, config))


@given(ordinary_matrices, st.integers(-40, 40), sparsities, granularities)
def test_a_power_of_two_changes_no_l1_mask(weight, exponent, sparsity, granularity):
    """Scores and their sums are scaled exactly, as long as nothing leaves the range of float32."""
    config = ox.PruningConfig(sparsity, "l1", granularity)
    assert np.array_equal(ox.compute_mask(np.ldexp(weight, exponent), config), ox.compute_mask(weight, config))


@given(matrices, configs())
def test_signs_change_no_mask(weight, config):
    assert np.array_equal(ox.compute_mask(-weight, config), ox.compute_mask(weight, config))


@given(matrices, sparsities, metrics)
def test_columns_are_the_rows_of_the_transposed(weight, sparsity, metric):
    rows = ox.compute_mask(weight, ox.PruningConfig(sparsity, metric, "row"))
    columns = ox.compute_mask(weight.T, ox.PruningConfig(sparsity, metric, "column"))
    assert np.array_equal(rows, columns.T)


@given(matrices, st.sampled_from([np.float16, ml_dtypes.bfloat16]), configs())
def test_narrow_weights_are_scored_as_float32(weight, dtype, config):
    with np.errstate(over="ignore"):
        narrow = weight.astype(dtype)
    assert np.array_equal(ox.compute_mask(narrow, config), ox.compute_mask(narrow.astype(np.float32), config))


@given(ordinary_matrices, sparsities, granularities, st.floats(0, 1))
def test_min_nonzero_is_kept(weight, sparsity, granularity, share):
    min_nonzero = int(share * weight.size)
    pruned, _ = ox.prune_tensor(weight, ox.PruningConfig(sparsity, "l1", granularity, min_nonzero))
    assert np.count_nonzero(pruned) >= min_nonzero


@given(weights(), st.integers(0, 143))
def test_nan_is_refused_and_nothing_written(weight, place):
    weight.reshape(-1)[place % weight.size] = np.nan
    before = weight.tobytes()
    for config in (ox.PruningConfig(0.5), ox.PruningConfig(0.0, "random:1", "row")):
        with pytest.raises(ox.NonFiniteWeight):
            ox.prune_tensor_inplace(weight, config)
    assert weight.tobytes() == before


@given(sparsities, st.integers(0, 2**33))
def test_how_many(sparsity, units):
    """floor of the exact product, rounded to float32, of two float32."""
    exact = Fraction(float(np.float32(sparsity))) * int(np.float32(units))
    assert wanted_units(sparsity, units) == math.floor(np.float32(float(exact)))


@given(st.integers(0, 2**64 - 1), st.integers(0, 3000), st.integers(1, 40))
def test_random_stream(seed, start, length):
    metric, whole = ox.Random(seed), oracles.random_stream(seed, start + length)
    run, picked = np.empty(length, np.float32), np.empty(length, np.float32)
    metric.score(run, slice(start, start + length), run)
    metric.score(picked, np.arange(start, start + length), picked)
    assert run.tobytes() == picked.tobytes() == whole[start:].tobytes()


@given(weights(), metrics)
def test_statistics(weight, metric):
    scores = oracles.element_scores(weight, metric)
    expected = oracles.statistics(scores)
    for stats in (
        ox.compute_importance(weight, metric).stats(),
        ox.score_stats_blocks(ox.ArrayBlocks(weight), parse_metric(metric)),
    ):
        got = (stats.min, stats.max, stats.mean, stats.median, stats.std_dev)
        assert np.array_equal(got, list(expected.values()), equal_nan=True)


@given(matrices, st.integers(-2, 150))
def test_top_k(weight, k):
    got = ox.compute_importance(weight).top_k(k)
    assert got.tolist() == sorted(np.abs(weight).reshape(-1).tolist(), reverse=True)[: max(k, 0)]


@given(weights())
def test_reports_count(weight):
    report = ox.SparsityReport.compute(weight)
    assert report.nonzero_params == np.count_nonzero(weight.astype(np.float64))
    assert report.density == float(np.float32(1) - np.float32(report.sparsity))
