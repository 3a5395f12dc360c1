"""Plans: many tensors at once are pruned as one by one, or as one; in a handful of launches."""

from __future__ import annotations

import random
import sys

import ml_dtypes
import numpy as np
import pytest

import oxiprune_gpu as ox
from oxiprune_gpu.selection import units_to_prune
from tests import oracles

BLOCK = 1 << 13
SMALLER = {"BLOCK": BLOCK, "SPAN": 2 * BLOCK, "_SAMPLE_FROM": 20_000, "_SAMPLES": 1 << 10}
"""Lengths of the backends, made so small that a few thousand elements take every way through them."""

SIZES = [1, 2, 7, 4096, 4095, 4097, 1, 8192, 8193, 2048, 30_000, 3, 50_000, 16, 12_289, 5]
DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16, np.float64]
NARROW = DTYPES[:3]

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
mixes = pytest.mark.parametrize(
    "mix", [[np.float32], [np.float64], NARROW, DTYPES], ids=["f32", "f64", "narrow", "all"]
)
metrics = pytest.mark.parametrize("metric", ["l1", "l2", "random:7"])


@pytest.fixture(autouse=True)
def smaller_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in list(sys.modules.items()):
        if name.startswith("oxiprune_gpu.backends."):
            for constant in SMALLER.keys() & vars(module).keys():
                monkeypatch.setattr(module, constant, SMALLER[constant])


def made(kind: str, size: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng((size, seed))
    if kind == "constant":
        return np.full(size, 0.25)
    if kind == "few distinct":
        return rng.integers(-2, 3, size)
    if kind == "mostly zeros":
        return rng.standard_normal(size) * (rng.random(size) < 0.2)
    return rng.standard_normal(size)


def weights_of(dtypes: list, kind: str = "normal", sizes: list[int] = SIZES) -> list[np.ndarray]:
    """Tensors whose dtypes alternate."""
    return [made(kind, size, i).astype(dtypes[i % len(dtypes)]) for i, size in enumerate(sizes)]


def copies(weights: list[np.ndarray]) -> list[np.ndarray]:
    return [weight.copy() for weight in weights]


def check_same(got: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert [one.shape for one in got] == [one.shape for one in expected]
    different = [
        i for i, (one, other) in enumerate(zip(got, expected, strict=True)) if one.tobytes() != other.tobytes()
    ]
    assert different == []


def check_run(plan: ox.PrunePlan, work: list[np.ndarray], weights: list[np.ndarray], kept: list[np.ndarray]) -> None:
    """A run leaves what is kept, and says so; a second one does not change it."""
    pruned = [oracles.zeroed(weight, ~mask) for weight, mask in zip(weights, kept, strict=True)]
    assert plan.pruned == sum(np.count_nonzero(~mask) for mask in kept)
    for _ in range(2):
        result = plan.run()
        check_same(work, pruned)
        check_same(result.masks, kept)
        assert result.nonzero.dtype == np.int64
        assert result.nonzero.tolist() == [np.count_nonzero(weight.astype(np.float64)) for weight in pruned]


def check_each(weights: list[np.ndarray], config: ox.PruningConfig) -> None:
    kept = [ox.compute_mask(weight, config) for weight in weights]
    work = copies(weights)
    check_run(ox.prepare(work, config), work, weights, kept)


def check_global(weights: list[np.ndarray], metric: str, sparsity: float) -> None:
    total = sum(weight.size for weight in weights)
    fallen = oracles.lowest_of_all(weights, metric, units_to_prune(sparsity, total, 1, 1))
    kept = [~part.reshape(weight.shape) for part, weight in zip(fallen, weights, strict=True)]
    work = copies(weights)
    check_run(ox.prepare(work, ox.PruningConfig(sparsity, metric), scope="global"), work, weights, kept)


@mixes
@metrics
def test_each_as_one_by_one(verbs_backend, mix, metric):
    check_each(weights_of(mix), ox.PruningConfig(0.4, metric))


@mixes
@pytest.mark.parametrize("kind", ["constant", "few distinct", "mostly zeros"])
def test_each_with_ties(verbs_backend, mix, kind):
    check_each(weights_of(mix, kind), ox.PruningConfig(0.5))


@mixes
@metrics
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.95])
def test_global(verbs_backend, mix, metric, sparsity):
    check_global(weights_of(mix), metric, sparsity)


