"""How pruning is spread over several weights, against oracles that hold everything and sort it."""

from __future__ import annotations

import math
import sys
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

import oxiprune_gpu as ox
from oxiprune_gpu.backends.joint_samples import Samples
from tests import oracles

METHODS = ["uniform", "erk", "global", "global:rms", "global:lamp"]
GLOBAL = METHODS[2:]
DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16, np.float64]
SHAPES = [(64, 32), (40, 7, 3, 3), (100,), (60, 90), (1, 1), (50, 37)]

methods = pytest.mark.parametrize("method", METHODS)
global_methods = pytest.mark.parametrize("method", GLOBAL)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)


@pytest.fixture(autouse=True)
def smaller_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks and samples so small that arrays of a few thousand elements take every way."""
    for name, module in list(sys.modules.items()):
        if name.startswith("oxiprune_gpu.backends."):
            for constant, value in {"BLOCK": 1 << 10, "_WHOLE": 1 << 7, "_MANY": 1 << 6, "_FEW": 1 << 8}.items():
                if constant in vars(module):
                    monkeypatch.setattr(module, constant, value)


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


DATA = {
    "normal": lambda n, shape: rng(1, n).standard_normal(shape) * 4.0 ** (n - 2),
    "alike": lambda n, shape: rng(2, n).standard_normal(shape),
    "all equal": lambda n, shape: np.full(shape, 0.25 * (n + 1)),
    "few distinct": lambda n, shape: rng(3, n).integers(-3, 4, shape),
    "nearly all zero": lambda n, shape: np.where(rng(4, n).random(shape) < 0.9, 0, rng(5, n).standard_normal(shape)),
    "an outlier": lambda n, shape: np.where(np.arange(np.prod(shape)).reshape(shape), DATA["alike"](n, shape), 1e4),
    "rows of their scale": lambda n, shape: (
        np.sort(rng(6, n).standard_normal(int(np.prod(shape)))).reshape(shape) * 2.0**n
    ),
    "zeros": lambda n, shape: np.zeros(shape),
    "denormal": lambda n, shape: rng(7, n).integers(-9, 10, shape) * 2.0**-149,
}


def made(kind: str, dtype: type = np.float32) -> list[np.ndarray]:
    with np.errstate(all="ignore"):
        return [np.asarray(DATA[kind](n, shape)).astype(dtype) for n, shape in enumerate(SHAPES)]


def allocated(weights: list[np.ndarray], config: ox.PruningConfig, method: str, **options) -> list[int]:
    """The counts, after a look at what has changed: nothing."""
    before = [weight.tobytes() for weight in weights]
    counts = ox.allocate([ox.ArrayBlocks(weight) for weight in weights], config, method, **options)
    assert [weight.tobytes() for weight in weights] == before
    assert all(type(count) is int for count in counts)
    return list(counts)


def norms_of(scores: np.ndarray, method: str) -> np.ndarray:
    """Scores of one weight, made comparable with those of others, in float64."""
    if method == "global":
        return scores.astype(np.float64)
    top = float(scores.max())
    small = scores.astype(np.float64) * 2.0 ** min(1023, -math.frexp(top)[1])
    grid = 2.0 ** (62 - scores.size.bit_length())
    squares = [int(square) for square in np.rint(small * small * grid)]
    if method == "global:rms":
        rms = math.sqrt(sum(squares) / (grid * scores.size))
        return small / rms if rms else small * 0
    order, norms, not_lower = np.argsort(small), np.zeros(scores.size), 0
    for value in sorted(set(small.tolist()), reverse=True):
        alike = order[np.searchsorted(small, value, "left", order) : np.searchsorted(small, value, "right", order)]
        not_lower += sum(squares[place] for place in alike)
        norms[alike] = value**2 * grid / not_lower if not_lower else 0
    return norms


def counts_of_all(scores: list[np.ndarray], k: int, method: str, least: list[int], most: list[int]) -> list[int]:
    """All units of all weights in one line, the lowest first; those that must fall first, none that may not."""
    line, counts = [], list(least)
    for number, some in enumerate(scores):
        norms = norms_of(some, method)
        order = np.lexsort((np.arange(len(some)), some, norms))
        line += [
            (norms[place], number, rank) for rank, place in enumerate(order) if least[number] <= rank < most[number]
        ]
    for _, number, _ in sorted(line)[: k - sum(least)]:
        counts[number] += 1
    return counts


def check_global(weights, method, sparsity=0.5, metric="l1", floor=0.0, ceiling=1.0) -> None:
    scores = [oracles.element_scores(weight, metric) for weight in weights]
    k = int(np.float32(sparsity) * np.float32(sum(len(some) for some in scores)))
    least, most = [int(floor * len(some)) for some in scores], [min(int(ceiling * n), n - 1) for n in map(len, scores)]
    least = np.minimum(least, most).tolist()
    k = min(k, sum(len(some) - 1 for some in scores))
    expected = counts_of_all(scores, k, method, least, most)
    assert sum(expected) == k
    config = ox.PruningConfig(sparsity, metric)
    assert allocated(weights, config, method, floor=floor, ceiling=ceiling) == expected


@global_methods
@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.999])
def test_global_is_the_lowest_of_all(method, kind, sparsity):
    check_global(made(kind), method, sparsity)


@global_methods
def test_threads_share_the_weights(threads, method):
    check_global(made("normal"), method)


@global_methods
@dtypes
@pytest.mark.parametrize("metric", ["l1", "l2", "random:7"])
def test_global_of_dtypes_and_metrics(method, dtype, metric):
    check_global(made("alike", dtype), method, 0.6, metric)


@global_methods
@pytest.mark.parametrize("kind", ["normal", "all equal", "nearly all zero"])
@pytest.mark.parametrize(("floor", "ceiling"), [(0.25, 0.75), (0.5, 1.0), (0.0, 0.625), (0.375, 0.5)])
def test_global_with_floors_and_ceilings(method, kind, floor, ceiling):
    check_global(made(kind), method, 0.5 if ceiling > 0.5 else 0.4, floor=floor, ceiling=ceiling)


@global_methods
def test_weights_of_several_dtypes(method):
    check_global([weight.astype(dtype) for weight, dtype in zip(made("alike"), DTYPES * 2, strict=False)], method)


@global_methods
@pytest.mark.parametrize("kind", ["normal", "few distinct", "rows of their scale"])
def test_a_sample_that_misleads_is_not_believed(monkeypatch, method, kind):
    monkeypatch.setattr(Samples, "margin", lambda self, k: 0.001)
    for sparsity in (0.01, 0.3, 0.99):
        check_global(made(kind), method, sparsity)


@pytest.mark.parametrize("granularity", ["row", "axis:0"])
@global_methods
def test_global_of_units(method, granularity):
    weights = [rng(n).standard_normal((rows, 48)).astype(np.float32) * (n + 1) for n, rows in enumerate((10, 300, 77))]
    units = [oracles.axis_units(weight.shape, 0) for weight in weights]
    scores = [oracles.unit_scores(weight, of, "l2") for weight, of in zip(weights, units, strict=True)]
    expected = counts_of_all(scores, 193, method, [0, 0, 0], [9, 299, 76])
    assert allocated(weights, ox.PruningConfig(0.5, "l2", granularity), method) == expected


def test_infinite_scores_compete_raw_and_are_refused_otherwise():
    weights = made("alike")
    weights[1].reshape(-1)[:2000] = np.inf
    check_global(weights, "global", 0.97)
    for method in ("global:rms", "global:lamp"):
        with pytest.raises(ox.InvalidOption, match="tensor 'weight 1' has an infinite score"):
            allocated(weights, ox.PruningConfig(0.5), method)


@global_methods
@pytest.mark.parametrize("sparsity", [0.0, 0.5])
def test_nan_anywhere(method, sparsity):
    weights = made("alike")
    weights[3][5, 5] = weights[4][0] = np.nan
    with pytest.raises(ox.NonFiniteWeight, match="'d' holds 1 NaN"):
        allocated(weights, ox.PruningConfig(sparsity), method, names=list("abcdef"))


@methods
def test_min_nonzero_holds_for_each_weight(method):
    weights = [weight for weight in made("normal") if weight.size > 1]
    counts = allocated(weights, ox.PruningConfig(0.9, min_nonzero=50), method)
    assert all(weight.size - count >= 50 for weight, count in zip(weights, counts, strict=True))


# Erdos-Renyi-Kernel


def erk_counts(dims: list[tuple[int, ...]], wanted: int) -> list[int]:
    """As the paper's code does it: layers that would be more than dense are dense, and the scale is found again."""
    sizes, dense = [math.prod(lengths) for lengths in dims], set()
    while True:
        sums = [Fraction(sum(lengths)) for number, lengths in enumerate(dims) if number not in dense]
        scale = (sum(sizes) - wanted - sum(sizes[number] for number in dense)) / sum(sums)
        over = {n for n, lengths in enumerate(dims) if n not in dense and scale * sum(lengths) > sizes[n]}
        if not over:
            break
        dense |= over
    ideal = [Fraction(0) if n in dense else sizes[n] - scale * sum(lengths) for n, lengths in enumerate(dims)]
    counts = [math.floor(count) for count in ideal]
    for number in sorted(range(len(dims)), key=lambda n: counts[n] - ideal[n])[: wanted - sum(counts)]:
        counts[number] += 1
    return counts


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.9, 0.95])
def test_erk(sparsity):
    dims = [(64, 3, 3, 3), (128, 64, 3, 3), (256, 128, 1, 1), (1000, 256), (512,)]
    weights = [np.ones(lengths, np.float32) for lengths in dims]
    wanted = int(np.float32(sparsity) * np.float32(sum(weight.size for weight in weights)))
    counts = allocated(weights, ox.PruningConfig(sparsity), "erk")
    assert counts == erk_counts(dims, wanted)
    assert sum(counts) == wanted


