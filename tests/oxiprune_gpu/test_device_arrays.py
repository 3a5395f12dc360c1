"""Arrays on a GPU from end to end: what comes in, what goes out, and where. Runs over a CuPy that is none."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

import oxiprune_gpu as ox
from oxiprune_gpu import tensor
from oxiprune_gpu.backends.cuda_tables import METRIC_FUNCTORS
from oxiprune_gpu.device_arrays import import_cupy, on_cuda_device, order_after, order_before
from oxiprune_gpu.metrics import METRICS
from tests import cuda_on_cpu, fake_cupy, oracles

pytestmark = pytest.mark.skipif(bool(cuda_on_cpu.available()), reason=cuda_on_cpu.available() or "-")

CONFIGS = [
    ox.PruningConfig(0.5, "l1", "unstructured"),
    ox.PruningConfig(0.3, "random:7", "unstructured"),
    ox.PruningConfig(0.5, "l2", "row"),
    ox.PruningConfig(0.5, "l1", "column"),
    ox.PruningConfig(granularity="2:4"),
]
HALF = CONFIGS[0]
DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16, np.float64]


@pytest.fixture(autouse=True)
def cupy(monkeypatch: pytest.MonkeyPatch):
    return fake_cupy.installed(monkeypatch)


class Lent:
    """An array of another library on a GPU, lent through DLPack."""

    def __init__(self, on_host: np.ndarray) -> None:
        self.on_host = on_host
        self.dtype = on_host.dtype

    def __dlpack_device__(self):
        return (2, 0)

    def __dlpack__(self, **options):
        raise BufferError("only CuPy can read this")


Lent.__module__ = "another"


class Immutable(Lent):
    """The same of a library whose arrays can't be written."""


Immutable.__module__ = "jaxlib.something"


def normal(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def same(got, expected: np.ndarray) -> bool:
    host = got.get()
    return host.dtype == expected.dtype and host.shape == expected.shape and host.tobytes() == expected.tobytes()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.metric.text} {config.granularity.text}")
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_cupy_in_cupy_out(cupy, config, dtype):
    weight = normal(12, 20, dtype=dtype)
    expected, expected_mask = ox.prune_tensor(weight, config)
    ours = cupy.asarray(weight)
    pruned, mask = ox.prune_tensor(ours, config)
    assert type(pruned) is type(mask) is cupy.ndarray
    assert same(pruned, expected)
    assert same(mask, expected_mask)
    assert same(ours, weight)
    assert same(ox.compute_mask(ours, config), expected_mask)
    assert same(ox.prune_tensor_inplace(ours, config), expected_mask)
    assert same(ours, expected)


@pytest.mark.parametrize("options", [{"allocation": "erk"}, {"floor": 0.25, "ceiling": [1, 0.4]}])
def test_allocations_that_ask_for_shapes(cupy, options):
    weights = [normal(4, 30), normal(20, 20)]
    expected = ox.prune_model(weights, HALF, **options)
    ours = ox.prune_model([cupy.asarray(weight) for weight in weights], HALF, **options)
    for (pruned, mask), (expected_pruned, expected_mask) in zip(ours, expected, strict=True):
        assert same(pruned, expected_pruned)
        assert same(mask, expected_mask)


def test_allocations_that_ask_for_values(cupy):
    with pytest.raises(ox.InvalidOption, match=r"'tensors\[1\]' lies on a GPU: the allocation global:rms reads"):
        ox.prune_model([normal(4), cupy.asarray(normal(5))], HALF, allocation="global:rms")


def test_work_goes_to_the_device_of_the_array(cupy):
    before = fake_cupy.Device.entered
    ox.prune_tensor_inplace(cupy.asarray(normal(5)), HALF)
    assert fake_cupy.Device.entered > before


def test_a_named_weight_stays_named(cupy):
    pruned, _ = ox.prune_tensor(ox.WeightTensor("w", cupy.asarray(normal(6))), HALF)
    assert pruned.name == "w"
    assert type(pruned.data) is cupy.ndarray


def test_views_are_written_back(cupy):
    whole = normal(8, 10)
    ours = cupy.asarray(whole)
    expected = whole.copy()
    mask = ox.prune_tensor_inplace(expected[::2, 1::3], HALF)
    assert same(ox.prune_tensor_inplace(ours[::2, 1::3], HALF), mask)
    assert same(ours, expected)


