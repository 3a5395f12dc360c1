"""Plans of rows, columns, slices, blocks and N:M: the bits of pruning one by one on numpy, in a handful of launches."""

from __future__ import annotations

import random

import ml_dtypes
import numpy as np
import pytest

import oxiprune_gpu as ox
from oxiprune_gpu.backends import NumpyBackend
from oxiprune_gpu.jobs import job_for

CHUNK = 1 << 14
DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16, np.float64]
GRANULARITIES = ["row", "column", "axis:0", "axis:1", "block:2x3", "block:4x4", "2:4", "1:3@0", "31:32"]
METRICS = ["l1", "l2", "random:7"]
MASKS = ["bool", "bits", None]
SHAPES = [(4, 6), (12, 30), (2, 3), (40, 9), (1, 1), (64, 128), (3, 260), (130, 8), (33, 32)]
LONG = [(3, 8), (2, CHUNK + 300), (CHUNK + 7, 3), (5, 2 * CHUNK + 4), (2, 5)]

granularities = pytest.mark.parametrize("granularity", GRANULARITIES)
metrics = pytest.mark.parametrize("metric", METRICS)
masks = pytest.mark.parametrize("mask", MASKS)


def placed(values: np.ndarray, beside: int) -> np.ndarray:
    """A copy that begins so many elements after a multiple of 64 bytes."""
    room = np.empty(values.nbytes + 64 + beside * values.itemsize, np.uint8)
    start = -room.ctypes.data % 64 + beside * values.itemsize
    copy = room[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy


def weights_of(shapes: list[tuple[int, int]], dtypes: list, seed: int = 0) -> list[np.ndarray]:
    """Matrices of alternating dtypes; some have many ties, some do not begin at a multiple of 16 bytes."""
    rng = np.random.default_rng(seed)
    values = [
        rng.integers(-2, 3, shape) if i % 3 == 2 else rng.standard_normal(shape) for i, shape in enumerate(shapes)
    ]
    return [placed(one.astype(dtypes[i % len(dtypes)]), i % 4 == 1) for i, one in enumerate(values)]


def fitted(shapes: list[tuple[int, int]], granularity: str) -> list[tuple[int, int]]:
    """As many blocks as there were elements, where blocks are asked for."""
    if not granularity.startswith("block:"):
        return shapes
    height, width = map(int, granularity.removeprefix("block:").split("x"))
    return [(rows * height, columns * width) for rows, columns in shapes]


def one_by_one(weights: list[np.ndarray], config: ox.PruningConfig) -> list[np.ndarray]:
    """Prune copies with numpy; give the masks and, in place of the weights, what became of them."""
    backend, kept = NumpyBackend(), [np.empty(weight.shape, np.bool_) for weight in weights]
    for weight, mask in zip(weights, kept, strict=True):
        job_for(weight.shape, config, "w").run(backend, backend.adopt(weight), mask=mask)
    return kept


def check_plan(weights: list[np.ndarray], config: ox.PruningConfig, mask: str | None = "bool") -> None:
    """Two runs, of which the second changes nothing."""
    pruned = [weight.copy() for weight in weights]
    kept = one_by_one(pruned, config)
    expected = kept if mask == "bool" else [np.packbits(one, bitorder="little") for one in kept]
    plan = ox.prepare(weights, config, mask=mask)
    assert plan.pruned == sum(np.count_nonzero(~one) for one in kept)
    for _ in range(2):
        result = plan.run()
        assert [weight.tobytes() for weight in weights] == [weight.tobytes() for weight in pruned]
        assert result.nonzero.tolist() == [np.count_nonzero(weight.astype(np.float64)) for weight in pruned]
        if mask is not None:
            assert [one.tobytes() for one in result.masks] == [one.tobytes() for one in expected]


def config_of(granularity: str, metric: str = "l2", sparsity: float = 0.5) -> ox.PruningConfig:
    return ox.PruningConfig(None if ":" in granularity and granularity[0].isdigit() else sparsity, metric, granularity)


@granularities
@metrics
@masks
def test_as_one_by_one(verbs_backend, granularity, metric, mask):
    check_plan(weights_of(fitted(SHAPES, granularity), DTYPES), config_of(granularity, metric), mask)


@pytest.mark.parametrize("granularity", ["row", "column", "axis:1", "2:4"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_units_of_several_chunks(verbs_backend, granularity, dtype):
    check_plan(weights_of(LONG, [dtype]), config_of(granularity, sparsity=0.34))


@pytest.mark.parametrize("granularity", ["row", "column"])
@metrics
def test_no_unit_falls(verbs_backend, granularity, metric):
    check_plan(weights_of(SHAPES, DTYPES), config_of(granularity, metric, 0.0))


def test_min_nonzero_counts_elements(verbs_backend):
    weights = weights_of([(10, 4), (6, 4)], [np.float32])
    result = ox.prepare(weights, ox.PruningConfig(0.9, "l1", "row", min_nonzero=17)).run()
    assert result.nonzero.tolist() == [20, 20]


@pytest.mark.parametrize("seed", range(40))
def test_any_mix(verbs_backend, seed):
    """Any shapes, dtypes and options; a NaN in one weight stops there, as one by one."""
    draw = random.Random(seed)
    shapes = [
        (draw.choice([1, 2, 4, 9, 33, 64]), draw.choice([1, 3, 4, 32, 65, 130])) for _ in range(draw.randint(1, 9))
    ]
    granularity, dtypes = draw.choice(GRANULARITIES), draw.sample(DTYPES, draw.randint(1, 4))
    weights = weights_of(fitted(shapes, granularity), dtypes, seed)
    sparsity, mask = draw.choice([0.0, 0.3, 0.5, 0.97]), draw.choice(MASKS)
    config = config_of(granularity, draw.choice(METRICS), sparsity)
    if seed % 2:
        check_plan(weights, config, mask)
    else:
        check_stops(weights, config, draw.randrange(len(weights)), mask)


def check_stops(weights: list[np.ndarray], config: ox.PruningConfig, number: int, mask: str | None = "bool") -> None:
    """With NaN in a weight those before it are pruned and no others; without it, a run prunes all."""
    last = weights[number].reshape(-1)[-1:]
    before, last[0] = last[0], np.nan
    stopped = [weight.copy() for weight in weights]
    one_by_one(stopped[:number], config)
    plan = ox.prepare(weights, config, mask=mask)
    plan.run(check=False)
    for _ in range(2):
        with pytest.raises(ox.NonFiniteWeight, match=rf"tensors\[{number}\]"):
            plan.check()
    assert [weight.tobytes() for weight in weights] == [weight.tobytes() for weight in stopped]
    last[0] = before
    pruned = [weight.copy() for weight in weights]
    one_by_one(pruned, config)
    plan.run()
    assert [weight.tobytes() for weight in weights] == [weight.tobytes() for weight in pruned]


@granularities
@metrics
@pytest.mark.parametrize("number", [0, 4, len(SHAPES) - 1])
def test_nan_stops_where_one_by_one_stops(verbs_backend, granularity, metric, number):
    weights = weights_of(fitted(SHAPES, granularity), DTYPES)
    check_stops(weights, config_of(granularity, metric), number)


def test_the_first_of_several_nans_is_named(verbs_backend):
    weights = weights_of(SHAPES, DTYPES)
    for number in (7, 3, 5):
        weights[number][0, 0] = np.nan
    with pytest.raises(ox.NonFiniteWeight, match=r"tensors\[3\]"):
        ox.prepare(weights, config_of("column")).run()


LAUNCHES = {"row": 8, "column": 9, "block:4x4": 8, "2:4": 5}
"""At most, of float32: with those the restoring copy; one for each way in which the weights lie."""


@pytest.mark.parametrize("granularity", LAUNCHES)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_few_launches_for_many_tensors(launches, granularity, dtype):
    draw = random.Random(1)
    shapes = [(draw.choice([1, 4, 30]), draw.choice([1, 4, 60, 61])) for _ in range(300)]
    plan = ox.prepare(weights_of(fitted(shapes, granularity), [dtype]), config_of(granularity))
    assert not launches
    plan.run()
    restoring = 1  # one copy on the device
    digits = 3 if dtype == np.float64 and granularity != "2:4" else 0  # passes over keys of 64 bits
    assert restoring + launches.total() <= LAUNCHES[granularity] + digits, launches


def test_finite_weights_are_read_once(launches):
    weights, known = (weights_of([(8, 16), (5, 4)], [np.float32]) for _ in range(2))
    result, wanted = ox.prepare(known, config_of("2:4"), finite=True), ox.prepare(weights, config_of("2:4"))
    before = launches.total()
    result.run()
    once = launches.total() - before
    wanted.run()
    assert launches.total() - before - once > once
    for one, other in zip(known, weights, strict=True):
        assert one.tobytes() == other.tobytes()


def test_nan_in_weights_that_were_to_be_finite_is_an_error(verbs_backend):
    weights = weights_of([(8, 16), (4, 4)], [np.float32])
    weights[1][0, 0] = np.nan
    with pytest.raises(ox.NonFiniteWeight, match=r"tensors\[1\]"):
        ox.prepare(weights, config_of("2:4"), finite=True).run()
