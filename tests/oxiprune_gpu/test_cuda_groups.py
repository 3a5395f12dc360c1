"""The kernels of `groups.cu`, run on the CPU, against the slow oracle: the same bits whatever the order of threads."""

from __future__ import annotations

import functools
from typing import NamedTuple

import ml_dtypes
import numpy as np
import pytest

import oxiprune_gpu as ox
from oxiprune_gpu.backends import cuda_groups
from oxiprune_gpu.backends.cuda_groups import IN_A_ROW, LINES, WIDE
from oxiprune_gpu.backends.cuda_selection import NO_NAN
from oxiprune_gpu.backends.cuda_tables import DeviceWeight, Member
from oxiprune_gpu.metrics import ImportanceMetric, parse_metric
from tests import cuda_on_cpu, oracles
from tests.backends import source_of

pytestmark = pytest.mark.skipif(bool(cuda_on_cpu.available()), reason=cuda_on_cpu.available() or "it can run")

DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16, np.float64]
METRICS = ["l1", "l2", "gradient", "random:12345"]
SHAPES = [
    ((4,), 0),
    ((1, 1), 1),
    ((3, 31), -1),
    ((37, 64), -1),  # in a row
    ((1000, 3, 4), -1),
    ((7, 5), 0),
    ((7, 67), -1),  # a remainder in every row
    ((67, 9), 0),
    ((64, 33), 0),
    ((67, 16), 0),  # wide, with a remainder
    ((5, 33, 8), 1),
    ((4, 64, 3, 3), 1),
]
GRIDS = [(1, 1), (3, 2), (1000, 3)]
"""Most blocks of a launch, and a seed of the order in which the threads run."""

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
metrics = pytest.mark.parametrize("metric", METRICS)
shapes = pytest.mark.parametrize(("shape", "axis"), SHAPES)
grids = pytest.mark.parametrize(("blocks", "seed"), GRIDS)


@functools.cache
def kernels(seed: int) -> cuda_on_cpu.CpuKernels:
    return cuda_on_cpu.CpuKernels(source_of, seed=seed)


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
        return aligned(np.asarray(DATA[kind](shape)).astype(dtype))


def aligned(array: np.ndarray, beside: int = 0) -> np.ndarray:
    """A copy that begins at a multiple of 16 bytes, or so many elements after one."""
    room = np.empty(array.nbytes + 16 + beside * array.itemsize, np.uint8)
    start = -room.ctypes.data % 16 + beside * array.itemsize
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def scored(weight: np.ndarray, metric: str) -> tuple[ImportanceMetric, np.ndarray]:
    """The metric called `metric`, and the scores it gives."""
    if metric == "gradient":
        gradient = rng(9).standard_normal(weight.shape).astype(np.float32)
        return ox.Taylor(gradient), oracles.element_scores(weight, "taylor", gradient).reshape(weight.shape)
    return parse_metric(metric), oracles.element_scores(weight, metric).reshape(weight.shape)


class Launch(NamedTuple):
    """Most blocks of a launch, a seed of the order of threads, and what is asked for."""

    blocks: int = 3
    seed: int = 1
    write: bool = True
    scan: bool = True


def pruned(
    work: np.ndarray, granularity: ox.NM, metric: ImportanceMetric, mask: np.ndarray | None, launch: Launch
) -> bool:
    """Prune an array where it lies; return whether a NaN was found."""
    weight = DeviceWeight(work.reshape(-1).view(f"u{work.itemsize}"), work.shape, work.dtype)
    gradient = np.asarray(metric.flat_gradient, weight.score_dtype) if isinstance(metric, ox.Taylor) else None
    member = Member(weight, gradient=gradient, seed=getattr(metric, "seed", 0), mask=mask)
    view = granularity.group_view(work.shape)
    header = cuda_groups.prune_groups(
        np,
        kernels(launch.seed).kernel,
        launch.blocks,
        member,
        view,
        metric,
        write=launch.write,
        scan=launch.scan,
    )
    assert (header.shape, header.dtype) == ((1,), np.uint64)
    assert header[0] in (0, NO_NAN)
    return header[0] == 0


def check_groups(weight: np.ndarray, granularity: ox.NM, metric: str = "l1", blocks: int = 3, seed: int = 1) -> None:
    """Mask and data are the oracle's, by bits, with and without the scan; with write=False the data stay."""
    chosen, scores = scored(weight, metric)
    fallen = oracles.fallen_of_groups(scores, granularity.keep, granularity.of, granularity.axis, granularity.pad)
    expected = oracles.zeroed(weight, fallen).tobytes()
    for launch in (Launch(blocks, seed), Launch(blocks, seed, scan=False), Launch(blocks, seed, write=False)):
        mask, work = np.full(weight.shape, 7, np.uint8), aligned(weight)
        assert not pruned(work, granularity, chosen, mask, launch)
        assert np.array_equal(mask, ~fallen)
        assert work.tobytes() == (expected if launch.write else weight.tobytes())
    work = aligned(weight)
    assert not pruned(work, granularity, chosen, None, Launch(blocks, seed))
    assert work.tobytes() == expected


