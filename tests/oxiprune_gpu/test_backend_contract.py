"""Every backend, primitive by primitive, against the slow oracles: all sizes, dtypes, metrics and kinds of data."""

from __future__ import annotations

import itertools
import sys

import ml_dtypes
import numpy as np
import pytest

import oxiprune_gpu as ox
from oxiprune_gpu.backends import Backend, NumpyBackend, threshold
from oxiprune_gpu.backends.cuda_backend import CudaBackend
from oxiprune_gpu.blocks import BlockSource
from oxiprune_gpu.granularity import UnitView, parse_granularity
from oxiprune_gpu.metrics import parse_metric
from tests import oracles

BLOCK = 1 << 14
SIZES = [1, 2, 7, 8, 9, 127, 1000, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5]
LARGE = 3 * BLOCK + 5
DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16, np.float64]
METRICS = ["l1", "l2", "random:12345", "gradient"]
VIEWS = [
    (1, 1, 1, 1),
    (1, 1, 5, 7),  # rows
    (1, 5, 7, 1),  # columns
    (1, 1, 300, 200),
    (1, 300, 200, 1),
    (1, 1, 3, BLOCK + 300),  # rows longer than a block
    (1, BLOCK + 300, 3, 1),  # columns longer than a chunk
    (1, 1, 9000, 2),  # tiny rows
    (1, 1, 17000, 1),
    (3, 4, 5, 6),
    (2, 1, 9, 130),
    (2, 150, 11, 1),
    (1, 40, 30, 9),
    (2, 2, BLOCK + 1, 1),
    (1, 2, 2, BLOCK + 1),
    (2, 130, 3, 129),
]


dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
metrics = pytest.mark.parametrize("metric", METRICS)


SMALLER = {
    **{"BLOCK": BLOCK, "SPAN": 2 * BLOCK, "_ROW_PIECE": BLOCK, "_COLUMN_PIECE": BLOCK},
    **{"_SAMPLE_FROM": 2 * BLOCK, "_SAMPLES": 1 << 11},
}
"""Lengths of the backends, made so small that arrays of a few blocks take every way through them."""


@pytest.fixture(autouse=True)
def smaller_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in list(sys.modules.items()):
        if name.startswith("oxiprune_gpu.backends."):
            for constant in SMALLER.keys() & vars(module).keys():
                monkeypatch.setattr(module, constant, SMALLER[constant])


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def normal(size: int, dtype: type = np.float32) -> np.ndarray:
    return rng(size).standard_normal(size).astype(dtype)


def heavy_median(size: int) -> np.ndarray:
    """A third of the magnitudes are one value, which the median is."""
    data = normal(size)
    data[rng(size, 1).random(size) < 0.3] = 0.67
    return data