@mixes
@pytest.mark.parametrize("kind", ["constant", "few distinct", "mostly zeros"])
@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.77])
def test_global_with_ties(verbs_backend, mix, kind, sparsity):
    check_global(weights_of(mix, kind), "l1", sparsity)


@pytest.mark.parametrize("mix", [[np.float32], NARROW, DTYPES])
def test_global_cut_at_every_end(verbs_backend, mix):
    """The cut among equal elements falls on, before and after the borders of tensors and tiles."""
    weights = weights_of(mix, "constant", [5, 4096, 8193, 1, 4097])
    total = sum(weight.size for weight in weights)
    for k in (1, 4, 5, 6, 4100, 4101, 4102, 8197, 12_293, 12_294, 12_295, 12_296, total - 1):
        check_global(weights, "l1", np.nextafter(np.float32(k / total), np.float32(1)))


def test_global_random_starts_anew_in_each_tensor(verbs_backend):
    """Equal positions have equal scores: the first tensor falls first."""
    first, second = np.ones(100, np.float32), np.ones(100, np.float32)
    ox.prepare([first, second], ox.PruningConfig(0.5, "random:3"), scope="global").run()
    assert np.array_equal(first, second)
    ox.prepare([first, second], ox.PruningConfig(101 / 200, "random:3"), scope="global").run()
    assert np.count_nonzero(first != second) == 1
    assert np.count_nonzero(first) < np.count_nonzero(second)


@mixes
@pytest.mark.parametrize("scope", ["tensor", "global"])
def test_bits(verbs_backend, mix, scope):
    weights, config = weights_of(mix), ox.PruningConfig(0.6)
    expected = ox.prepare(copies(weights), config, scope=scope).run()
    work = copies(weights)
    result = ox.prepare(work, config, scope=scope, mask="bits").run()
    assert [mask.dtype for mask in result.masks] == [np.uint8] * len(weights)
    check_same(result.masks, [np.packbits(mask, bitorder="little") for mask in expected.masks])
    assert result.nonzero.tolist() == expected.nonzero.tolist()
    nothing = ox.prepare(again := copies(weights), config, scope=scope, mask=None).run()
    assert nothing.masks is None
    check_same(again, work)


def test_a_plan_follows_the_values(verbs_backend):
    weight = np.zeros((200, 300), np.float32)
    plan = ox.prepare([weight], ox.PruningConfig(0.5))
    for seed in range(3):
        weight[...] = made("normal", weight.size, seed).reshape(weight.shape)
        pruned, mask = ox.prune_tensor(weight, ox.PruningConfig(0.5))
        assert plan.run().masks[0].tobytes() == mask.tobytes()
        assert weight.tobytes() == pruned.tobytes()


NAN_AT = [0, 3, 10, len(SIZES) - 1]


@pytest.mark.parametrize("mix", [[np.float32], NARROW, DTYPES])
@pytest.mark.parametrize("sparsity", [0.0, 0.5])
@pytest.mark.parametrize("number", NAN_AT)
def test_nan_stops_where_one_by_one_stops(verbs_backend, mix, number, sparsity):
    weights, config = weights_of(mix), ox.PruningConfig(sparsity)
    weights[number].reshape(-1)[-1] = np.nan
    weights[-1].reshape(-1)[0] = np.nan
    work, expected = {f"w{i}": weight for i, weight in enumerate(copies(weights))}, copies(weights)
    with pytest.raises(ox.NonFiniteWeight):
        ox.prune_model(expected, config, inplace=True)
    plan = ox.prepare(work, config)
    with pytest.raises(ox.NonFiniteWeight, match=f"'w{number}'"):
        plan.run()
    check_same(list(work.values()), expected)


@mixes
@pytest.mark.parametrize("sparsity", [0.0, 0.5])
@pytest.mark.parametrize("number", NAN_AT)
def test_nan_anywhere_stops_a_global_scope(verbs_backend, mix, number, sparsity):
    weights = weights_of(mix)
    weights[number].reshape(-1)[-1] = np.nan
    weights[-1].reshape(-1)[0] = np.nan
    work = copies(weights)
    plan = ox.prepare(work, ox.PruningConfig(sparsity), scope="global")
    with pytest.raises(ox.NonFiniteWeight, match=rf"tensors\[{number}\]"):
        plan.run()
    check_same(work, weights)