@shapes
@grids
@pytest.mark.parametrize("of", [2, 4, 5, 8, 16, 32])
def test_shapes(shape, axis, of, blocks, seed):
    check_groups(made("few distinct", shape), ox.NM(max(1, of // 3), of, axis), "l1", blocks, seed)


@shapes
@grids
@pytest.mark.parametrize("of", [2, 4, 5, 32])
def test_lines_that_are_padded(shape, axis, of, blocks, seed):
    check_groups(made("few distinct", shape), ox.NM(max(1, of // 3), of, axis, pad=True), "l1", blocks, seed)


@shapes
@dtypes
@metrics
def test_dtypes_and_metrics(shape, axis, metric, dtype):
    check_groups(made("normal", shape, dtype), ox.NM(2, 4, axis), metric)


@dtypes
@pytest.mark.parametrize("of", [3, 8, 32])
@pytest.mark.parametrize(("shape", "axis"), [((64, 96), 1), ((67, 16), 0), ((67, 9), 0)])
def test_longer_groups_of_every_dtype(shape, axis, of, dtype):
    for keep in (1, of - 1):
        check_groups(made("few distinct", shape, dtype), ox.NM(keep, of, axis))


@dtypes
@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("metric", ["l1", "l2"])
def test_any_data(kind, metric, dtype):
    for shape, axis in [((9, 68), 1), ((66, 9), 0), ((68, 16), 0)]:
        check_groups(made(kind, shape, dtype), ox.NM(2, 4, axis), metric)


@dtypes
@pytest.mark.parametrize(("shape", "axis"), [((9, 68), 1), ((68, 16), 0)])
def test_data_and_masks_anywhere(shape, axis, dtype):
    """Only elements must be aligned; a mask may begin at any byte. What lies around them stays."""
    weight = made("normal", shape, dtype)
    fallen = oracles.fallen_of_groups(scored(weight, "l1")[1], 2, 4, axis)
    for beside in (0, 1, 3):
        work = aligned(weight, beside)
        room = np.full(weight.size + 16 + 8, 7, np.uint8)
        mask = room[8 + beside : 8 + beside + weight.size]
        assert not pruned(work, ox.NM(2, 4, axis), ox.L1Magnitude(), mask, Launch())
        assert work.tobytes() == oracles.zeroed(weight, fallen).tobytes()
        assert np.array_equal(mask, ~fallen.reshape(-1))
        assert (room[: 8 + beside] == 7).all()
        assert (room[8 + beside + weight.size :] == 7).all()


@shapes
@dtypes
def test_nothing_is_written_where_the_scan_finds_nan(shape, axis, dtype):
    for place in {0, np.prod(shape) // 2, np.prod(shape) - 1}:
        for metric in ("l1", "random:1"):
            weight, mask = made("normal", shape, dtype), np.full(shape, 7, np.uint8)
            weight.reshape(-1)[place] = np.nan
            before = weight.tobytes()
            assert pruned(weight, ox.NM(2, 4, axis), parse_metric(metric), mask, Launch())
            assert weight.tobytes() == before
            assert (mask == 7).all()


@shapes
@dtypes
@grids
def test_without_the_scan_nan_is_found_and_ranks_highest(shape, axis, dtype, blocks, seed):
    weight = made("normal", shape, dtype)
    weight[rng(7).random(shape) < 0.05] = np.nan
    weight.reshape(-1)[-1] = np.nan  # in a remainder, where there is one
    ranks = np.where(np.isnan(weight), np.inf, np.abs(weight.astype(np.float64)))  # there is no infinity among them
    fallen = oracles.fallen_of_groups(ranks, 2, 4, axis)
    mask, expected = np.full(shape, 7, np.uint8), oracles.zeroed(weight, fallen)
    assert pruned(weight, ox.NM(2, 4, axis), ox.L1Magnitude(), mask, Launch(blocks, seed, scan=False))
    assert weight.tobytes() == expected.tobytes()
    assert np.array_equal(mask, ~fallen)


@pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0)])
def test_nothing_of_nothing(shape):
    assert not pruned(np.zeros(shape, np.float32), ox.NM(2, 4), ox.L1Magnitude(), np.zeros(shape, np.uint8), Launch())


@pytest.mark.parametrize(
    ("shape", "granularity", "dtype", "beside", "kernel"),
    [
        ((64, 64), "2:4", np.float32, 0, IN_A_ROW),
        ((64, 64), "2:4@0", np.float32, 0, WIDE),
        ((64, 64), "2:4", np.float32, 1, LINES),
        ((64, 64), "2:4@0", np.float32, 1, LINES),
        ((64, 66), "2:4", np.float32, 0, LINES),
        ((64, 9), "2:4@0", np.float32, 0, LINES),
        ((64, 8), "8:16@0", np.float16, 0, WIDE),
        ((64, 8), "8:16@0", np.float32, 0, LINES),  # its wide runs would be one element
        ((64, 8), "8:32@0", np.float64, 0, LINES),
        ((64, 4), "4:8@0", np.float16, 0, WIDE),
        ((64, 4), "2:4@0", np.float16, 0, LINES),
        ((31, 31), "1:31", np.float32, 0, LINES),
        ((32, 32), "16:32", np.float32, 0, IN_A_ROW),
        ((32, 32), "16:32", np.float64, 0, LINES),
    ],
)
def test_every_way_is_taken(shape, granularity, dtype, beside, kernel):
    """Which kernel prunes: the others are for what it can't do."""
    asked = []

    def kernel_of(family, name, defines):
        asked.append(name)
        return kernels(1).kernel(family, name, defines)

    parsed, work = ox.PruningConfig(granularity=granularity).granularity, aligned(np.ones(shape, dtype), beside)
    weight = DeviceWeight(work.reshape(-1).view(f"u{work.itemsize}"), shape, work.dtype)
    cuda_groups.prune_groups(np, kernel_of, 3, Member(weight), parsed.group_view(shape), ox.L1Magnitude())
    assert {LINES, WIDE, IN_A_ROW}.intersection(asked) == {kernel}
