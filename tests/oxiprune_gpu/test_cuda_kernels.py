"""The kernels of the selection and of plain passes, run on the CPU, where no verb leads them: odd tables, brackets that
miss, tiles that other blocks are still working on, places past 2**32. Not reached here: tile numbers past 2**32.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Sequence

import ml_dtypes
import numpy as np
import pytest

from oxiprune_gpu.backends.cuda_tables import DTYPE_STRUCTS
from tests import cuda_on_cpu, oracles
from tests.kernel_tables import (
    BITS,
    BOOLS,
    CANDIDATES,
    FOUND,
    LINES,
    NO_MASK,
    NONE,
    OWN,
    PREFIX,
    THREADS,
    UNITS,
    WHOLE,
    Table,
    bits_of,
    kernels,
    key_of,
    placed,
    row_of,
    tile_length,
    untouched,
)

pytestmark = pytest.mark.skipif(bool(cuda_on_cpu.available()), reason=cuda_on_cpu.available() or "it can run")

SMALL = os.environ.get("OXIPRUNE_SHIM_SMALL") == "1"
"""Set for sanitizers, which take many times as long."""

SEEDS = [1] if SMALL else [1, 2, 3]
MORE_SEEDS = [1] if SMALL else range(1, 9)
DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16, np.float64]
METRICS = {"L1": "l1", "L2": "l2", "Gradient": "taylor", "Random": "random:77"}
"""Functor -> the oracle's name of the metric."""

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
metrics = pytest.mark.parametrize("metric", METRICS)


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def normal(size: int, dtype: type = np.float32) -> np.ndarray:
    return rng(size).standard_normal(size).astype(dtype)


def few(size: int, dtype: type = np.float32, most: int = 3) -> np.ndarray:
    """Small whole numbers of both signs: many ties."""
    return rng(size, 2).integers(-most, most + 1, size).astype(dtype)


def scores_of(weight: np.ndarray, metric: str = "L1", gradient: np.ndarray | None = None) -> np.ndarray:
    return oracles.element_scores(weight, METRICS[metric], gradient)


def threshold_of(scores: np.ndarray, k: int) -> tuple[int, int, int]:
    """Key of the k-th lowest score, how many equal to it fall, and how many there are."""
    score = np.sort(scores)[k - 1]
    below, ties = np.count_nonzero(scores < score), np.count_nonzero(scores == score)
    return key_of(score, scores.dtype), k - below, ties


def check_found(table: Table, scores: Sequence[np.ndarray]) -> None:
    """The thresholds and ties of all scopes that lose something are the oracle's."""
    for row, own in zip(table.scopes, scores, strict=True):
        if k := int(row["k"]):
            assert (row["threshold"], row["ties_fall"], row["ties"]) == threshold_of(own, k)
            assert row["mode"] == FOUND


# Look-back


def words_before(owns: np.ndarray, knowing: Sequence[int]) -> np.ndarray:
    """What tiles with so many ties have published when only those in `knowing` know their prefix."""
    words = OWN | owns
    words[knowing] = PREFIX | np.cumsum(owns)[knowing]
    return words