def test_elements_across_their_boundary_are_pruned_in_a_copy(cupy):
    room = np.zeros(4 * 9 + 1, np.uint8)
    weight = room[1:].view(np.float32)
    weight[:] = normal(9)
    expected, mask = ox.prune_tensor(weight, HALF)
    ours = cupy.asarray(room)[1:].view(np.float32)
    assert same(ox.prune_tensor_inplace(ours, HALF), mask)
    assert same(ours, expected)


def test_models_scores_and_reports(cupy):
    weights = {"a": normal(7, 3), "b": normal(50)}
    ours = {name: cupy.asarray(weight) for name, weight in weights.items()}
    expected, got = ox.prune_model(weights, HALF), ox.prune_model(ours, HALF)
    assert all(same(got[name][0], expected[name][0]) and same(got[name][1], expected[name][1]) for name in weights)
    scores, theirs = ox.compute_importance(ours["a"], "l2"), ox.compute_importance(weights["a"], "l2")
    assert same(scores.scores, theirs.scores)
    assert scores.stats() == theirs.stats()
    assert scores.sparsity() == theirs.sparsity()
    assert scores.top_k(4).tolist() == theirs.top_k(4).tolist()
    assert ox.model_sparsity_report(ours) == ox.model_sparsity_report(weights)


def test_apply_mask(cupy):
    weight, kept = normal(4, 5), np.random.default_rng(1).random((4, 5)) < 0.5
    expected = oracles.zeroed(weight, ~kept)
    ours = cupy.asarray(weight)
    assert same(ox.apply_mask(ours, cupy.asarray(kept)), expected)
    assert same(ox.apply_mask(ours, kept), expected)
    assert ox.apply_mask(ours, kept, out=ours) is ours
    assert same(ours, expected)
    with pytest.raises(ox.InvalidOption, match="lies on a GPU"):
        ox.apply_mask(weight, cupy.asarray(kept))
    with pytest.raises(ox.InvalidOption, match="must be bool"):
        ox.apply_mask(ours, cupy.asarray(kept.astype(np.float32)))


def test_gradients(cupy):
    weight, gradient = normal(30), normal(30, dtype=np.float64)[::-1].copy()
    expected = ox.prune_tensor(weight, ox.PruningConfig(0.5, ox.Taylor(gradient)))
    for given in (gradient, cupy.asarray(gradient)):
        config = ox.PruningConfig(0.5, ox.Taylor(given))
        pruned, mask = ox.prune_tensor(cupy.asarray(weight), config)
        assert same(pruned, expected[0])
        assert same(mask, expected[1])
    with pytest.raises(ox.InvalidOption, match="gradient"):
        ox.prune_tensor(weight, ox.PruningConfig(0.5, ox.Taylor(cupy.asarray(gradient))))


def test_nan_is_refused_and_nothing_written(cupy):
    weight = normal(40)
    weight[7] = np.nan
    ours = cupy.asarray(weight)
    for config in CONFIGS[:2]:
        with pytest.raises(ox.NonFiniteWeight, match="tensor 'array' holds 1 NaN"):
            ox.prune_tensor_inplace(ours, config)
        assert same(ours, weight)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.metric.text} {config.granularity.text}")
def test_checks_put_off_to_the_end(cupy, config):
    """The bad weight stays as it was, those around it are pruned, and its name is in the error."""
    good, bad = normal(8, 12), normal(8, 12)
    bad[3, 4] = np.nan
    expected, _ = ox.prune_tensor(good, config)
    ours = [ox.WeightTensor(name, cupy.asarray(array)) for name, array in (("a", good), ("bad", bad), ("c", good))]

    def prune_all():
        with ox.deferred_checks():
            for weight in ours:
                ox.prune_tensor_inplace(weight, config)
            assert same(ours[2].data, expected)

    with pytest.raises(ox.NonFiniteWeight, match="'bad'"):
        prune_all()
    assert same(ours[0].data, expected)
    assert same(ours[1].data, bad)