@pytest.mark.parametrize("scope", ["tensor", "global"])
@pytest.mark.parametrize("mix", [[np.float32], DTYPES])
def test_check_later(verbs_backend, scope, mix):
    weights, config = weights_of(mix), ox.PruningConfig(0.5)
    weights[2][0] = np.nan
    plan = ox.prepare(weights, config, scope=scope)
    plan.run(check=False)
    for _ in range(2):
        with pytest.raises(ox.NonFiniteWeight, match=r"tensors\[2\]"):
            plan.check()
    weights[2][0] = 1.0
    expected = ox.prepare(copies(weights), config, scope=scope).run()
    result = plan.run(check=False)
    plan.check()
    check_same(result.masks, expected.masks)


def test_a_mapping_gives_a_mapping(verbs_backend):
    weights = {"a": normal(3, 4), "b": normal(5)}
    result = ox.prepare(weights, ox.PruningConfig(0.5)).run()
    assert list(result.masks) == ["a", "b"]
    assert result.masks["a"].shape == (3, 4)
    assert result.nonzero.tolist() == [6, 3]


def test_min_nonzero(verbs_backend):
    weights = [normal(10), normal(6)]
    each = ox.prepare(copies(weights), ox.PruningConfig(0.9, min_nonzero=5)).run()
    assert each.nonzero.tolist() == [5, 5]
    joint = ox.prepare(copies(weights), ox.PruningConfig(0.9, min_nonzero=11), scope="global")
    assert joint.pruned == 5
    assert joint.run().nonzero.sum() == 11
    with pytest.raises(ox.BelowMinNonzero) as caught:
        ox.prepare(copies(weights), ox.PruningConfig(0.9, min_nonzero=7))
    assert caught.value.__notes__ == ["tensor 'tensors[1]'"]
    with pytest.raises(ox.BelowMinNonzero):
        ox.prepare(copies(weights), ox.PruningConfig(0.9, min_nonzero=17), scope="global")


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape, np.float32)


def frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