def with_outlier(size: int) -> np.ndarray:
    data = normal(size)
    data[size // 3] = 6e4
    return data


def with_infinities(size: int) -> np.ndarray:
    return np.where(rng(size, 1).random(size) < 0.1, np.copysign(np.inf, normal(size)), normal(size))


DATA = {
    "normal": normal,
    "all equal": lambda size: np.full(size, 0.25),
    "zeros": np.zeros,
    "mostly zeros": lambda size: normal(size) * (rng(size, 1).random(size) < 0.1),
    "sorted": lambda size: np.sort(normal(size)),
    "reversed": lambda size: -np.sort(np.abs(normal(size))),
    "few distinct": lambda size: rng(size).integers(-3, 4, size),
    "two distinct": lambda size: rng(size).integers(1, 3, size),
    "denormal": lambda size: rng(size).integers(-40, 40, size) * 2.0**-149,
    "signed zeros": lambda size: np.copysign(0.0, normal(size)),
    "infinities": with_infinities,
    "all infinite": lambda size: np.full(size, -np.inf),
    "outlier": with_outlier,
    "heavy median": heavy_median,
    "constant, then not": lambda size: np.where(np.arange(size) < size // 2, 0.5, normal(size)),
    "a block apart": lambda size: np.where(np.arange(size) // BLOCK == 1, 1.0, 1e-3) * normal(size),
}


def made(kind: str, size: int, dtype: type) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.asarray(DATA[kind](size)).astype(dtype)


def metric_for(name: str, size: int | tuple[int, ...]) -> tuple[ox.ImportanceMetric, dict]:
    """The metric called `name`, and what the oracle needs besides the name."""
    if name != "gradient":
        return parse_metric(name), {}
    gradient = rng(9).standard_normal(size).astype(np.float32)
    return ox.Taylor(gradient), {"gradient": gradient}


def oracle_name(metric: str) -> str:
    return "taylor" if metric == "gradient" else metric


def some_counts(size: int) -> list[int]:
    return sorted({0, 1, size // 3, size // 2, size - 1, size})


def unaligned(array: np.ndarray) -> np.ndarray:
    room = np.empty(array.nbytes + 1, np.uint8)
    copy = room[1:].view(array.dtype).reshape(array.shape)
    copy[...] = array
    assert not copy.flags.aligned
    return copy


def check_selection(backend: Backend, weight: np.ndarray, metric, scores: np.ndarray, k: int) -> None:
    """Mask and data are the oracle's, by bits; with write=False the data stay."""
    fallen = oracles.lowest(scores, k)
    mask, work = np.empty(weight.shape, bool), weight.copy()
    backend.prune_elements(backend.adopt(work), metric, k, "w", mask=mask, write=False)
    assert work.tobytes() == weight.tobytes()
    assert np.array_equal(~mask.reshape(-1), fallen)
    backend.prune_elements(backend.adopt(work), metric, k, "w")
    assert work.tobytes() == oracles.zeroed(weight, fallen).tobytes()


@dtypes
@metrics
@pytest.mark.parametrize("size", SIZES)
def test_prune_elements(backend, size, dtype, metric):
    weight = normal(size, dtype)
    chosen, options = metric_for(metric, size)
    scores = oracles.element_scores(weight, oracle_name(metric), **options)
    for k in some_counts(size):
        check_selection(backend, weight, chosen, scores, k)


@pytest.mark.parametrize("metric", ["l1", "l2"])
@dtypes
@pytest.mark.parametrize("kind", DATA)
def test_prune_elements_of_any_data(backend, threads, kind, dtype, metric):
    for size in (9, LARGE):
        weight = made(kind, size, dtype)
        scores = oracles.element_scores(weight, metric)
        for k in some_counts(size):
            check_selection(backend, weight, parse_metric(metric), scores, k)


@pytest.mark.parametrize("offset", [-2, -1, 0, 1, 2])
@pytest.mark.parametrize("heavy", [0.0, 0.67])
def test_cut_at_the_ends_of_a_heavy_value(backend, heavy, offset):
    """k just before, at and after the first and the last element of a value that fills a third."""
    weight = made("heavy median", LARGE, np.float32)
    weight[np.abs(weight) == np.float32(0.67)] = heavy
    scores = np.abs(weight)
    below, upto = np.count_nonzero(scores < np.float32(heavy)), np.count_nonzero(scores <= np.float32(heavy))
    for k in (below + offset, (below + upto) // 2 + offset, upto + offset):
        check_selection(backend, weight, ox.L1Magnitude(), scores, max(0, k))


@dtypes
@pytest.mark.parametrize("size", [9, LARGE])
def test_unaligned(backend, dtype, size):
    weight = normal(size, dtype)
    fallen = oracles.lowest(oracles.element_scores(weight, "l1"), size // 2)
    work, mask = unaligned(weight), np.empty(size, bool)
    if isinstance(backend, CudaBackend):
        with pytest.raises(ox.UnsupportedArray, match="not aligned"):
            backend.adopt(work)
        return
    backend.prune_elements(backend.adopt(work), ox.L1Magnitude(), size // 2, "w", mask=mask)
    assert np.array_equal(~mask, fallen)
    assert work.tobytes() == oracles.zeroed(weight, fallen).tobytes()
    view = UnitView(1, 1, size, 1)
    again = unaligned(weight)
    backend.prune_units(backend.adopt(again), view, ~fallen)
    assert again.tobytes() == work.tobytes()
    assert backend.count_nonzero(backend.adopt(again)) == np.count_nonzero(work != 0)


@pytest.mark.parametrize("slack", [1e-9, 0.01, 1e9])
@pytest.mark.parametrize("kind", ["normal", "mostly zeros", "heavy median", "few distinct", "sorted", "outlier"])
def test_bracket_that_misses(monkeypatch, kind, slack):
    """The sample only decides how fast the answer is found."""
    monkeypatch.setattr(threshold, "_SLACK", slack)
    weight = made(kind, LARGE, np.float32)
    for k in (1, LARGE // 50, LARGE // 2, LARGE - 1):
        check_selection(NumpyBackend(), weight, ox.L1Magnitude(), np.abs(weight), k)


@pytest.mark.parametrize("seen", [0.0, 0.5, 0.67, 1e9, np.inf])
def test_sample_that_misleads(monkeypatch, seen):
    """The same, with a sample that shows one value only."""
    key = np.float32(seen).view(np.uint32)
    monkeypatch.setattr(threshold, "sample_keys", lambda weight, size: np.full((125, 16), key))
    weight = made("heavy median", LARGE, np.float32)
    scores = np.abs(weight)
    below, upto = np.count_nonzero(scores < np.float32(seen)), np.count_nonzero(scores <= np.float32(seen))
    for k in {1, LARGE // 2, LARGE - 1, below, below + 1, upto, upto + 1} & set(range(1, LARGE)):
        check_selection(NumpyBackend(), weight, ox.L1Magnitude(), scores, k)


@dtypes
@metrics
@pytest.mark.parametrize("size", [1, 127, BLOCK + 1, LARGE])
def test_element_scores(backend, size, dtype, metric):
    weight = normal(size, dtype)
    chosen, options = metric_for(metric, size)
    scores = backend.element_scores(backend.adopt(weight), chosen, "w")
    expected = oracles.element_scores(weight, oracle_name(metric), **options)
    assert scores.dtype == expected.dtype
    assert scores.tobytes() == expected.tobytes()


def test_element_scores_have_the_shape_of_the_weight(backend):
    assert backend.element_scores(backend.adopt(np.ones((2, 3, 4), np.float32)), ox.L1Magnitude(), "w").shape == (
        2,
        3,
        4,
    )


def units_of(view: UnitView) -> list[np.ndarray]:
    """Element numbers of each unit, as the docstring of `UnitView` says."""
    numbers = np.arange(view.groups * view.outer * view.units * view.inner).reshape(view.shape)
    return [numbers[g, :, u].reshape(-1) for g in range(view.groups) for u in range(view.units)]


def weight_for(view: UnitView, dtype: type = np.float32) -> np.ndarray:
    size = view.count * view.unit_size
    return (normal(size) * np.exp(rng(size, 5).standard_normal(size))).astype(dtype)


views = pytest.mark.parametrize("view", [UnitView(*shape) for shape in VIEWS], ids=lambda view: str(view.shape))


@metrics
@views
def test_unit_scores(backend, threads, view, metric):
    weight = weight_for(view)
    chosen, options = metric_for(metric, weight.size)
    scores = backend.unit_scores(backend.adopt(weight), view, chosen, "w")
    expected = oracles.unit_scores(weight, units_of(view), oracle_name(metric), **options)
    assert scores.dtype == expected.dtype
    assert scores.tobytes() == expected.tobytes()


@dtypes
@pytest.mark.parametrize("shape", [(1, 1, 40, 500), (1, 500, 40, 1), (3, 50, 7, 9)])
def test_unit_scores_of_every_dtype(backend, shape, dtype):
    view = UnitView(*shape)
    weight = weight_for(view, dtype)
    for metric in ("l1", "l2"):
        scores = backend.unit_scores(backend.adopt(weight), view, parse_metric(metric), "w")
        expected = oracles.unit_scores(weight, units_of(view), metric)
        assert scores.dtype == expected.dtype
        assert scores.tobytes() == expected.tobytes()


@pytest.mark.parametrize("shape", [(1, 1, 1, 12 * BLOCK), (1, 12 * BLOCK, 1, 1), (1, 2, 1, 6 * BLOCK)])
@pytest.mark.parametrize(
    ("ones", "lost"),
    [
        (slice(BLOCK, None, BLOCK), True),  # one in each later chunk: chunks are added one after another
        (slice(128, 128 * 9, 128), True),  # all in the lane of the large one, which adds one after another
        ([1, 65], False),  # lanes that meet before they meet the large one
        ([1, 3], False),
        ([64, 32], True),  # lanes that meet the large one at once
    ],
)
def test_order_of_addition(backend, threads, shape, ones, lost):
    """2**53 + 1 is 2**53 in float64: ones are lost one by one, and are not lost when they were added before."""
    weight = np.zeros(12 * BLOCK)
    weight[0], weight[ones] = 2.0**53, 1.0
    scores = backend.unit_scores(backend.adopt(weight), UnitView(*shape), ox.L1Magnitude(), "w")
    assert scores.tolist() == [2.0**53 if lost else 2.0**53 + 2]
    assert scores.tolist() == [oracles.ordered_sum(weight)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1, 3, 5), (1, 5, 3, 1), (2, 5, 3, 2), (1, 1, 2, BLOCK + 1)])
def test_unit_sums_that_overflow_are_infinite(backend, shape, dtype):
    view = UnitView(*shape)
    weight = np.full(view.count * view.unit_size, np.finfo(dtype).max, dtype)
    scores = backend.unit_scores(backend.adopt(weight), view, ox.L1Magnitude(), "w")
    assert (scores == np.inf).all()


@views
def test_prune_units(backend, threads, view):
    weight = weight_for(view)
    kept = rng(3).random(view.count) < 0.5
    units = units_of(view)
    fallen = np.zeros(weight.size, bool)
    for unit in np.flatnonzero(~kept):
        fallen[units[unit]] = True
    work, mask = weight.copy(), np.empty(weight.size, bool)
    backend.prune_units(backend.adopt(work), view, kept, mask=mask, write=False)
    assert work.tobytes() == weight.tobytes()
    assert np.array_equal(~mask, fallen)
    backend.prune_units(backend.adopt(work), view, kept)
    assert work.tobytes() == oracles.zeroed(weight, fallen).tobytes()


@dtypes
@views
def test_prune_units_keeps_bits(backend, view, dtype):
    """Infinities beside zeroed units, and negative zeros, in every dtype."""
    weight = weight_for(view, dtype)
    weight[::3], weight[1::3] = -np.inf, -0.0
    kept = np.arange(view.count) % 2 == 0
    expected = weight.copy().reshape(view.shape)
    for unit in np.flatnonzero(~kept):
        expected[unit // view.units, :, unit % view.units] = 0
    backend.prune_units(backend.adopt(weight), view, kept)
    assert weight.tobytes() == expected.tobytes()


@pytest.mark.parametrize("size", [1, 9, 1000, LARGE])
def test_kept_units(backend, size):
    scores = np.round(np.abs(normal(size)), 1)
    for k in some_counts(size):
        before = scores.copy()
        assert np.array_equal(~backend.kept_units(scores, k), oracles.lowest(scores, k))
        assert scores.tobytes() == before.tobytes()


GROUPS = [None, "2:4@0", "1:2@0", "3:5@0", "2:4@0+pad", "8:32@0"]


def losses_plainly(left, fallen, shares, diagonal, groups):
    """One element at a time. What is left, what fell, what was lost."""
    left, fallen, lost = left.copy(), fallen.copy(), np.zeros_like(left)
    for row, output in itertools.product(range(len(left)), range(left.shape[1])):
        if groups is not None and row % groups.of == 0:
            group = slice(row, row + groups.of)
            scores = [(score, place) for place, score in enumerate((left[group, output] / diagonal[group]) ** 2)]
            falling = [place for _, place in sorted(scores)[: groups.falls(len(scores))]]
            fallen[group, output] = [place in falling for place in range(len(scores))]
        lost[row, output] = left[row, output] if fallen[row, output] else 0
        for later in range(row + 1, len(left)):
            left[later, output] -= shares[row, later] * lost[row, output]
    return left, fallen, lost


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (11, 65), (32, 130)])
def test_spread_losses(backend, shape, groups, dtype):
    left = np.round(rng(1).standard_normal(shape), 1).astype(dtype)
    left[0, 0] = np.finfo(dtype).tiny / 4
    shares = rng(2).standard_normal((shape[0] + 1, shape[0] + 1)).astype(dtype)[1:, 1:]
    diagonal = np.repeat(rng(3).uniform(0.5, 2, shape[0] // 2 + 1), 2).astype(dtype)[: shape[0]]
    fallen, lost = rng(4).random(shape) < 0.5, np.empty(shape, dtype)
    view = parse_granularity(groups).group_view(shape) if groups else None
    expected = losses_plainly(left, fallen, shares, diagonal, view)
    backend.spread_losses(left, fallen, lost, shares, diagonal, view, "w")
    for found, wanted in zip((left, fallen, lost), expected, strict=True):
        assert found.tobytes() == wanted.tobytes()


@dtypes
@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (LARGE,)])
def test_apply_mask(backend, shape, dtype):
    weight = normal(int(np.prod(shape)), dtype).reshape(shape)
    weight.reshape(-1)[::4] = -np.inf
    kept = rng(1).random(shape) < 0.5
    expected = oracles.zeroed(weight, ~np.asarray(kept))
    backend.apply_mask(weight, np.asarray(kept))
    assert weight.tobytes() == expected.tobytes()


@dtypes
@pytest.mark.parametrize("kind", ["normal", "mostly zeros", "signed zeros", "denormal", "infinities"])
def test_count_nonzero(backend, threads, kind, dtype):
    for size in (1, 1000, LARGE):
        weight = made(kind, size, dtype)
        weight[size // 2] = np.nan
        assert backend.count_nonzero(backend.adopt(weight)) == np.count_nonzero(weight.astype(np.float64))


@dtypes
@metrics
@pytest.mark.parametrize("size", [1, 2, 1000, BLOCK + 1, LARGE])
def test_statistics(backend, size, dtype, metric):
    weight = normal(size, dtype)
    chosen, options = metric_for(metric, size)
    got = backend.statistics(backend.adopt(weight), chosen, "w")._asdict()
    expected = oracles.statistics(oracles.element_scores(weight, oracle_name(metric), **options))
    assert got == pytest.approx(expected, rel=0, abs=0)


@pytest.mark.parametrize("kind", ["all equal", "mostly zeros", "denormal", "few distinct", "outlier", "signed zeros"])
def test_statistics_of_any_data(backend, threads, kind):
    weight = made(kind, LARGE, np.float32)
    got = backend.statistics(backend.adopt(weight), ox.L1Magnitude(), "w")._asdict()
    assert got == pytest.approx(oracles.statistics(np.abs(weight)), rel=0, abs=0)


def test_nothing_of_nothing(backend):
    empty = backend.adopt(np.empty((3, 0), np.float32))
    assert backend.count_nonzero(empty) == 0
    assert backend.statistics(empty, ox.L1Magnitude(), "w") == (0, 0, 0, 0, 0)
    assert backend.element_scores(empty, ox.L1Magnitude(), "w").shape == (3, 0)


def readers(backend: Backend, weight: np.ndarray, metric) -> list:
    """Every primitive that reads scores, as a call without arguments."""
    adopted, view = backend.adopt(weight), UnitView(1, 1, weight.size, 1)
    column = UnitView(1, weight.size, 1, 1)
    return [
        lambda: backend.element_scores(adopted, metric, "w"),
        lambda: backend.unit_scores(adopted, view, metric, "w"),
        lambda: backend.unit_scores(adopted, column, metric, "w"),
        lambda: backend.prune_elements(adopted, metric, 0, "w"),
        lambda: backend.prune_elements(adopted, metric, max(1, weight.size // 2), "w"),
        lambda: backend.prune_elements(adopted, metric, weight.size, "w"),
        lambda: backend.statistics(adopted, metric, "w"),
    ]


def check_refused(backend: Backend, weight: np.ndarray, metric, error: type[ox.PruningError], count: int) -> None:
    before = weight.tobytes()
    for call in readers(backend, weight, metric):
        with pytest.raises(error) as caught:
            call()
        assert (caught.value.name, caught.value.count) == ("w", count)
        assert weight.tobytes() == before


@dtypes
@metrics
@pytest.mark.parametrize("size", [9, LARGE])
def test_nan_anywhere_is_refused(backend, threads, size, dtype, metric):
    for place in (0, size // 2, size - 1):
        weight = normal(size, dtype)
        weight[place] = np.nan
        check_refused(backend, weight, metric_for(metric, size)[0], ox.NonFiniteWeight, 1)


@pytest.mark.parametrize("size", [9, LARGE])
def test_every_nan_is_counted(backend, threads, size):
    weight = normal(size)
    weight[::4], weight[1::4] = np.nan, -np.nan
    check_refused(backend, weight, ox.L2Magnitude(), ox.NonFiniteWeight, np.isnan(weight).sum())


@pytest.mark.parametrize("kind", ["zeros", "few distinct", "all infinite"])
def test_nan_among_equal_values_is_refused(backend, threads, kind):
    for place in (0, LARGE // 2, LARGE - 1):
        weight = made(kind, LARGE, np.float32)
        weight[place] = np.nan
        check_refused(backend, weight, ox.L1Magnitude(), ox.NonFiniteWeight, 1)


@pytest.mark.parametrize("size", [9, LARGE])
def test_nan_in_a_gradient_is_refused(backend, size):
    gradient = np.ones(size, np.float32)
    gradient[[0, size - 1]] = np.nan
    check_refused(backend, normal(size), ox.Taylor(gradient), ox.NonFiniteWeight, 2)


@pytest.mark.parametrize("size", [9, LARGE])
def test_infinity_times_zero_is_refused(backend, size):
    weight, gradient = normal(size), np.ones(size, np.float32)
    weight[size - 1], gradient[size - 1] = np.inf, 0.0
    check_refused(backend, weight, ox.Taylor(gradient), ox.NonFiniteScore, 1)


class CopiedBlocks(BlockSource):
    """A weight that can only be read and written by copies, as one in a file."""

    def __init__(self, data: np.ndarray) -> None:
        self.data = data.copy()
        self.stored: list[tuple[int, int]] = []

    @property
    def shape(self):
        return self.data.shape

    @property
    def dtype(self):
        return self.data.dtype

    def load(self, start, stop, scratch):
        assert 0 <= start < stop <= self.data.size
        assert scratch.dtype == self.dtype
        scratch[: stop - start] = self.data.reshape(-1)[start:stop]
        return scratch[: stop - start]

    def store(self, start, block):
        self.stored.append((start, start + len(block)))
        self.data.reshape(-1)[start : start + len(block)] = block


CONFIGS = [
    ("l1", "unstructured"),
    ("random:3", "unstructured"),
    ("l2", "row"),
    ("l1", "column"),
    ("l2", "axis:1"),
    ("random:3", "row"),
    ("l1", ox.Axis(1, groups=2)),
]


@dtypes
@pytest.mark.parametrize(("metric", "granularity"), CONFIGS)
@pytest.mark.parametrize("shape", [(6, 4), (130, 500), (2, 3 * BLOCK), (2 * BLOCK, 3)])
def test_blocks_that_are_copies(threads, shape, metric, granularity, dtype):
    weight = normal(shape[0] * shape[1], dtype).reshape(shape)
    source, config = CopiedBlocks(weight), ox.PruningConfig(0.5, metric, granularity)
    pruned, mask = ox.prune_tensor(weight, config)
    counts = ox.prune_blocks(source, config)
    assert source.data.tobytes() == pruned.tobytes()
    assert counts == ox.PruneCounts(weight.size, np.sum(~mask), np.count_nonzero(weight), np.count_nonzero(pruned))
    stored = sorted(source.stored)
    assert all(stop <= start for (_, stop), (start, _) in itertools.pairwise(stored)), "stores overlap"


@pytest.mark.parametrize("metric", METRICS[:3])
def test_questions_about_blocks(metric):
    weight = normal(LARGE)
    source = CopiedBlocks(weight)
    assert ox.count_nonzero_blocks(source) == np.count_nonzero(weight)
    expected = oracles.statistics(oracles.element_scores(weight, metric))
    stats = ox.score_stats_blocks(source, metric)
    assert (stats.min, stats.max, stats.mean) == (expected["minimum"], expected["maximum"], expected["mean"])
    assert (stats.median, stats.std_dev) == (expected["median"], expected["std_dev"])
    assert not source.stored


def test_nothing_is_stored_when_a_block_source_is_refused():
    weight = normal(LARGE)
    weight[-1] = np.nan
    source = CopiedBlocks(weight)
    with pytest.raises(ox.NonFiniteWeight, match="layer"):
        ox.prune_blocks(source, ox.PruningConfig(0.5), "layer")
    assert not source.stored