def test_an_error_in_the_block_comes_first(cupy):
    bad = cupy.asarray(np.full(9, np.nan, np.float32))

    def fail_inside():
        with ox.deferred_checks():
            ox.prune_tensor_inplace(bad, HALF)
            raise KeyError("mine")

    with pytest.raises(KeyError):
        fail_inside()
    ox.prune_tensor_inplace(cupy.asarray(normal(9)), HALF)  # nothing is left over


def test_other_libraries_come_through_dlpack(cupy):
    weight = normal(20)
    expected, mask = ox.prune_tensor(weight, HALF)
    ours = Lent(weight.copy())
    assert on_cuda_device(ours)
    assert same(ox.prune_tensor_inplace(ours, HALF), mask)
    assert ours.on_host.tobytes() == expected.tobytes()


def test_immutable_arrays_are_not_pruned_in_place(cupy):
    with pytest.raises(ox.ReadOnlyTarget):
        ox.prune_tensor_inplace(Immutable(normal(20)), HALF)


def test_without_cupy_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "cupy", None)
    with pytest.raises(ox.GpuUnavailable, match=r"pip install 'oxiprune-gpu\[gpu\]'"):
        import_cupy()
    with pytest.raises(ox.GpuUnavailable, match="doctor"):
        ox.prune_tensor(Lent(normal(5)), HALF)


def test_out_and_mask_out(cupy):
    weight = normal(6, 7)
    expected, expected_mask = ox.prune_tensor(weight, HALF)
    ours, out, mask_out = cupy.asarray(weight), cupy.empty((6, 7), np.float32), cupy.empty((6, 7), np.bool_)
    pruned, mask = ox.prune_tensor(ours, HALF, out=out, mask_out=mask_out)
    assert pruned is out
    assert mask is mask_out
    assert same(out, expected)
    assert same(mask_out, expected_mask)
    with pytest.raises(ox.InvalidOption, match="lies on the CPU, the weight on GPU 0"):
        ox.prune_tensor(ours, HALF, mask_out=np.empty((6, 7), bool))
    with pytest.raises(ox.InvalidOption, match="shares memory"):
        ox.prune_tensor_inplace(ours, HALF, mask_out=ours.view(np.uint8).view(np.bool_).reshape(-1)[:42].reshape(6, 7))


def test_streams_of_other_libraries_wait_for_what_is_written(cupy, monkeypatch):
    """Also for `out` and `mask_out`, which their library may read on a stream of its own."""
    noted = []
    monkeypatch.setattr(tensor, "order_after", noted.append)
    ours, out, mask_out = cupy.asarray(normal(8)), cupy.empty(8, np.float32), cupy.empty(8, np.bool_)
    ox.prune_tensor(ours, HALF, out=out, mask_out=mask_out)
    ox.compute_mask(ours, HALF, out=mask_out)
    ox.apply_mask(ours, mask_out, out=out)
    ox.prune_tensor_inplace(ours, HALF, mask_out=mask_out)
    for got, expected in zip(noted, [out, mask_out, mask_out, out, ours, mask_out], strict=True):
        assert got is expected


def test_streams_of_torch_are_ordered_both_ways(cupy, monkeypatch):
    """CuPy's default stream is the null stream, which torch's ExternalStream can't stand for: CuPy's must."""

    class Tensor:
        device = "cuda:0"

    streams = SimpleNamespace(current_stream=lambda device: SimpleNamespace(cuda_stream=7))
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(Tensor=Tensor, cuda=streams))
    fake_cupy.waits()
    order_after(Tensor())
    order_before(Tensor())
    assert fake_cupy.waits() == [(7, ("event of", 0)), (0, ("event of", 7))]
    with fake_cupy.Stream(7):
        order_after(Tensor())
    monkeypatch.setattr(fake_cupy.Stream, "capturing", True)
    order_before(Tensor())
    assert fake_cupy.waits() == []


def test_random_units_of_a_weight_with_nan_are_not_written(cupy):
    bad = normal(8, 12)
    bad[3, 4] = np.nan
    ours = cupy.asarray(bad)
    for granularity in ("row", "column"):

        def prune(granularity: str = granularity) -> None:
            with ox.deferred_checks():
                ox.prune_tensor_inplace(ours, ox.PruningConfig(0.5, "random:3", granularity))

        with pytest.raises(ox.NonFiniteWeight):
            prune()
        assert same(ours, bad)