def test_erk_by_dims_that_are_not_the_shape():
    weights, dims = [np.ones((32, 18), np.float32), np.ones((2, 500), np.float32)], [(2, 32, 3, 3), (20, 50)]
    counts = allocated(weights, ox.PruningConfig(0.75), "erk", dims=dims)
    assert counts == erk_counts(dims, 1182)
    assert counts != allocated(weights, ox.PruningConfig(0.75), "erk")


def test_erk_under_floors_and_ceilings():
    weights = [np.ones((10, 10), np.float32), np.ones((100, 100), np.float32), np.ones((50, 50), np.float32)]
    counts = allocated(weights, ox.PruningConfig(0.8), "erk", floor=[0.5, 0, 0], ceiling=[1, 0.75, 1])
    assert allocated(weights, ox.PruningConfig(0.8), "erk") == [0, 8387, 1693]
    assert counts == [97, 7500, 2483]  # 2500 of 2520 kept by the ceiling; 20 in parts 20 : 100


# Every allocation


def test_uniform_is_each_for_itself():
    weights = made("normal")
    counts = allocated(weights, ox.PruningConfig(0.3), "uniform")
    assert counts == [min(int(np.float32(0.3) * np.float32(weight.size)), weight.size - 1) for weight in weights]
    assert allocated(weights, ox.PruningConfig(0.3), "uniform", floor=0.5) == [w.size // 2 for w in weights]
    assert allocated(weights, ox.PruningConfig(0.3), "uniform", ceiling=0.125) == [w.size // 8 for w in weights]


@methods
@pytest.mark.parametrize("inplace", [False, True])
def test_a_model_loses_what_was_allocated(method, inplace):
    weights = {f"w{n}": weight for n, weight in enumerate(made("normal"))}
    config = ox.PruningConfig(0.5)
    counts = allocated(list(weights.values()), config, method, floor=0.125)
    expected = {
        name: ox.prune_tensor(weight, config, count=count)
        for (name, weight), count in zip(weights.items(), counts, strict=True)
    }
    results = ox.prune_model(weights, config, inplace=inplace, allocation=method, floor=0.125)
    for name, (pruned, mask) in results.items():
        assert (pruned is weights[name]) == inplace
        assert pruned.tobytes() == expected[name][0].tobytes()
        assert np.array_equal(mask, expected[name][1])


def test_of_equal_scores_those_of_the_first_weight_fall():
    weights = [np.ones((2, 3), np.float32), np.ones(4, np.float32), np.ones(3, np.float32)]
    pruned = ox.prune_model(weights, ox.PruningConfig(0.5), allocation="global")
    assert [mask.reshape(-1).tolist() for _, mask in pruned] == [
        [False] * 5 + [True],
        [False, True, True, True],
        [True, True, True],
    ]


@pytest.mark.parametrize("text", ["uniform", "erk", "global", "global:rms", "global:lamp"])
def test_texts(text):
    allocation = ox.parse_allocation(text)
    assert allocation.text == text
    assert ox.parse_allocation(allocation) is allocation


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "unknown allocation '': use one of uniform, erk, global, global:rms, global:lamp"),
        ("Global", "unknown allocation 'Global'"),
        ("global:l2", "unknown allocation 'global:l2': use global, global:rms or global:lamp"),
        ("global:", "unknown allocation 'global:'"),
        ("erk:1", "allocation 'erk' takes no argument, got '1'"),
        (None, "allocation must be text or an Allocation, not NoneType"),
    ],
)
def test_wrong_texts(text, says):
    with pytest.raises(ox.InvalidOption) as caught:
        ox.parse_allocation(text)
    assert says in str(caught.value)


