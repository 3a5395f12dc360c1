"""Blocks of a quantised weight: bytes that two threads share, and values where arithmetic is not plain."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from onnx_tools.errors import InvalidTensor
from onnx_tools.quantisation.blocks import weight_values
from onnx_tools.quantisation.kinds import KINDS, PACKED
from onnx_tools.quantisation.scheme import Grid, Parameter, Quantisation
from oxiprune_gpu import ArrayBlocks, BlockSource, PruningConfig, prune_blocks, prune_tensor

SCALE, ZERO = (("scale", 0),), (("zero", 0),)


def blocks_of(
    data: NDArray[np.uint8], quantisation: Quantisation, scale: object = 1.0, zero: object = 0
) -> BlockSource:
    """A weight over `data`; `scale` and `zero` are what its parameters hold."""
    held = {SCALE: np.atleast_1d(np.float32(scale)).view(np.uint8), ZERO: np.atleast_1d(np.uint8(zero))}
    return weight_values(quantisation, ArrayBlocks(data), quantisation.shape, "w", held.__getitem__)


def scaled(data_type: int, *shape: int, zero: bool = False) -> Quantisation:
    scale = Parameter(SCALE, TensorProto.FLOAT, 1, Grid())
    return Quantisation(KINDS[data_type], shape, scale, Parameter(ZERO, data_type, 1, Grid()) if zero else None)


def loaded(source: BlockSource, start: int = 0, stop: int | None = None) -> list[float]:
    stop = int(np.prod(source.shape)) if stop is None else stop
    return source.load(start, stop, np.empty(stop - start, np.float32)).tolist()


@pytest.mark.parametrize("pitch", [0, 64], ids=["whole", "padded lines"])
@pytest.mark.parametrize("bits", [2, 4])
def test_threads_share_bytes(bits: int, pitch: int) -> None:
    """Blocks end inside bytes; every second element of all is pruned at once, a few elements a thread."""
    lines, line = 199, 61
    quantisation = Quantisation(PACKED[bits], (lines, line), zero_code=1, pitch=pitch)
    data = np.random.default_rng(1).integers(0, 256, quantisation.stored_bytes).astype(np.uint8)
    before = PACKED[bits].unpacked(data)
    source = blocks_of(data, quantisation)

    def prune(start: int) -> None:
        stop = min(start + 7, lines * line)
        block = source.load(start, stop, np.empty(7, np.float32))
        block[np.arange(start, stop) % 2 == 0] = 0
        source.store(start, block)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(prune, range(0, lines * line, 7)))
    expected = before.copy()
    place = np.arange(lines * line)[::2]
    expected[place + place // line * ((pitch or line) - line)] = 1
    assert np.array_equal(PACKED[bits].unpacked(data), expected)


@pytest.mark.parametrize("granularity", ["2:4", "1:4", "row", "block:2x4"])
def test_array_granularities_see_the_same_values(granularity: str) -> None:
    kind = KINDS[TensorProto.UINT4]
    quantisation = scaled(TensorProto.UINT4, 12, 20, zero=True)
    data = np.random.default_rng(3).integers(0, 256, 120).astype(np.uint8)
    codes = kind.unpacked(data).copy()
    config = PruningConfig(None if ":" in granularity[:2] else 0.5, "l1", granularity)
    _, mask = prune_tensor((codes.astype(np.float32) - 7).reshape(12, 20) * 3, config)
    prune_blocks(blocks_of(data, quantisation, 3.0, 7), config)
    assert np.array_equal(kind.unpacked(data), np.where(mask.reshape(-1), codes, 7))


@pytest.mark.parametrize("data_type", [TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2, TensorProto.FLOAT4E2M1])
def test_negative_zeros_of_floats_stay_what_they_are(data_type: int) -> None:
    kind = KINDS[data_type]
    assert kind.negative_zero is not None
    data = (
        np.array([kind.negative_zero, kind.negative_zero], np.uint8) if kind.bits == 8 else np.array([0x88], np.uint8)
    )
    source = blocks_of(data, scaled(data_type, 2), -3.0)
    block = source.load(0, 2, np.empty(2, np.float32))
    assert np.signbit(block).all()
    assert not block.any()
    block[1] = 0
    source.store(0, block)
    assert kind.unpacked(data).tolist() == [kind.negative_zero, 0]


def test_infinities_and_nan_are_seen() -> None:
    infinite = np.array([np.inf, -np.inf, np.nan, 1], ml_dtypes.float8_e5m2).view(np.uint8)
    values = loaded(blocks_of(infinite, scaled(TensorProto.FLOAT8E5M2, 4), 2.0))
    assert values[:2] == [np.inf, -np.inf]
    assert np.isnan(values[2])


def test_what_is_too_small_is_no_zero() -> None:
    """2^-16 * 2^-140 is below all floats; a code that is not the zero point must not become it."""
    small = np.array([2**-16, 0, -(2**-16)], ml_dtypes.float8_e5m2).view(np.uint8)
    source = blocks_of(small, scaled(TensorProto.FLOAT8E5M2, 3), 2.0**-140)
    block = source.load(0, 3, np.empty(3, np.float32))
    assert (block != 0).tolist() == [True, False, True]
    before = small.copy()
    source.store(0, block)
    assert np.array_equal(small, before)


def test_the_smallest_scale_and_a_negative_one() -> None:
    codes = np.array([1, 0, 255], np.uint8)
    smallest = np.finfo(np.float32).smallest_subnormal
    assert loaded(blocks_of(codes, scaled(TensorProto.INT8, 3), smallest)) == [smallest, 0, -smallest]
    negative = blocks_of(codes, scaled(TensorProto.INT8, 3), -2.0).load(0, 3, np.empty(3, np.float32))
    assert negative.tolist() == [-2, 0, 2]
    assert not np.signbit(negative[1])


def test_a_scale_of_zero_makes_nothing_the_zero_point() -> None:
    """All real values are zero, but only one code is the zero point: the others count, and fall first."""
    codes = np.array([5, 7, 9], np.uint8)
    source = blocks_of(codes, scaled(TensorProto.UINT8, 3, zero=True), 0.0, 7)
    block = source.load(0, 3, np.empty(3, np.float32))
    assert (block != 0).tolist() == [True, False, True]
    block[0] = 0
    source.store(0, block)
    assert codes.tolist() == [7, 7, 9]


@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf])
def test_scales_that_are_no_numbers(scale: float) -> None:
    with pytest.raises(InvalidTensor, match=rf"weight 'w': scale 0 is {scale}: .* finite scales; .* --exclude"):
        blocks_of(np.zeros(3, np.uint8), scaled(TensorProto.INT8, 3), scale)


def test_a_zero_point_that_is_nan() -> None:
    quantisation = scaled(TensorProto.FLOAT8E4M3FN, 3, zero=True)
    with pytest.raises(InvalidTensor, match="weight 'w': a zero point is NaN"):
        blocks_of(np.zeros(3, np.uint8), quantisation, 1.0, 0x7F)


@pytest.mark.parametrize(
    "grid",
    [
        Grid(5, 1), Grid(5, 3), Grid(4, 30), Grid(6, 1, 4), Grid(6, 1, 3), Grid(6, 5, 4), Grid(3, 40, 2),
        Grid(30, 4, 30),
    ],
    ids=str,
)  # fmt: skip
def test_parameters_are_spread_as_the_grid_says(grid: Grid) -> None:
    total, blocks = 120, -(-grid.size // grid.block) if grid.block else 0
    before, along, after = np.unravel_index(
        np.arange(total), (total // (grid.size * grid.after), grid.size, grid.after)
    )
    places = (before * blocks + along // grid.block) * grid.after + after if grid.block else along
    parameters = np.random.default_rng(2).standard_normal(int(places.max()) + 1)
    for start in range(0, total, 7):
        for stop in range(start + 1, total + 1, 5):
            assert np.array_equal(grid.spread(parameters, start, stop), parameters[places[start:stop]])
