"""N:M on every backend, against the slow oracle: all dtypes, metrics, axes, group lengths and kinds of data."""

from __future__ import annotations

import sys

import ml_dtypes
import numpy as np
import pytest

import oxiprune_gpu as ox
from oxiprune_gpu.blocks import BlockSource
from oxiprune_gpu.metrics import parse_metric
from tests import oracles

BLOCK = 1 << 10
DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16, np.float64]
METRICS = ["l1", "l2", "taylor", "random:12345", "gradient"]
GROUPS = [(1, 2), (2, 4), (1, 4), (3, 4), (2, 5), (4, 8), (5, 16), (1, 32), (31, 32)]
SHAPES = [
    ((8,), 0),
    ((1, 1), 1),
    ((3, 31), -1),  # shorter than a group of 32
    ((7, 64), -1),
    ((7, 67), -1),  # a remainder in every row
    ((64, 9), 0),
    ((67, 9), 0),
    ((5, 33, 3), 1),
    ((4, 64, 3, 3), 1),
    ((2, 3 * BLOCK), -1),
    ((2, 3 * BLOCK + 1), -1),  # rows longer than a block, with a remainder
    ((66, BLOCK - 7), 0),  # members of a group so far apart that they are loaded one by one
    ((2, 70, BLOCK // 8), 1),  # slabs in a row that is longer than a block
]

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
metrics = pytest.mark.parametrize("metric", METRICS)
groups = pytest.mark.parametrize(("keep", "of"), GROUPS)
shapes = pytest.mark.parametrize(("shape", "axis"), SHAPES)


@pytest.fixture(autouse=True)
def smaller_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks so small that arrays of a few thousand elements take every way through the numpy backend."""
    for name, module in list(sys.modules.items()):
        if name.startswith("oxiprune_gpu.backends.") and "BLOCK" in vars(module):
            monkeypatch.setattr(module, "BLOCK", BLOCK)


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


DATA = {
    "normal": lambda shape: rng(1).standard_normal(shape),
    "all equal": lambda shape: np.full(shape, -0.25),
    "few distinct": lambda shape: rng(2).integers(-2, 3, shape),
    "signed zeros": lambda shape: np.copysign(0.0, rng(3).standard_normal(shape)),
    "denormal": lambda shape: rng(4).integers(-3, 4, shape) * 2.0**-149,
    "infinities": lambda shape: rng(5).choice([np.inf, -np.inf, 1.0, 0.0], shape),
}


def made(kind: str, shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.asarray(DATA[kind](shape)).astype(dtype)


def scored(weight: np.ndarray, metric: str) -> tuple[ox.ImportanceMetric, np.ndarray]:
    """The metric called `metric`, and the scores it gives."""
    if metric == "gradient":
        gradient = rng(9).standard_normal(weight.shape).astype(np.float32)
        return ox.Taylor(gradient), oracles.element_scores(weight, "taylor", gradient).reshape(weight.shape)
    return parse_metric(metric), oracles.element_scores(weight, metric).reshape(weight.shape)


def check_groups(backend, weight: np.ndarray, granularity: ox.NM, metric: str = "l1") -> None:
    """Mask and data are the oracle's, by bits; with write=False the data stay; without a mask they are the same."""
    chosen, scores = scored(weight, metric)
    view = granularity.group_view(weight.shape)
    fallen = oracles.fallen_of_groups(scores, granularity.keep, granularity.of, granularity.axis, granularity.pad)
    assert view.pruned == fallen.sum()
    mask, work = np.zeros(weight.shape, bool), weight.copy()
    backend.prune_groups(backend.adopt(work), view, chosen, "w", mask=mask, write=False)
    assert work.tobytes() == weight.tobytes()
    assert np.array_equal(mask, ~fallen)
    backend.prune_groups(backend.adopt(work), view, chosen, "w")
    assert work.tobytes() == oracles.zeroed(weight, fallen).tobytes()
    work, mask = weight.copy(), np.zeros(weight.shape, bool)
    backend.prune_groups(backend.adopt(work), view, chosen, "w", mask=mask)
    assert work.tobytes() == oracles.zeroed(weight, fallen).tobytes()
    assert np.array_equal(mask, ~fallen)


@groups
@shapes
def test_shapes(backend, threads, shape, axis, keep, of):
    check_groups(backend, made("normal", shape), ox.NM(keep, of, axis))


@shapes
@pytest.mark.parametrize(("keep", "of"), [(1, 2), (2, 4), (1, 4), (2, 5), (5, 16), (31, 32)])
def test_lines_that_are_padded(backend, threads, shape, axis, keep, of):
    check_groups(backend, made("few distinct", shape), ox.NM(keep, of, axis, pad=True))


@dtypes
@pytest.mark.parametrize("kind", DATA)
def test_padding_of_any_data(backend, kind, dtype):
    for shape, axis in [((9, 67), 1), ((67, 9), 0), ((67, 16), 0)]:
        check_groups(backend, made(kind, shape, dtype), ox.NM(2, 4, axis, pad=True))


def test_padding_falls_before_zeros():
    mask = ox.compute_mask(np.zeros((2, 7), np.float32), ox.PruningConfig(granularity="2:4+pad"))
    assert mask.tolist() == [[False, False, True, True, False, True, True]] * 2


@dtypes
@metrics
@pytest.mark.parametrize(("shape", "axis"), [((7, 67), 1), ((67, 7), 0), ((33, BLOCK), 0)])
def test_dtypes_and_metrics(backend, shape, axis, metric, dtype):
    check_groups(backend, made("normal", shape, dtype), ox.NM(2, 4, axis), metric)


@dtypes
@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("metric", ["l1", "l2"])
@pytest.mark.parametrize(("keep", "of"), [(2, 4), (3, 7), (8, 32)])
def test_any_data(backend, kind, keep, of, metric, dtype):
    for shape, axis in [((9, 66), 1), ((66, 9), 0)]:
        check_groups(backend, made(kind, shape, dtype), ox.NM(keep, of, axis), metric)


@pytest.mark.parametrize("of", [2, 3, 4, 5, 6, 7, 8, 11, 16, 24, 31, 32])
def test_every_count(backend, of):
    for keep in range(1, of):
        check_groups(backend, made("few distinct", (3, 2 * of + 1)), ox.NM(keep, of))


def test_of_equal_scores_the_first_fall(backend):
    for axis, expected in [(1, [False, False, True, True]), (0, [False, True])]:
        weight = np.full((4, 4), -1.0, np.float32)
        mask = ox.compute_mask(weight, ox.PruningConfig(granularity=ox.NM(len(expected) // 2, len(expected), axis)))
        line = np.tile(expected, 4 // len(expected))
        assert np.array_equal(mask, np.broadcast_to(line if axis else line[:, None], (4, 4)))


@dtypes
@shapes
def test_nan_is_refused_before_anything_is_written(backend, threads, shape, axis, dtype):
    weight = made("normal", shape, dtype)
    granularity = ox.NM(2, 4, axis)
    for place in {0, weight.size // 2, weight.size - 1}:
        work = weight.copy()
        work.reshape(-1)[place] = np.nan
        before, mask = work.tobytes(), np.zeros(shape, bool)
        view = granularity.group_view(shape)
        for metric in ("l1", "random:1"):
            with pytest.raises(ox.NonFiniteWeight) as caught:
                backend.prune_groups(backend.adopt(work), view, parse_metric(metric), "w", mask=mask)
            assert caught.value.count == 1
        assert work.tobytes() == before
        assert not mask.any()


def test_nan_in_a_gradient_and_in_a_score(backend):
    weight, gradient = np.ones(8, np.float32), np.ones(8, np.float32)
    gradient[5] = np.nan
    view = ox.NM(2, 4).group_view((8,))
    with pytest.raises(ox.NonFiniteWeight, match="gradient"):
        backend.prune_groups(backend.adopt(weight), view, ox.Taylor(gradient), "w")
    weight[5], gradient[5] = np.inf, 0
    with pytest.raises(ox.NonFiniteScore):
        backend.prune_groups(backend.adopt(weight), view, ox.Taylor(gradient), "w")
    assert np.isinf(weight[5])


@pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0), (4, 0, 4)])
def test_nothing_of_nothing(backend, shape):
    for axis in range(len(shape)):
        weight, mask = np.zeros(shape, np.float32), np.zeros(shape, bool)
        backend.prune_groups(
            backend.adopt(weight), ox.NM(2, 4, axis).group_view(shape), ox.L1Magnitude(), "w", mask=mask
        )


class FileLike(BlockSource):
    """A weight that can only be read and written by copies."""

    def __init__(self, data: np.ndarray) -> None:
        self.data = data.copy()
        self.stores = 0
        self.longest = 0

    @property
    def shape(self):
        return self.data.shape

    @property
    def dtype(self):
        return self.data.dtype

    def load(self, start, stop, scratch):
        assert 0 <= start < stop <= self.data.size
        self.longest = max(self.longest, stop - start)
        scratch[: stop - start] = self.data.reshape(-1)[start:stop]
        return scratch[: stop - start]

    def store(self, start, block):
        self.stores += 1
        self.data.reshape(-1)[start : start + len(block)] = block


@dtypes
@shapes
@pytest.mark.parametrize("metric", ["l1", "random:3"])
def test_blocks(threads, shape, axis, metric, dtype):
    weight = made("normal", shape, dtype)
    source, granularity = FileLike(weight), ox.NM(2, 4, axis)
    counts = ox.prune_blocks(source, ox.PruningConfig(None, metric, granularity))
    fallen = oracles.fallen_of_groups(oracles.element_scores(weight, metric).reshape(shape), 2, 4, axis)
    expected = oracles.zeroed(weight, fallen)
    assert source.data.tobytes() == expected.tobytes()
    assert counts == ox.PruneCounts(
        weight.size, int(fallen.sum()), np.count_nonzero(weight), np.count_nonzero(expected)
    )
    assert source.longest <= BLOCK


def test_nothing_is_stored_when_blocks_are_refused():
    source = FileLike(np.append(np.ones(5 * BLOCK, np.float32), np.nan))
    with pytest.raises(ox.NonFiniteWeight):
        ox.prune_blocks(source, ox.PruningConfig(granularity="2:4"))
    assert source.stores == 0


# The array API


@pytest.mark.parametrize(
    ("text", "granularity"),
    [
        ("2:4", ox.NM(2, 4)),
        ("1:4", ox.NM(1, 4, -1)),
        ("4:8@0", ox.NM(4, 8, 0)),
        ("2:4@-2", ox.NM(2, 4, -2)),
        ("2:4+pad", ox.NM(2, 4, pad=True)),
        ("1:4@0+pad", ox.NM(1, 4, 0, True)),
        ("block:16x8", ox.Block(16, 8)),
    ],
)
def test_texts(text, granularity):
    config = ox.PruningConfig(0.5 if isinstance(granularity, ox.Block) else None, "l1", text)
    assert config.granularity == granularity
    assert granularity.text == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("4:4", "granularity 4:4 must be N:M with 0 < N < M <= 32"),
        ("0:4", "granularity 0:4 must be"),
        ("5:4", "granularity 5:4 must be"),
        ("16:64", "granularity 16:64 must be"),
        ("2:", "granularity N:M needs numbers, as in 2:4, or 2:4@0 along axis 0; got '2:'"),
        ("2", "got '2'"),
        ("2:4@", "got '2:4@'"),
        ("2:4@x", "got '2:4@x'"),
        ("2:4:1", "got '2:4:1'"),
        ("2:4+", "got '2:4+'"),
        ("2:4+pad@0", "got '2:4+pad@0'"),
        ("2:4 ", "got '2:4 '"),
        ("²:4", "got '²:4'"),
        (
            ":4",
            "unknown granularity ':4': use one of unstructured, row, column, axis:N, block:HxW, kernel, or N:M as in",
        ),
        ("N:M", "unknown granularity 'N:M'"),
        ("block", "granularity block needs two numbers, as in block:16x16; got ''"),
        ("block:16", "got '16'"),
        ("block:16x", "got '16x'"),
        ("block:2x2x2", "got '2x2x2'"),
        ("block:0x4", "granularity block needs whole numbers from 1 on, not 0"),
    ],
)
def test_wrong_texts(text, says):
    with pytest.raises(ox.InvalidOption) as caught:
        ox.PruningConfig(0.5, "l1", text)
    assert says in str(caught.value)


@pytest.mark.parametrize("pad", [1, None, "yes"])
def test_padding_is_yes_or_no(pad):
    with pytest.raises(ox.InvalidOption, match="must be True or False"):
        ox.NM(2, 4, pad=pad)


@pytest.mark.parametrize("make", [lambda: ox.NM(2.0, 4), lambda: ox.NM(True, 4), lambda: ox.Block(2, "2")])
def test_wrong_numbers(make):
    with pytest.raises(ox.InvalidOption, match="needs whole numbers"):
        make()


def test_the_granularity_says_the_sparsity():
    assert ox.PruningConfig(granularity="2:4") == ox.PruningConfig(0.5, "l1", "2:4")
    assert ox.PruningConfig(granularity="1:4").sparsity == 0.75
    assert ox.PruningConfig(np.float32(2 / 3), granularity="1:3") == ox.PruningConfig(granularity="1:3")
    ox.PruningConfig(granularity="2:4").check()


@pytest.mark.parametrize("sparsity", [0.0, 0.25, 0.500001, 1.5, -np.inf, np.nan, 1e300])
def test_another_sparsity_is_refused(sparsity):
    with pytest.raises(ox.InvalidSparsity, match=r"is not that of granularity 2:4, 0.5: leave it out"):
        ox.PruningConfig(sparsity, "l1", "2:4")


@pytest.mark.parametrize("granularity", ["unstructured", "row", "axis:0", "block:2x2"])
def test_other_granularities_need_a_sparsity(granularity):
    with pytest.raises(
        ox.InvalidSparsity, match=r"sparsity None must be in .* only N:M, as in 2:4, has one of its own"
    ):
        ox.PruningConfig(granularity=granularity)


def test_min_nonzero_that_cannot_be_kept():
    weight = made("normal", (4, 10))
    for enough in (0, 1, 24):
        config = ox.PruningConfig(None, "l1", "2:4", enough)
        assert ox.compute_mask(weight, config).sum() == 24
    with pytest.raises(ox.BelowMinNonzero) as caught:
        ox.prune_tensor_inplace(weight, ox.PruningConfig(None, "l1", "2:4", 25))
    assert str(caught.value) == "cannot prune below min_nonzero=25 with 40 total elements: 2:4 keeps 24"


@pytest.mark.parametrize(("shape", "axis"), [((), -1), ((4,), 1), ((4, 4), -3)])
def test_an_axis_that_does_not_exist(shape, axis):
    with pytest.raises(ox.ShapeMismatch, match=f"axis {axis} of granularity 2:4") as caught:
        ox.prune_tensor(np.ones(shape, np.float32), ox.PruningConfig(granularity=ox.NM(2, 4, axis)))
    assert caught.value.__notes__ == ["tensor 'array'"]


def test_every_verb():
    weight = made("normal", (6, 12))
    config = ox.PruningConfig(granularity="2:4@0")
    fallen = oracles.fallen_of_groups(np.abs(weight), 2, 4, 0)
    pruned, mask = ox.prune_tensor(weight, config)
    assert np.array_equal(mask, ~fallen)
    assert pruned.tobytes() == oracles.zeroed(weight, fallen).tobytes()
    assert np.array_equal(ox.compute_mask(weight, config), mask)
    transposed = weight.T
    assert np.array_equal(ox.prune_tensor_inplace(transposed, ox.PruningConfig(granularity="2:4")), mask.T)
    assert weight.tobytes() == pruned.tobytes()


# Blocks of a matrix


@pytest.mark.parametrize("metric", ["l1", "l2", "random:5"])
@pytest.mark.parametrize(
    ("shape", "sides"),
    [
        ((8, 12), (2, 3)),
        ((8, 12), (8, 1)),
        ((6, 6), (1, 1)),
        ((32, 64), (16, 16)),
        ((8, 6, 3, 3), (4, 2)),
        ((4, 4, 5), (1, 4)),
    ],
)
def test_blocks_of_the_first_two_axes(verbs_backend, shape, sides, metric):
    check_units(made("normal", shape), oracles.block_units(shape, *sides), metric, ox.Block(*sides))


@pytest.mark.parametrize("metric", ["l1", "l2", "random:5"])
@pytest.mark.parametrize("shape", [(6, 5, 3, 3), (2, 3, 4), (1, 8, 1, 1), (2, 2, 2, 2, 2)])
def test_kernels(verbs_backend, shape, metric):
    numbers = np.arange(np.prod(shape)).reshape(shape)
    units = [numbers[o, i].reshape(-1) for o, i in np.ndindex(shape[:2])]
    check_units(made("normal", shape), units, metric, "kernel")


@pytest.mark.parametrize("shape", [(), (4,), (4, 4)])
def test_weights_without_kernels(shape):
    with pytest.raises(ox.ShapeMismatch, match=r"has no kernels.*: use granularity unstructured"):
        ox.prune_tensor(np.ones(shape, np.float32), ox.PruningConfig(0.5, "l1", ox.Kernel()))


def check_units(weight, units, metric, granularity) -> None:
    """Half of the units fall, those that the oracle says."""
    fallen = oracles.fallen_units(weight.size, units, oracles.unit_scores(weight, units, metric), len(units) // 2)
    pruned, mask = ox.prune_tensor(weight, ox.PruningConfig(0.5, metric, granularity))
    assert np.array_equal(~mask.reshape(-1), fallen)
    assert pruned.tobytes() == oracles.zeroed(weight, fallen).tobytes()


def test_blocks_that_do_not_fit():
    with pytest.raises(ox.ShapeMismatch) as caught:
        ox.prune_tensor(ox.WeightTensor("fc", made("normal", (100, 64))), ox.PruningConfig(0.5, "l1", "block:16x16"))
    assert str(caught.value) == "shape [100, 64] can't be cut into blocks of 16x16: the largest that fit are 10x16"
    assert caught.value.__notes__ == ["tensor 'fc'"]
    with pytest.raises(ox.NotTwoDimensional):
        ox.prune_tensor(made("normal", (8,)), ox.PruningConfig(0.5, "l1", "block:2x2"))