TWO = [np.ones((4, 6), np.float32), np.ones((2, 3), np.float32)]


@pytest.mark.parametrize(
    ("config", "options", "error", "says"),
    [
        (ox.PruningConfig(granularity="2:4"), {}, ox.InvalidOption, "granularity 2:4 says itself how many fall of"),
        (
            ox.PruningConfig(0.5, "l1", "row"),
            {},
            ox.InvalidOption,
            "units of tensor 'a' have 6 elements, those of 'b' 3",
        ),
        (ox.PruningConfig(0.5), {"floor": 0.75}, ox.InvalidOption, "is 15 of 30 units, but .* allow 22 to 28: ask for"),
        (ox.PruningConfig(0.5), {"ceiling": [0.25, 1]}, ox.InvalidOption, "is 15 of 30 units, but .* allow 0 to 11"),
        (
            ox.PruningConfig(0.5),
            {"floor": 0.5, "ceiling": 0.25},
            ox.InvalidOption,
            "floor 0.5 and ceiling 0.25 of .*'a'",
        ),
        (ox.PruningConfig(0.5), {"ceiling": 1.5}, ox.InvalidOption, "ceiling 1.5 of tensor 'a'"),
        (ox.PruningConfig(0.5), {"floor": math.nan}, ox.InvalidOption, "floor nan"),
        (ox.PruningConfig(0.5), {"floor": "0.5"}, ox.InvalidOption, "floor '0.5': one for each of the 2 weights"),
        (ox.PruningConfig(0.5), {"floor": [0.5]}, ox.InvalidOption, "one for each of the 2 weights is wanted"),
        (ox.PruningConfig(0.5), {"floor": ["x", 0]}, ox.InvalidOption, "floor 'x' and ceiling 1.0 of tensor 'a'"),
        (ox.PruningConfig(0.5), {"dims": [(4, 6), (7,)]}, ox.ShapeMismatch, r"dims \(7,\) of tensor 'b' do not fit"),
        (ox.PruningConfig(0.5), {"dims": [(4, 6), (-2, -3)]}, ox.ShapeMismatch, r"dims \(-2, -3\) of tensor 'b'"),
        (ox.PruningConfig(0.5), {"dims": [24, 6]}, ox.ShapeMismatch, "dims 24 of tensor 'a'"),
        (ox.PruningConfig(1.5), {}, ox.InvalidSparsity, "1.5"),
        (ox.PruningConfig(0.5, min_nonzero=7), {}, ox.BelowMinNonzero, "min_nonzero=7 with 6"),
    ],
)
def test_what_is_refused(config, options, error, says):
    with pytest.raises(error, match=says):
        allocated(TWO, config, "global", **({"names": ["a", "b"]} | options))


def test_what_is_no_weight():
    with pytest.raises(ox.InvalidOption, match="at least one weight"):
        ox.allocate([], ox.PruningConfig(0.5))
    with pytest.raises(ox.UnsupportedArray, match=r"'weight 1'.*BlockSource is wanted"):
        ox.allocate([ox.ArrayBlocks(TWO[0]), TWO[1]], ox.PruningConfig(0.5))
    with pytest.raises(ox.UnsupportedDtype, match="int32"):
        ox.allocate([ox.ArrayBlocks(np.ones(3, np.int32))], ox.PruningConfig(0.5))
