"""The kernels of `units.cu`, run on the CPU, against the slow oracles: the same bits whatever the order of threads."""

from __future__ import annotations

import functools
import math

import ml_dtypes
import numpy as np
import pytest

import oxiprune_gpu as ox
from oxiprune_gpu.backends import NumpyBackend
from oxiprune_gpu.backends.cuda_tables import DeviceWeight, Member
from oxiprune_gpu.backends.cuda_units import Units
from oxiprune_gpu.backends.unit_sums import array_sum
from oxiprune_gpu.granularity import UnitView
from oxiprune_gpu.metrics import ImportanceMetric, parse_metric
from tests import cuda_on_cpu, oracles
from tests.backends import source_of

pytestmark = pytest.mark.skipif(bool(cuda_on_cpu.available()), reason=cuda_on_cpu.available() or "it can run")

CHUNK = 1 << 14
DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16, np.float64]
METRICS = ["l1", "l2", "gradient", "random:12345"]
VIEWS = [
    (1, 1, 1, 1),
    (1, 1, 5, 7),  # rows
    (1, 5, 7, 1),  # columns
    (1, 1, 30, 200),
    (1, 300, 200, 1),
    (1, 1, 3, CHUNK + 300),  # rows longer than a chunk
    (1, CHUNK + 300, 3, 1),  # columns longer than a chunk
    (1, 1, 900, 1),  # tiny rows, a team of any number of threads each
    (1, 1, 700, 2),
    (1, 1, 301, 4),
    (1, 1, 77, 5),
    (1, 1, 35, 16),
    (1, 1, 19, 33),
    (1, 1, 17, 64),
    (1, 1, 9, 128),
    (1, 1, 9, 130),
    (1, 1, 2, 2 * CHUNK + 4),
    (3, 4, 5, 6),
    (2, 1, 9, 130),
    (2, 150, 11, 1),
    (3, 70, 33, 1),
    (1, 40, 30, 9),
    (1, 6, 40, 8),
    (2, 2, CHUNK // 8 + 1, 1),
    (1, 2, 2, CHUNK + 1),
    (2, 130, 3, 129),
    (4, 60, 1, 3),  # a group is one unit
    (1, 35 * 129, 2, 8),
]
GRIDS = [(1, 1), (3, 2), (1000, 3)]
"""Most blocks of a launch, and a seed of the order in which the threads run."""

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
metrics = pytest.mark.parametrize("metric", METRICS)
views = pytest.mark.parametrize("view", [UnitView(*shape) for shape in VIEWS], ids=lambda view: str(view.shape))
grids = pytest.mark.parametrize(("blocks", "seed"), GRIDS)


@functools.cache
def kernels(seed: int) -> cuda_on_cpu.CpuKernels:
    return cuda_on_cpu.CpuKernels(source_of, seed=seed)


def units(blocks: int = 3, seed: int = 1) -> Units:
    return Units(np, kernels(seed).kernel, blocks)


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def aligned(array: np.ndarray, offset: int = 0) -> np.ndarray:
    """A copy that begins `offset` elements after an address that is a multiple of 64."""
    room = np.empty(array.nbytes + 128, np.uint8)
    start = -room.ctypes.data % 64 + offset * array.itemsize
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def weight_for(view: UnitView, dtype: type = np.float32) -> np.ndarray:
    size = view.count * view.unit_size
    return aligned((rng(size).standard_normal(size) * np.exp(rng(size, 5).standard_normal(size))).astype(dtype))


def units_of(view: UnitView) -> list[np.ndarray]:
    """Element numbers of each unit, as the docstring of `UnitView` says."""
    numbers = np.arange(view.count * view.unit_size).reshape(view.shape)
    return [numbers[g, :, u].reshape(-1) for g in range(view.groups) for u in range(view.units)]


def member_for(weight: np.ndarray, metric: str, gradient: np.ndarray | None = None) -> tuple[Member, ImportanceMetric]:
    """What the kernels get for a weight and the metric called `metric`."""
    adopted = DeviceWeight(weight.view(f"u{weight.itemsize}"), weight.shape, weight.dtype)
    if metric == "gradient":
        gradient = gradient_for(weight) if gradient is None else gradient
        return Member(adopted, gradient=gradient.astype(adopted.score_dtype)), ox.Taylor(gradient)
    chosen = parse_metric(metric)
    return Member(adopted, seed=getattr(chosen, "seed", 0)), chosen


def gradient_for(weight: np.ndarray) -> np.ndarray:
    return rng(9).standard_normal(weight.size).astype(np.float32)


def oracle_scores(weight: np.ndarray, metric: str, view: UnitView) -> np.ndarray:
    if metric == "gradient":
        return oracles.unit_scores(weight, units_of(view), "taylor", gradient=gradient_for(weight))
    return oracles.unit_scores(weight, units_of(view), metric)


def check_scores(weight: np.ndarray, view: UnitView, metric: str, expected: np.ndarray, *grid: int) -> None:
    member, chosen = member_for(weight, metric)
    scores, nan = units(*grid).unit_scores(member, view, chosen)
    assert (scores.dtype, scores.tobytes(), nan[0]) == (expected.dtype, expected.tobytes(), 0)


@metrics
@views
def test_unit_scores(view, metric):
    weight = weight_for(view)
    expected = oracle_scores(weight, metric, view)
    for grid in GRIDS:
        check_scores(weight, view, metric, expected, *grid)


@dtypes
@metrics
@pytest.mark.parametrize("shape", [(1, 1, 7, 500), (1, 1, 7, 501), (1, 1, 30, 2), (1, 500, 40, 1), (3, 50, 7, 9)])
def test_unit_scores_of_every_dtype(shape, metric, dtype):
    view = UnitView(*shape)
    weight = weight_for(view, dtype)
    expected = oracle_scores(weight, metric, view)
    for offset in range(4):
        check_scores(aligned(weight, offset), view, metric, expected)


@dtypes
@views
def test_unit_sums_are_those_of_numpy(view, dtype):
    """The sums themselves, which scores round."""
    weight = weight_for(view, dtype)
    scores = oracles.element_scores(weight, "l2")
    member, metric = member_for(weight, "l2")
    sums, nan = units(1000).unit_sums(member, view, metric)
    assert sums.tolist() == [array_sum(scores[unit]) for unit in units_of(view)]
    assert nan[0] == 0


@dtypes
def test_random_scores_of_seeds_that_wrap(dtype):
    weight, view = np.ones(600, dtype), UnitView(1, 2, 300, 1)
    metric = f"random:{2**64 - 100}"
    check_scores(weight, view, metric, oracle_scores(weight, metric, view))


@pytest.mark.parametrize("shape", [(1, 1, 1, 12 * CHUNK), (1, 12 * CHUNK, 1, 1), (1, 2, 1, 6 * CHUNK)])
@pytest.mark.parametrize(
    ("ones", "lost"),
    [
        (slice(CHUNK, None, CHUNK), True),
        (slice(128, 128 * 9, 128), True),
        ([1, 65], False),
        ([1, 3], False),
        ([64, 32], True),
    ],
)
def test_order_of_addition(shape, ones, lost):
    """2**53 + 1 is 2**53 in float64: ones are lost one by one, and are not lost when they were added before."""
    weight = np.zeros(12 * CHUNK)
    weight[0], weight[ones] = 2.0**53, 1.0
    check_scores(weight, UnitView(*shape), "l1", np.array([2.0**53 if lost else 2.0**53 + 2]))


@grids
@pytest.mark.parametrize("kind", ["columns", "slices"])
def test_order_of_addition_apart(kind, blocks, seed):
    """The same beside a unit of zeros, so that the units do not lie in one piece."""
    outer, inner = (3 * CHUNK, 1) if kind == "columns" else (3 * CHUNK // 8, 8)
    view = UnitView(1, outer, 2, inner)
    for ones, lost in (([CHUNK, 2 * CHUNK], True), ([128, 256], True), ([1, 65], False), ([64, 32], True)):
        weight = np.zeros(view.shape)
        terms = np.zeros(3 * CHUNK)
        terms[0], terms[ones] = 2.0**53, 1.0
        weight[0, :, 1, :] = terms.reshape(outer, inner)
        expected = np.array([0.0, 2.0**53 if lost else 2.0**53 + 2])
        check_scores(weight.reshape(-1), view, "l1", expected, blocks, seed)


SHAPES = [(1, 1, 3, 8), (1, 1, 3, 5), (1, 5, 3, 1), (2, 5, 3, 2), (1, 1, 2, CHUNK + 4), (1, CHUNK + 1, 2, 1)]
shapes = pytest.mark.parametrize("shape", SHAPES)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@shapes
def test_unit_sums_that_overflow_are_infinite(shape, dtype):
    view = UnitView(*shape)
    weight = np.full(view.count * view.unit_size, np.finfo(dtype).max, dtype)
    check_scores(weight, view, "l1", np.full(view.count, np.inf, dtype))


@dtypes
@shapes
def test_infinities(shape, dtype):
    view = UnitView(*shape)
    weight = weight_for(view, dtype)
    weight[0] = -np.inf
    for metric in ("l1", "l2"):
        check_scores(weight, view, metric, oracle_scores(weight, metric, view))


@dtypes
@shapes
def test_denormals_are_not_flushed(shape, dtype):
    """Neither as elements, nor as scores, nor as the score of a unit."""
    view = UnitView(*shape)
    size = view.count * view.unit_size
    smallest = {2: 2.0**-24, 4: 2.0**-149, 8: 2.0**-1074}[np.dtype(dtype).itemsize]
    smallest = 2.0**-133 if dtype == ml_dtypes.bfloat16 else smallest
    weight = (rng(size).integers(-9, 9, size) * smallest).astype(dtype)
    assert np.count_nonzero(weight) > size // 2
    gradient = np.full(size, 0.5 if dtype == np.float64 else 2.0**-0.5)
    for metric, options in (("l1", {}), ("l2", {}), ("taylor", {"gradient": gradient.astype(np.float32)})):
        expected = oracles.unit_scores(weight, units_of(view), metric, **options)
        member, chosen = member_for(weight, "gradient" if options else metric, options.get("gradient"))
        scores, _ = units().unit_scores(member, view, chosen)
        assert scores.tobytes() == expected.tobytes()
        assert metric == "l2" or scores.any()


@metrics
@shapes
def test_nan_is_flagged(shape, metric):
    view = UnitView(*shape)
    for place in {0, view.unit_size - 1, view.count * view.unit_size - 1}:
        weight = weight_for(view)
        weight[place] = -np.nan
        member, chosen = member_for(weight, metric)
        assert units().unit_scores(member, view, chosen)[1][0] > 0


def test_infinity_times_zero_is_flagged():
    weight, view = np.array([1.0, np.inf, 2.0], np.float32), UnitView(1, 1, 1, 3)
    member, metric = member_for(weight, "gradient", np.zeros(3, np.float32))
    assert units().unit_scores(member, view, metric)[1][0] > 0


@dtypes
@views
def test_prune_units(view, dtype):
    """Infinities beside zeroed units, and negative zeros, keep their bits; nothing is written past the ends."""
    kept = rng(3).random(view.count) < 0.5
    for grid, offset in zip(GRIDS, (0, 0, 1), strict=True):
        weight = aligned(weight_for(view, dtype), offset)
        weight[::3], weight[1::3] = -np.inf, -0.0
        expected = weight.copy().reshape(view.shape)
        fallen = np.zeros(view.shape, bool)
        for unit in np.flatnonzero(~kept):
            fallen[unit // view.units, :, unit % view.units] = True
        expected[fallen] = 0
        before, room = weight.tobytes(), np.full(weight.size + 32, 7, np.uint8)
        mask = room[16:-16].view(bool)
        adopted = member_for(weight, "l1")[0].weight
        units(*grid).prune_units(adopted, view, kept, mask=mask, write=False)
        assert weight.tobytes() == before
        assert mask.tobytes() == (~fallen).tobytes()
        assert (room[:16] == 7).all()
        assert (room[-16:] == 7).all()
        units(*grid).prune_units(adopted, view, kept)
        assert weight.tobytes() == expected.tobytes()


@pytest.mark.parametrize("keep", [True, False])
def test_prune_all_units_or_none(keep):
    view = UnitView(2, 3, 8, 2)
    weight, mask = weight_for(view), np.empty(96, bool)
    expected = weight.copy() if keep else np.zeros_like(weight)
    units().prune_units(member_for(weight, "l1")[0].weight, view, np.full(view.count, keep), mask=mask)
    assert weight.tobytes() == expected.tobytes()
    assert (mask == keep).all()


STATISTICS = [("l1", np.float32), ("l2", np.float16), ("gradient", np.float64), ("random:3", np.float32)]


@pytest.mark.parametrize("size", [1, 9, 1000, 2 * CHUNK + 7])
@pytest.mark.parametrize(("metric", "dtype"), STATISTICS)
@pytest.mark.parametrize("offset", [0, 1])
def test_statistics(metric, dtype, size, offset):
    """Everything but the median, put together as the numpy backend does."""
    weight = aligned(weight_for(UnitView(1, 1, 1, size), dtype), offset)
    member, chosen = member_for(weight, metric)
    expected = NumpyBackend().statistics(NumpyBackend().adopt(weight), chosen, "w")
    worker, dtype = units(5, size), member.weight.score_dtype
    extremes, nan = worker.extremes(member, chosen)
    low, high = extremes.astype(member.weight.key_dtype).view(dtype)
    total, also_nan = worker.ordered_sum(member, chosen)
    mean = dtype.type(total[0] / size)
    variance = worker.squared_deviation_sum(member, chosen, mean)[0] / size
    found = (low, high, mean, dtype.type(math.sqrt(variance)))
    assert (nan[0], also_nan[0]) == (0, 0)
    assert found == (expected.minimum, expected.maximum, expected.mean, expected.std_dev)


def test_deviations_that_are_denormal_or_infinite():
    few = np.array([1, 3, 8] * 50)
    for weight in (few * 2.0**-149, few * 2.0**-72, np.array([3e38] * 8 + [-2e38] * 8), np.array([1, np.inf])):
        member, metric = member_for(weight.astype(np.float32), "l1")
        scores = np.abs(weight.astype(np.float32))
        for mean in (np.float32(2.0**-148), np.float32(2.0**-72), np.float32(np.inf)):
            with np.errstate(all="ignore"):
                expected = oracles.ordered_sum((scores - mean) * (scores - mean))
            found = units().squared_deviation_sum(member, metric, mean)
            assert np.array_equal(found, [expected], equal_nan=True)


@dtypes
def test_extremes_of_what_holds_nan(dtype):
    weight = weight_for(UnitView(1, 1, 1, CHUNK + 5), dtype)
    weight[[7, CHUNK]] = np.nan, -np.nan
    member, metric = member_for(weight, "l1")
    extremes, nan = units().extremes(member, metric)
    low = extremes[:1].astype(member.weight.key_dtype).view(member.weight.score_dtype)[0]
    assert (low, nan[0]) == (np.nanmin(np.abs(weight.astype(member.weight.score_dtype))), 2)
    assert extremes[1] > np.array(np.inf, member.weight.score_dtype).view(member.weight.key_dtype)


def test_an_empty_weight():
    weight, view = np.empty(0, np.float32), UnitView(1, 1, 3, 0)
    member, metric = member_for(weight, "l2")
    assert units().unit_scores(member, view, metric)[0].tolist() == [0, 0, 0]
    assert units().squared_deviation_sum(member, metric, np.float32(0)).tolist() == [0]
    assert units().extremes(member, metric)[0].tolist() == [2**64 - 1, 0]
    units().prune_units(member.weight, view, np.zeros(3, bool))