def test_plans_inside_deferred_checks(cupy):
    """What comes after a bad tensor stays as it was; a second run does not lose the first one's error."""
    good, bad = normal(8, 12), normal(8, 12)
    bad[3, 4] = np.nan
    ours = {name: cupy.asarray(array) for name, array in (("a", good), ("bad", bad), ("c", good))}
    rows = ox.prepare(ours, ox.PruningConfig(0.5, "l2", "row"))
    with ox.deferred_checks():
        rows.run(check=False)
    assert same(ours["c"], good)
    with pytest.raises(ox.NonFiniteWeight, match="'bad'"):
        rows.check()
    elements = ox.prepare(ours, HALF)

    def run_twice() -> None:
        with ox.deferred_checks():
            elements.run()
            ours["bad"][3, 4] = 1.0
            elements.run()

    with pytest.raises(ox.NonFiniteWeight, match="'bad'"):
        run_twice()


def test_checks_are_made_on_the_stream_of_their_call(cupy, monkeypatch):
    weight = cupy.asarray(np.full(9, np.nan, np.float32))
    asked = []
    monkeypatch.setattr(fake_cupy.ndarray, "__int__", lambda array: asked.append(fake_cupy.current_stream().ptr) or 0)

    def prune() -> None:
        with ox.deferred_checks(), fake_cupy.Stream(5):
            ox.prune_tensor_inplace(weight, HALF)

    with pytest.raises(ox.NonFiniteWeight):
        prune()
    assert set(asked) == {5}


def test_denormal_numbers_are_not_flushed_on_the_way(cupy):
    weight, other = np.array([2e-40, 1e-40, 3e-40, 4e-40], np.float32), np.ones(4)
    names = {"a": weight, "b": other}
    ours = {name: cupy.asarray(array) for name, array in names.items()}
    config = ox.PruningConfig(0.25)
    theirs = ox.prepare({name: array.copy() for name, array in names.items()}, config, scope="global").run()
    got = ox.prepare(ours, config, scope="global").run()
    assert same(got.masks["a"], theirs.masks["a"])
    for dtype in (np.float64, np.float32, np.float16):
        gradient = np.array([1e-40, 3e-40, 2e-40, 6e-8]).astype(dtype)
        for start in (np.ones(4, np.float32), np.ones(4)):
            expected, _ = ox.prune_tensor(start, ox.PruningConfig(0.5, ox.Taylor(gradient)))
            pruned, _ = ox.prune_tensor(cupy.asarray(start), ox.PruningConfig(0.5, ox.Taylor(cupy.asarray(gradient))))
            assert same(pruned, expected)
    assert ox.compute_importance(cupy.asarray(weight), "l1").sparsity() == 0.0


def test_out_that_is_not_aligned_is_refused(cupy):
    room = cupy.asarray(np.zeros(4 * 9 + 1, np.uint8))
    with pytest.raises(ox.InvalidOption, match="not aligned"):
        ox.prune_tensor(cupy.asarray(normal(9)), HALF, out=room[1:].view(np.float32))


def test_other_libraries_get_bfloat16_back(cupy, monkeypatch):
    lent = Lent(np.arange(8, dtype=np.uint16).view(ml_dtypes.bfloat16))
    monkeypatch.setattr(cupy, "from_dlpack", lambda data: fake_cupy.ndarray(data.on_host))
    pruned, _ = ox.prune_tensor(lent, HALF)
    assert pruned.dtype == ml_dtypes.bfloat16


def test_a_metric_without_kernels_is_refused(cupy):
    class Mine(ox.L1Magnitude):
        name = "mine"

    ours = cupy.asarray(normal(6, 8))
    for granularity in ("unstructured", "row", "2:4"):
        sparsity = None if ":" in granularity else 0.5
        with pytest.raises(ox.InvalidOption, match="metric mine has no kernels for a GPU"):
            ox.prune_tensor_inplace(ours, ox.PruningConfig(sparsity, Mine(), granularity))
    assert set(METRICS.values()) <= set(METRIC_FUNCTORS)
