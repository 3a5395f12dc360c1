"""Methods with data on arrays of a GPU: CuPy's where there is one, else a fake's, over kernels compiled for the CPU."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from oxiprune_gpu import InvalidOption, NonFiniteWeight, PruningConfig, prune_sparsegpt, prune_wanda, refit
from oxiprune_gpu.backends.bits import narrow_bits, widen_bits
from tests import cuda_on_cpu, fake_cupy
from tests.layers import layer

RULES = [PruningConfig(0.5), PruningConfig(0.7), PruningConfig(granularity="2:4"), PruningConfig(granularity="5:7+pad")]
SHAPES = [(1, 1), (5, 16), (70, 150)]
rules = pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.sparsity}-{rule.granularity.text}")
shapes = pytest.mark.parametrize("shape", SHAPES)


@pytest.fixture(params=["fake", pytest.param("cupy", marks=pytest.mark.gpu)])
def cupy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param == "cupy":
        return pytest.importorskip("cupy")
    if reason := cuda_on_cpu.available():
        pytest.skip(reason)
    monkeypatch.setattr(fake_cupy.ndarray, "converts_floats", True)
    return fake_cupy.installed(monkeypatch)


@rules
@shapes
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_wanda_has_the_bits_of_numpy(cupy: Any, shape: tuple[int, int], rule: PruningConfig, dtype: Any) -> None:
    weight, inputs = layer(*shape, dtype=dtype)
    squares = (inputs**2).sum(axis=0)
    wanted = prune_wanda(weight, squares, rule)
    found = prune_wanda(cupy.asarray(weight), cupy.asarray(squares), rule)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.get().tobytes() == theirs.tobytes()


@rules
@shapes
def test_sparsegpt_keeps_what_numpy_keeps(cupy: Any, shape: tuple[int, int], rule: PruningConfig) -> None:
    weight, inputs = layer(*shape, dtype=np.float64)
    hessian = inputs.T @ inputs
    block = 70 if rule.granularity.text.startswith("5:7") else 64
    wanted = prune_sparsegpt(weight, hessian, rule, block=block)
    found = prune_sparsegpt(cupy.asarray(weight), cupy.asarray(hessian), rule, block=block)
    np.testing.assert_array_equal(found.mask.get(), wanted.mask)
    np.testing.assert_allclose(found.pruned.get(), wanted.pruned, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("cross", [False, True])
@shapes
def test_repair(cupy: Any, shape: tuple[int, int], cross: bool) -> None:
    weight, inputs = layer(*shape, dtype=np.float64)
    hessian, mask = inputs.T @ inputs, np.random.default_rng(1).random(shape) < 0.5
    other = hessian * 1.1 if cross else None
    wanted = refit(weight, mask, hessian, cross=other)
    found = refit(
        cupy.asarray(weight),
        cupy.asarray(mask),
        cupy.asarray(hessian),
        cross=None if other is None else cupy.asarray(other),
    )
    np.testing.assert_array_equal(found.mask.get(), mask)
    np.testing.assert_allclose(found.pruned.get(), wanted.pruned, rtol=1e-6, atol=1e-9)


def test_a_mask_that_is_given_and_statistics_of_the_host(cupy: Any) -> None:
    weight, inputs = layer(20, 40, dtype=np.float64)
    mask = np.random.default_rng(1).random(weight.shape) < 0.5
    wanted = prune_sparsegpt(weight, inputs.T @ inputs, mask=mask)
    found = prune_sparsegpt(cupy.asarray(weight), inputs.T @ inputs, mask=mask)
    np.testing.assert_allclose(found.pruned.get(), wanted.pruned, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rule", RULES[1:3], ids=["0.7", "2:4"])
def test_bfloat16(cupy: Any, rule: PruningConfig) -> None:
    weight, inputs = layer(20, 40, dtype=ml_dtypes.bfloat16)
    bits = cupy.asarray(weight)
    pruned, mask = prune_wanda(bits, (inputs**2).sum(axis=0), rule)
    wanted = prune_wanda(weight, (inputs**2).sum(axis=0), rule)
    assert pruned.get().tobytes() == wanted[0].tobytes()
    np.testing.assert_array_equal(mask.get(), wanted[1])
    hessian = inputs.T @ inputs
    found, expected = prune_sparsegpt(bits, hessian, rule), prune_sparsegpt(weight, hessian, rule)
    assert found.pruned.dtype == ml_dtypes.bfloat16
    difference = found.pruned.get().astype(np.float32) - expected.pruned.astype(np.float32)
    assert np.abs(difference).max() <= 2**-7 * np.abs(expected.pruned.astype(np.float32)).max()


def test_bits_of_bfloat16() -> None:
    values = np.random.default_rng(0).standard_normal(4096).astype(np.float32) * np.float32(3.0) ** np.arange(
        -40, 24, dtype=np.float32
    ).repeat(64)
    values[:3] = np.inf, -np.inf, np.finfo(np.float32).max
    values[3:6] = np.array([0x3F808000, 0x3F818000, 0x3F808001], np.uint32).view(np.float32)  # halfway, and beyond
    with np.errstate(over="ignore"):
        wanted = values.astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(narrow_bits(values), wanted.view(np.uint16))
    np.testing.assert_array_equal(widen_bits(wanted.view(np.uint16)), wanted.astype(np.float32))


def test_damping_grows(cupy: Any) -> None:
    weight, inputs = layer(6, 32)
    few = inputs[:3]
    found = prune_sparsegpt(cupy.asarray(weight), cupy.asarray(few.T @ few), PruningConfig(0.5), damping=1e-20)
    assert found.damping > 1e-20
    assert np.isfinite(found.pruned.get()).all()


def test_bad_input(cupy: Any) -> None:
    weight = cupy.asarray(np.ones((4, 8), np.float32))
    with pytest.raises(InvalidOption, match="one is negative"):
        prune_wanda(weight, -np.ones(8), PruningConfig(0.5))
    with pytest.raises(InvalidOption, match="hold NaN or infinity"):
        prune_sparsegpt(weight, np.full((8, 8), np.nan), PruningConfig(0.5))
    with pytest.raises(NonFiniteWeight, match="'array'"):
        prune_wanda(cupy.asarray(np.full((4, 8), np.nan, np.float32)), np.ones(8), PruningConfig(0.5))