@pytest.mark.parametrize("last", [1, 2, 31, 32, 33, 34, 63, 64, 65, 66, 97, 130])
@pytest.mark.parametrize("share", [0.0, 0.03, 0.3, 1.0])
def test_look_back(last, share):
    """The last tile of a scope, after tiles that know more or less; the scope before it says what must not be read."""
    length, alien = tile_length(np.float64), 2
    for seed in SEEDS:
        random = rng(last, seed)
        owns = random.integers(1, 5, last).astype(np.uint64)
        before = int(owns.sum())
        tile = random.integers(1, 4, length).astype(np.float64)
        own = int((tile == 2).sum())
        for ties_fall in (1, before, before + own // 2, before + own - 1):
            weight = np.zeros((last + 1) * length)
            weight[-length:] = tile
            table = Table([np.zeros(alien * length), weight], [1, 1], [0, 1], seed=seed)
            knowing = [0, *np.flatnonzero(random.random(last) < share)]
            table.published[:alien] = PREFIX | 999
            table.published[alien:-1] = words_before(owns, knowing)
            table.ticket[0] = table.tiles - 1
            table.scopes[1]["threshold"] = key_of(2, np.float64)
            table.scopes[1]["ties"], table.scopes[1]["ties_fall"] = before + own, ties_fall
            table.apply()
            number = before + np.cumsum(tile == 2)
            expected = oracles.zeroed(tile, (tile < 2) | (tile == 2) & (number <= ties_fall))
            assert weight[-length:].tobytes() == expected.tobytes()
            assert table.published[-1] == PREFIX | before + own


@pytest.mark.parametrize("blocks", [1, 4, 16])
def test_ties_in_order_across_many_tiles(blocks):
    """Tiles that are worked on at the same time; the second scope begins in the middle of the table."""
    tiles = 6 if SMALL else 37
    for seed in MORE_SEEDS:
        weights = [np.full(tiles * tile_length(np.float64) + extra, -2.0) for extra in (-3, 0, 1)]
        sizes = [weight.size for weight in weights]
        table = Table(weights, [sizes[0] // 2, sizes[1] + 77], [0, 1, 1], blocks=blocks, seed=seed)
        table.find()
        table.apply()
        for weight, fallen in zip(weights, (sizes[0] // 2, sizes[1], 77), strict=True):
            assert np.count_nonzero(weight[:fallen]) == 0
            assert (weight[fallen:] == -2).all()
        assert table.nonzero.tolist() == [sizes[0] - sizes[0] // 2, 0, sizes[2] - 77]
        assert (np.diff(table.published[: tiles + 1].astype(np.int64) & (OWN - 1)) >= 0)[: tiles - 1].all()


@pytest.mark.parametrize("blocks", [1, 5])
def test_ties_published_before(blocks):
    """Every tile knows its own ties before the first is pruned, as where one scope has tensors of several dtypes."""
    for seed in SEEDS:
        weights = [few(size) for size in (9_000, 1, 21_000)]
        scores = np.concatenate([scores_of(weight) for weight in weights])
        k = int(np.count_nonzero(scores < 2)) + int(np.count_nonzero(scores == 2)) // 3
        fallen = np.split(oracles.lowest(scores, k), [9_000, 9_001])
        expected = [oracles.zeroed(weight, own) for weight, own in zip(weights, fallen, strict=True)]
        table = Table(weights, [k], blocks=blocks, seed=seed)
        table.find()
        table.publish_ties()
        counts = [np.count_nonzero(scores_of(part) == 2) for weight in weights for part in in_tiles(weight)]
        assert (table.published == [OWN | count for count in counts]).all()
        table.apply()
        assert [weight.tobytes() for weight in weights] == [weight.tobytes() for weight in expected]


def in_tiles(weight: np.ndarray) -> list[np.ndarray]:
    length = tile_length(weight.dtype)
    return [weight[first : first + length] for first in range(0, weight.size, length)]


# Brackets


def boundaries(*counts: int) -> list[int]:
    """The ranks at the ends of neighbouring runs of keys."""
    ends = list(itertools.accumulate(counts))
    return sorted({k for end in ends for k in (end - 1, end, end + 1)} & set(range(1, ends[-1] + 1)))


@pytest.mark.parametrize("room", ["all", "too little", "none"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ends", [(1, 5), (3, 3), (3, 4), (0, np.inf), (2.5, 3.5), (2.5, 2.6), (7, 9), (0, 0)])
def test_every_cut_around_a_bracket(ends, dtype, room):
    """Cuts in, between and at both ends of what equals an end; brackets that miss; more between than there is room."""
    low, high = ends
    weights = [few(size, dtype, 6) for size in (700, 2100)]
    scores = np.concatenate([scores_of(weight) for weight in weights])
    between = int(((scores > low) & (scores < high)).sum())
    capacity = {"all": between, "too little": max(0, between - 1), "none": 0}[room]
    runs = [scores < low, scores == low, (scores > low) & (scores < high), scores == high, scores > high]
    if low == high:
        del runs[3]
    for k in boundaries(*(int(run.sum()) for run in runs)):
        table = Table(weights, [k], seed=k)
        table.bracket(low, high, capacity)
        table.count_between()
        in_between = low < np.sort(scores)[k - 1] < high
        at_an_end = np.sort(scores)[k - 1] in ends
        if not at_an_end:
            assert table.scopes["mode"][0] == (CANDIDATES if in_between and capacity >= between else WHOLE)
        assert table.scopes["between"][0] == between
        assert table.candidates[-1] == 0x5A
        table.take_digits()
        check_found(table, [scores])


def test_candidates_of_neighbouring_scopes_stay_apart():
    """One overflows between two that do not."""
    weights = [normal(size) for size in (5_000, 9_000, 5_001)]
    for seed, blocks in itertools.product(SEEDS, [1, 4, 16]):
        table = Table(weights, [2_400, 4_500, 2_500], [0, 1, 2], seed=seed, blocks=blocks)
        table.bracket(0.5, 0.9, 2_000)
        table.count_between()
        assert table.scopes["mode"].tolist() == [CANDIDATES, WHOLE, CANDIDATES]
        assert table.scopes["between"][1] > 2_000
        table.take_digits()
        check_found(table, [scores_of(weight) for weight in weights])


@dtypes
@pytest.mark.parametrize("ranks", [(200, 300), (0, 513), (0, 1), (512, 513), (511, 512), (300, 200), (256, 256)])
def test_ranks_of_a_sample(ranks, dtype):
    """The ends are the keys of these ranks among those sampled; whatever they are, the threshold is right."""
    weights = [normal(size, dtype) for size in (3_001, 9_999)]
    for seed, counts in zip(MORE_SEEDS, itertools.cycle([(1_500, 5_000), (1, 9_999), (3_001, 1)])):
        table = Table(weights, counts, [0, 1], seed=seed)
        table.sample(512, *ranks, capacity=9_000)
        for scope, sample in enumerate(np.sort(table.samples.reshape(2, -1), axis=1)):
            assert np.isin(sample, bits_of(scores_of(weights[scope]))).all()
            assert len(np.unique(sample)) > 200
            row = table.scopes[scope]
            assert row["low"] == (sample[ranks[0] - 1] if ranks[0] else 0)
            assert row["high"] == (sample[ranks[1] - 1] if ranks[1] <= 512 else key_of(np.inf, dtype))
        table.find()
        check_found(table, [scores_of(weight) for weight in weights])


def test_samples_come_from_everywhere():
    """Also from tensors beside empty ones, and from the last, short tile."""
    weights = [np.full(size, number, np.float32) for number, size in enumerate((0, 4096, 0, 0, 8192, 5, 0))]
    table = Table(weights, [9])
    table.sample(256, 1, 256, 1)
    assert np.unique(table.samples).tolist() == [key_of(number) for number in (1, 4, 5)]


@dtypes
def test_every_digit_of_a_key(dtype):
    """Keys that differ in one bit, at every place: each pass looks at its own digit, below the same higher ones."""
    key = np.uint64 if dtype == np.float64 else np.dtype(f"u{np.dtype(dtype).itemsize}").type
    places = 8 * np.dtype(key).itemsize - 2
    base = key(0x2AAAAAAAAAAAAAAA & (1 << places) - 1)
    keys = np.array([base ^ key(1 << place) for place in range(places)] * 3 + [base] * 4, key)
    scores = scores_of(keys.view(dtype))
    assert not np.isnan(scores).any()
    for k in range(1, len(keys) + 1, 5 if SMALL else 1):
        table = Table([keys.view(dtype)], [k], seed=k, blocks=1)
        table.take_digits()
        check_found(table, [scores])


# Tables


def odd_weights(dtype: type, beside: int) -> list[np.ndarray]:
    length = tile_length(dtype)
    sizes = [0, 1, 0, 0, 7, length - 1, 0, length, length + 1, 3, 0, 33, 2 * length + 13, 0]
    return [placed(few(size, dtype, 2 + number % 5), beside) for number, size in enumerate(sizes)]


SCOPES = [0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 4, 4]


def odd_table(dtype: type, metric: str, beside: int, seed: int) -> tuple[Table, list[np.ndarray], list[np.ndarray]]:
    """A table of odd tensors, their masks, and which elements fall."""
    weights = odd_weights(dtype, beside)
    score_dtype = oracles.score_dtype(np.dtype(dtype))
    gradients = [placed(rng(9, weight.size).integers(-2, 3, weight.size).astype(score_dtype)) for weight in weights]
    used = gradients if metric == "Gradient" else [None] * len(weights)
    scores = [scores_of(weight, metric, gradient) for weight, gradient in zip(weights, used, strict=True)]
    ends = [*(SCOPES.index(scope) for scope in range(5)), len(SCOPES)]
    together = [np.concatenate(scores[first:last]) for first, last in itertools.pairwise(ends)]
    counts = [len(own) * share // 10 for own, share in zip(together, (10, 3, 6, 0, 8), strict=True)]
    fallen = np.concatenate([oracles.lowest(own, k) for own, k in zip(together, counts, strict=True)])
    fallen = np.split(fallen, np.cumsum([len(own) for own in scores])[:-1])
    masks = [np.full(weight.size + 17, 7, np.uint8)[beside:] for weight in weights]
    options = {"gradients": gradients, "seeds": [77] * len(weights), "masks": masks, "seed": seed}
    return Table(weights, counts, SCOPES, metric=metric, blocks=(1, 3, 16)[seed % 3], **options), masks, fallen


@dtypes
@metrics
def test_tables_of_odd_tensors(metric, dtype):
    """Empty tensors, empty scopes, sizes around a tile, elements and masks anywhere, under many orders of threads."""
    for seed, beside in zip(MORE_SEEDS, itertools.cycle([0, 1, 2, 3])):
        table, masks, fallen = odd_table(dtype, metric, beside, seed)
        weights = table.weights
        expected = [oracles.zeroed(weight, own) for weight, own in zip(weights, fallen, strict=True)]
        if seed % 2:
            table.bracket(1, 2, 10_000)
        table.find()
        table.apply(BOOLS)
        for weight, own, mask, wanted in zip(weights, fallen, masks, expected, strict=True):
            assert weight.tobytes() == wanted.tobytes()
            assert np.array_equal(mask[: weight.size], ~own)
            assert (mask[weight.size :] == 7).all()
        assert table.nonzero.tolist() == [np.count_nonzero(weight) for weight in expected]


@dtypes
@pytest.mark.parametrize("beside", [0, 1, 2, 3, 4])
def test_masks_of_bits(beside, dtype):
    """As numpy packs them, at any address; the byte after the last one stays, and the weight too."""
    length = tile_length(dtype)
    sizes = [*range(1, 18), 31, 32, 33, 63, 64, 65, length - 1, length, length + 1, 2 * length + 45]
    weights = [few(size, dtype) for size in sizes]
    before = [weight.tobytes() for weight in weights]
    masks = [placed(np.full(-(-size // 8) + 9, 0xA5, np.uint8), beside) for size in sizes]
    counts = [(size + 1) // 2 for size in sizes]
    table = Table(weights, counts, list(range(len(sizes))), masks=masks, seed=beside)
    table.find()
    table.apply(BITS, write=False)
    for weight, mask, k in zip(weights, masks, counts, strict=True):
        packed = np.packbits(~oracles.lowest(scores_of(weight), k), bitorder="little")
        assert mask[: len(packed)].tobytes() == packed.tobytes()
        assert (mask[len(packed) :] == 0xA5).all()
    assert [weight.tobytes() for weight in weights] == before


@pytest.mark.parametrize("mode", ["whole", "bracket"])
@pytest.mark.parametrize("kind", [NO_MASK, BOOLS, BITS])
@pytest.mark.parametrize("bad", [(2,), (3,), (0, 5), (5, 2), (5,), (1, 3)])
def test_nothing_is_written_from_the_scope_of_the_first_nan_on(bad, kind, mode):
    """Scopes before it are pruned."""
    length = tile_length(np.float32)
    for seed in SEEDS:
        weights = [normal(size) for size in (length + 9, 50, 2 * length, 60, 40, length)]
        scopes = [0, 0, 1, 1, 2, 2]
        for tensor in bad:
            weights[tensor][-1 - tensor] = -np.nan
        expected = [weight.copy() for weight in weights]
        masks = [np.full(weight.size, 7, np.uint8) for weight in weights]
        halves = [sum(weight.size for weight in weights[first : first + 2]) // 2 for first in (0, 2, 4)]
        table = Table(weights, halves, scopes, masks=masks, seed=seed, blocks=(1, 4, 16)[seed % 3])
        if mode == "bracket":
            table.bracket(0.6, 0.7, length)
        table.find()
        table.apply(kind)
        assert table.first_nan[0] == min(bad)
        for first in range(0, 2 * scopes[min(bad)], 2):
            fallen = oracles.lowest(np.abs(np.concatenate(expected[first : first + 2])), halves[first // 2])
            for number, own in zip((first, first + 1), np.split(fallen, [expected[first].size]), strict=True):
                expected[number] = oracles.zeroed(expected[number], own)
                assert kind == NO_MASK or (masks[number][: own.size // 8] != 7).any()
        assert [weight.tobytes() for weight in weights] == [weight.tobytes() for weight in expected]
        assert all((mask == 7).all() for mask in masks[2 * scopes[min(bad)] :])


@dtypes
@metrics
def test_nan_in_what_is_scored_is_reported(metric, dtype):
    """In a weight whatever its score, by the pass over a bracket and by the digits."""
    for place, find in itertools.product((0, 200, 299), ("count_between", "take_digits")):
        weights = [few(300, dtype), few(300, dtype)]
        weights[1][place] = np.nan
        gradients = [np.ones(300, oracles.score_dtype(np.dtype(dtype)))] * 2
        table = Table(weights, [100, 100], [0, 1], metric=metric, gradients=gradients, seeds=[1, 2])
        if find == "count_between":
            table.bracket(1, 2, 300)
        getattr(table, find)()
        assert table.first_nan[0] == 1


@pytest.mark.parametrize(("metric", "unit"), [("L1", 2.0**-149), ("L2", 2.0**-74), ("Gradient", 2.0**-100)])
def test_scores_that_are_denormal(metric, unit):
    """CuPy flushes what is written as float32 arithmetic, and comparisons of floats too."""
    weight, gradient = few(5_000, most=40) * np.float32(unit), np.full(5_000, 2.0**-49, np.float32)
    scores = scores_of(weight, metric, gradient if metric == "Gradient" else None)
    assert 0 < np.median(scores) < np.finfo(np.float32).tiny
    expected = oracles.zeroed(weight, oracles.lowest(scores, 2_400))
    table = Table([weight], [2_400], metric=metric, gradients=[gradient])
    table.find()
    check_found(table, [scores])
    table.apply()
    assert weight.tobytes() == expected.tobytes()


# Places past 2**32

FAR = 2**32
WINDOW = 4
"""Tiles that are worked on, the first of which ends at element FAR."""


class Far:
    """A float16 tensor of more than 2**32 elements, in which all but the end is zero and takes no memory."""

    def __init__(self) -> None:
        length = tile_length(np.float16)
        self.first = FAR - length
        self.end = few(WINDOW * length - 37, np.float16)
        self.size = self.first + self.end.size
        self.weight = untouched(self.size, np.float16)
        self.weight[self.first :] = self.end
        self.window = self.first // length

    def at_the_end(self, values: np.ndarray) -> np.ndarray:
        """As many values as the tensor has, these at its end."""
        room = untouched(self.size, values.dtype)
        room[self.first :] = values
        return room

    def check(self, expected: np.ndarray) -> None:
        assert self.weight[self.first :].tobytes() == expected.tobytes()
        assert not self.weight[: 4 * WINDOW * 8192].any()


def far_random_scores(seed: int, first: int, count: int) -> np.ndarray:
    """Scores `first` and after of a random stream, reached by squaring."""
    modulus, m, c, state, left = 2**64, 6364136223846793005, 1442695040888963407, seed, first
    while left:
        if left & 1:
            state = (state * m + c) % modulus
        m, c, left = m * m % modulus, c * (m + 1) % modulus, left >> 1
    return oracles.random_stream(state, count)


@pytest.mark.parametrize("mode", ["whole", "bracket", "sample"])
@pytest.mark.parametrize("kind", [BOOLS, BITS])
@metrics
def test_selection_past_32_bits(metric, kind, mode):
    """A table that begins where the last tiles of the tensor are."""
    far = Far()
    gradient = rng(5).integers(-2, 3, far.end.size).astype(np.float32)
    if metric == "Random":
        scores = far_random_scores(99, far.first, far.end.size)
    else:
        scores = scores_of(far.end, metric, gradient if metric == "Gradient" else None)
    k = scores.size // 2
    mask = untouched(far.size + 64, np.uint8)
    gradients = [far.at_the_end(gradient)] if metric == "Gradient" else []
    table = Table([far.weight], [k], metric=metric, masks=[mask], gradients=gradients, seeds=[99], window=far.window)
    table.scopes["size"] = far.end.size
    if mode == "bracket":
        table.bracket(0.4, 3.5, far.end.size)
    if mode == "sample":
        table.sample(256, 100, 156, far.end.size)
    table.find()
    check_found(table, [scores])
    table.apply(kind)
    fallen = oracles.lowest(scores, k)
    far.check(oracles.zeroed(far.end, fallen))
    kept = ~fallen if kind == BOOLS else np.packbits(~fallen, bitorder="little")
    first = far.first if kind == BOOLS else far.first // 8
    assert mask[first : first + len(kept)].tobytes() == kept.tobytes()
    assert not mask[first + len(kept) : first + len(kept) + 8].any()
    assert not mask[:65536].any()


def run_far(family: str, name: str, work: int, count: int, arguments: tuple, **defines: str) -> None:
    """Launch with a block for each piece of work, and run the last `count` blocks."""
    options = {"DTYPE": DTYPE_STRUCTS["float16"], "METRIC": "L1"} | defines
    kernels(1).kernel(family, name, options)((work,), (THREADS,), arguments, only=range(work - count, work))


def test_plain_passes_past_32_bits():
    far = Far()
    far.weight[far.first] = far.weight[-1] = far.end[0] = far.end[-1] = np.nan
    tiles = far.window + WINDOW
    data, size, found = bits_of(far.weight), np.uint64(far.size), np.zeros(3, np.uint64)
    keys, tensor = untouched(far.size, np.uint32), Table([far.weight], [0], window=far.window).tensors
    run_far("elements", "count_nonzero", tiles, WINDOW, (data, size, found[:1]))
    run_far("elements", "count_nan", tiles, WINDOW, (data, size, found[1:2]))
    run_far("elements", "scan_scores", tiles, WINDOW, (tensor, keys, found[2:]))
    assert found.tolist() == [np.count_nonzero(far.end), 2, 2]
    header, counts = np.array([NONE], np.uint64), (np.uint32(1), np.uint64(WINDOW))
    run_far("elements", "find_nan", 1, 1, (tensor, *counts, header))
    assert header[0] == 0
    assert keys[far.first :].tobytes() == np.abs(far.end.astype(np.float32)).tobytes()
    extremes = np.array([NONE, 0], np.uint64)
    run_far("elements", "find_extremes", tiles, WINDOW, (tensor, extremes, found[:1]))
    assert extremes[0] == 0
    assert extremes[1] > key_of(np.inf)
    kept = np.arange(far.end.size) % 3 > 0
    blocks, arguments = -(-far.size // THREADS), (data, far.at_the_end(kept).view("u1"), size)
    run_far("elements", "apply_mask", blocks, far.end.size // THREADS + 2, arguments)
    far.check(oracles.zeroed(far.end, ~kept))


@pytest.mark.parametrize("aligned", [True, False])
def test_prune_units_past_32_bits(aligned):
    """Rows of 8 or 9 elements: a strip, or an element, for each thread."""
    inner = 8 if aligned else 9
    rows = -(-(FAR + 9 * 2000) // inner)
    first, width = rows - 2000, 8 if aligned else 1
    weight, kept = untouched(rows * inner, np.float16), untouched(rows, np.bool_)
    kept[first:] = rng(1).random(2000) < 0.5
    end = few(2000 * inner, np.float16).reshape(2000, inner)
    weight[first * inner :], mask = end.reshape(-1), untouched(rows * inner, np.bool_)
    sizes = (np.uint64(size) for size in (1, 1, rows, inner, 1))
    blocks = -(-rows * inner // width // THREADS)
    arguments = (bits_of(weight), mask.view("u1"), kept.view("u1"), *sizes)
    run_far("units", "prune_units", blocks, 2000 * inner // width // THREADS + 2, arguments)
    expected = np.where(kept[first:, None], end, np.float16(0))
    assert weight[first * inner :].tobytes() == expected.tobytes()
    assert mask[first * inner :].tobytes() == np.repeat(kept[first:], inner).tobytes()
    assert not mask[:65536].any()


@pytest.mark.parametrize("name", ["sum_runs", "sum_scattered", "sum_columns"])
def test_unit_sums_past_32_bits(name):
    """The last units of a huge number of small ones."""
    groups, outer, units, inner = {
        "sum_runs": (1, 1, 2**25 + 64, 132),
        "sum_scattered": (2**25 + 64, 3, 15, 3),
        "sum_columns": (2**22, 18, 64, 1),
    }[name]
    size = groups * outer * units * inner
    weight, sums = untouched(size, np.float16), untouched(groups * units, np.float64)
    count = 64 * inner * outer * (1 if name == "sum_runs" else units)
    end = few(count, np.float16)
    weight[-count:] = end
    tensor = Table([weight], [0], window=2).tensors
    row = row_of(UNITS, groups=groups, outer=outer, units=units, inner=inner, sums=sums, wide=1)
    teams = {"sum_runs": THREADS // 32, "sum_scattered": THREADS // 4, "sum_columns": 0}[name]
    blocks, some = {
        "sum_runs": (units, 9),
        "sum_scattered": (groups * units, 64 * 15),
        "sum_columns": (groups * 2, 128),
    }[name]
    blocks, some = (-(-blocks // teams), -(-some // teams) + 1) if teams else (blocks, some)
    run_far("units", name, blocks, some, (tensor, row, np.uint32(1)))
    wide = np.abs(end.astype(np.float64))
    expected = wide.reshape(-1, inner).sum(1) if name == "sum_runs" else None
    if expected is None:
        expected = wide.reshape(64, outer, units, inner).sum(axis=(1, 3)).reshape(-1)
    last = min(len(expected), some * teams - teams or len(expected))
    assert sums[-last:].tolist() == expected[-last:].tolist()
    assert not sums[:4096].any()


@pytest.mark.parametrize("kind", [BOOLS, BITS])
@pytest.mark.parametrize("shape", [(1, 1, 2**20, 4100), (2**20, 10, 41, 10)])
def test_units_of_a_plan_past_32_bits(shape, kind):
    """The last tiles of a tensor of so many units, as if the table began with them."""
    groups, _, units, inner = shape
    weight, kept = untouched(math.prod(shape), np.float16), untouched(groups * units, np.bool_)
    kept[-4096:] = rng(1).random(4096) < 0.5
    length = tile_length(weight.dtype)
    window = weight.size // length - 3
    first = window * length
    end = weight[first:] = few(weight.size - first, np.float16)
    mask, nonzero = untouched(weight.size + 64, np.uint8), np.zeros(1, np.uint64)
    row = row_of(UNITS, **dict(zip(("groups", "outer", "units", "inner"), shape, strict=True)), kept=kept)
    tensor = Table([weight], [0], masks=[mask], window=window).tensors
    tiles, options = -(-weight.size // length) - window, (nonzero, np.uint32(kind), np.array([NONE], np.uint64))
    run_far("units", "apply_units", 2, 2, (tensor, np.uint32(1), np.uint64(tiles), row, *options))
    index = np.arange(first, weight.size)
    unit = index // math.prod(shape[1:]) * units + index // inner % units
    assert weight[first:].tobytes() == np.where(kept[unit], end, np.float16(0)).tobytes()
    assert nonzero[0] == np.count_nonzero(weight[first:])
    expected = kept[unit] if kind == BOOLS else np.packbits(kept[unit], bitorder="little")
    place = first if kind == BOOLS else first // 8
    assert mask[place : place + len(expected)].tobytes() == expected.tobytes()
    assert not mask[:65536].any()


def test_chunks_of_units_past_32_bits():
    units, chunks = 2**25 + 8, 129
    terms, sums = untouched(units * chunks, np.float64), untouched(units, np.float64)
    terms[-8 * chunks :] = np.arange(8 * chunks)
    row = row_of(UNITS, groups=1, outer=1, units=units, inner=chunks << 14, chunk_sums=terms, sums=sums)
    run_far("units", "add_chunks", units // 8, 1, (row, np.uint32(1)))
    assert sums[-8:].tolist() == np.arange(8 * chunks).reshape(8, chunks).sum(1).tolist()


@pytest.mark.parametrize("kind", [BOOLS, BITS])
@pytest.mark.parametrize("name", ["prune_groups", "prune_wide_groups", "prune_groups_in_a_row"])
def test_groups_past_32_bits(name, kind):
    inner = 1 if name == "prune_groups_in_a_row" else 8
    lines = 2048 // inner
    outer = FAR // (8 * inner) + lines
    weight, mask = untouched(outer * 8 * inner, np.float16), untouched(outer * 8 * inner, np.uint8)
    end = few(lines * 8 * inner, np.float16).reshape(lines, 8, inner)
    weight[-end.size :] = end.reshape(-1)
    fallen = oracles.fallen_of_groups(np.abs(end), 2, 4, 1)
    expected, kept = oracles.zeroed(end, fallen), ~fallen
    row = row_of(LINES, outer=outer, length=8, inner=inner)
    tensor = Table([weight], [0], masks=[mask], window=2).tensors
    each = {"prune_groups": 4, "prune_wide_groups": 32, "prune_groups_in_a_row": 32}[name] * THREADS
    mask_end = slice(-end.size, None) if kind == BOOLS else slice((weight.size - end.size) // 8, weight.size // 8)
    mask[mask_end] = 0xFF  # bits are cleared, bools are written
    options = [np.uint32(option) for option in (1, 2, 1, 1, kind)]  # rows of the table, keep, scanned, write, masks
    arguments = (tensor, row, *options, None, np.array([NONE], np.uint64))
    run_far("groups", name, -(-weight.size // each), end.size // each + 2, arguments, OF="4")
    assert weight[-end.size :].tobytes() == expected.tobytes()
    assert mask[mask_end].tobytes() == (kept if kind == BOOLS else np.packbits(kept, bitorder="little")).tobytes()
    assert not mask[:65536].any()