SHARED = normal(10)
REFUSED = {
    "transposed": (
        [normal(3), normal(4, 5).T],
        {},
        ox.ReadOnlyTarget,
        r"tensors\[1\]'.*not C-contiguous.*prune_tensor",
    ),
    "read-only": ([frozen(normal(3))], {}, ox.ReadOnlyTarget, r"tensors\[0\]"),
    "integers": ([np.arange(3)], {}, ox.UnsupportedDtype, r"tensors\[0\]"),
    "empty": ([normal(3), normal(0)], {}, ox.EmptyTensor, r"tensors\[1\]"),
    "empty, global": ([normal(3), normal(0)], {"scope": "global"}, ox.EmptyTensor, r"tensors\[1\]"),
    "no tensors": ([], {}, ox.InvalidOption, "at least one"),
    "one tensor": (normal(3), {}, ox.InvalidOption, "put it in a list"),
    "scope": ([normal(3)], {"scope": "layer"}, ox.InvalidOption, "layer"),
    "mask": ([normal(3)], {"mask": "bytes"}, ox.InvalidOption, "bytes"),
    "twice": ([SHARED, normal(3), SHARED], {}, ox.InvalidOption, r"tensors\[0\]' and 'tensors\[2\]' share memory"),
    "overlapping": ([SHARED[:6], SHARED[5:]], {}, ox.InvalidOption, "share memory"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_prepare(verbs_backend, case):
    tensors, options, error, text = REFUSED[case]
    with pytest.raises(error, match=text):
        ox.prepare(tensors, ox.PruningConfig(0.5), **options)


@pytest.mark.parametrize(
    ("config", "scope", "error"),
    [
        (ox.PruningConfig(1.0), "tensor", ox.InvalidSparsity),
        (ox.PruningConfig(0.5, ox.Taylor(np.ones((4, 6)))), "tensor", ox.InvalidOption),
        (ox.PruningConfig(0.5, "l1", "row"), "global", ox.InvalidOption),
        (ox.PruningConfig(granularity="2:4"), "global", ox.InvalidOption),
        ("half", "tensor", ox.InvalidOption),
    ],
)
def test_configs_that_do_not_fit_a_plan(verbs_backend, config, scope, error):
    with pytest.raises(error):
        ox.prepare([normal(4, 6)], config, scope=scope)


@dtypes
@pytest.mark.parametrize("scope", ["tensor", "global"])
def test_few_launches_for_many_tensors(launches, scope, dtype):
    sizes = [*random.Random(1).choices([1, 3, 60, 500, 5000], k=298), 30_000, 25_000]
    weights = weights_of([dtype], sizes=sizes)
    plan = ox.prepare(weights, ox.PruningConfig(0.5), scope=scope)
    assert not launches
    plan.run()
    restoring = 1  # one copy on the device
    assert restoring + launches.total() < 12
    assert launches["sample_keys"] == launches["apply"] == 1


@pytest.mark.parametrize(
    ("granularity", "scope"),
    [
        *(("unstructured", scope) for scope in ("tensor", "global")),
        *((units, "tensor") for units in ("row", "column", "2:4")),
    ],
)
@pytest.mark.parametrize("metric", ["l2", "random:3"])
@pytest.mark.parametrize("mask", ["bool", "bits"])
def test_a_run_allocates_nothing(launches, granularity, scope, metric, mask, monkeypatch):
    weights = [normal(size, 4).astype(NARROW[i % 3]) for i, size in enumerate(SIZES)]
    plan = ox.prepare(weights, ox.PruningConfig(0.5, metric, granularity), scope=scope, mask=mask)
    for name in ("empty", "zeros", "ones", "full", "asarray", "array", "copy", "empty_like", "zeros_like"):
        monkeypatch.delattr(np, name)
    plan.run(check=False)
    monkeypatch.undo()
    plan.check()


@pytest.mark.parametrize(
    ("granularity", "scope"),
    [("unstructured", "tensor"), ("unstructured", "global"), ("row", "tensor"), ("2:4", "tensor")],
)
@pytest.mark.parametrize("mask", ["bool", "bits"])
def test_cupy_in_cupy_out(cupy, granularity, scope, mask):
    weights = [normal(4, 6).astype(dtype) for dtype in DTYPES]
    config = ox.PruningConfig(0.5, "l1", granularity)
    ours = [cupy.asarray(weight) for weight in weights]
    result = ox.prepare(ours, config, scope=scope, mask=mask).run()
    expected = ox.prepare(weights, config, scope=scope, mask=mask).run()
    assert {type(array) for array in [*result.masks, result.nonzero]} == {cupy.ndarray}
    check_same([array.get() for array in [*result.masks, result.nonzero]], [*expected.masks, expected.nonzero])
    check_same([array.get() for array in ours], weights)


@pytest.mark.parametrize("granularity", ["unstructured", "row", "column", "2:4"])
def test_nothing_waits_but_the_check(cupy, granularity, monkeypatch):
    config = ox.PruningConfig(0.5, "l1", granularity)
    plan = ox.prepare([cupy.asarray(normal(5, 10)), cupy.asarray(normal(7, 10))], config)
    waits = []
    monkeypatch.setattr(cupy.ndarray, "__int__", lambda array: waits.append(array) or int(array.host))
    plan.run(check=False)
    assert waits == []
    with ox.deferred_checks():
        plan.run()
        assert waits == []
    assert len(waits) == 1
    plan.run()
    assert len(waits) == 2


def test_tensors_on_several_devices_are_refused(cupy):
    with pytest.raises(ox.InvalidOption, match=r"GPU 0.*CPU|CPU.*GPU 0"):
        ox.prepare([normal(3), cupy.asarray(normal(4))], ox.PruningConfig(0.5))
    with pytest.raises(ox.InvalidOption, match=r"GPU 1.*GPU 0"):
        ox.prepare([cupy.asarray(normal(4)), cupy.ndarray(normal(3), 1)], ox.PruningConfig(0.5))


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("granularity", "scope"),
    [
        ("unstructured", "tensor"),
        ("unstructured", "global"),
        *((units, "tensor") for units in ("row", "column", "2:4")),
    ],
)
def test_a_run_can_be_captured_in_a_graph(granularity, scope):
    import cupy

    first = [normal(size, 12).astype(NARROW[size % 2]) for size in (5000, 5, 900)]
    second = [weight[::-1].copy() for weight in first]
    ours = [cupy.asarray(weight) for weight in first]
    config = ox.PruningConfig(0.5, "l2", granularity)
    plan = ox.prepare(ours, config, scope=scope)
    plan.run()  # compiles
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        result = plan.run(check=False)
        graph = stream.end_capture()
    for array, weight in zip(ours, second, strict=True):
        array.set(weight)
    cupy.cuda.runtime.deviceSynchronize()
    graph.launch(stream)
    stream.synchronize()
    plan.check()
    expected = ox.prepare(second, config, scope=scope).run()
    check_same([array.get() for array in ours], second)
    check_same([mask.get() for mask in result.masks], expected.masks)
