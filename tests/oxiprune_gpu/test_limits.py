"""What must stay within bounds: memory, work after an error, settings of the processor; and what is refused early."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

import oxiprune_gpu as ox
from oxiprune_gpu.backends import scored
from oxiprune_gpu.backends.parallel import over_spans

HALF = ox.PruningConfig(0.5, "l2")
MIB = 1 << 20


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def peak(function: Any) -> int:
    """Most bytes allocated at once while `function` runs."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("shape", "granularity"),
    [
        ((1 << 20,), "axis:0"),
        ((1 << 18, 1), "row"),
        ((1 << 18, 8), "row"),
        ((4, 1 << 19), "column"),
        ((1 << 19, 2, 2), "axis:1"),
        ((50, 20000, 2), "axis:1"),
    ],
)
def test_many_short_units_need_little_memory(shape, granularity):
    """Not the 128 lanes of a long unit for each of them: that would be a gigabyte."""
    source = ox.ArrayBlocks(normal(*shape))
    assert peak(lambda: ox.prune_blocks(source, ox.PruningConfig(0.5, "l2", granularity))) < 40 * MIB


@pytest.mark.parametrize(("kind", "limit"), [("normal", 2.2), ("alike in rows", 3.0), ("few distinct", 2.2)])
def test_extra_memory_of_unstructured_pruning(monkeypatch, kind, limit):
    """Bytes an element, one of them the mask's; the fixed part weighs half a byte here, less in larger weights."""
    monkeypatch.setenv("OXIPRUNE_NUM_THREADS", "2")
    weight = normal(1 << 24)
    if kind == "alike in rows":
        weight *= np.repeat(np.exp(2 * normal(1 << 14)), 1 << 10)
    if kind == "few distinct":
        weight = np.round(weight)
    assert peak(lambda: ox.prune_tensor_inplace(weight, ox.PruningConfig(0.5))) < limit * weight.size


def test_a_misleading_sample_stays_small(monkeypatch):
    """Whatever the sample says, what is collected is bounded."""
    monkeypatch.setattr(
        "oxiprune_gpu.backends.threshold.sample_keys", lambda weight, size: np.full((1000, 32), 0x7F000000, np.uint32)
    )
    weight = normal(1 << 23)
    kept = np.abs(weight) > np.partition(np.abs(weight), weight.size // 2 - 1)[weight.size // 2 - 1]
    masks = []
    used = peak(lambda: masks.append(ox.prune_tensor_inplace(weight, ox.PruningConfig(0.5))))
    assert np.array_equal(masks[0], kept)
    assert used < 6 * weight.size


@pytest.mark.parametrize("method", ["global", "global:rms", "global:lamp"])
@pytest.mark.parametrize("kind", ["normal", "few distinct", "zeros"])
def test_an_allocation_holds_no_weights(monkeypatch, method, kind):
    monkeypatch.setenv("OXIPRUNE_NUM_THREADS", "2")
    weights = [normal(1 << 20) * {"normal": n + 1, "few distinct": 1, "zeros": 0}[kind] for n in range(8)]
    weights = [np.round(weight) if kind == "few distinct" else weight for weight in weights]
    sources = [ox.ArrayBlocks(weight) for weight in weights]
    assert peak(lambda: ox.allocate(sources, ox.PruningConfig(0.5), method)) < 48 * MIB


def test_nothing_is_begun_after_an_error(monkeypatch):
    monkeypatch.setenv("OXIPRUNE_NUM_THREADS", "2")
    begun = []

    def work(span: tuple[int, int]) -> None:
        begun.append(span)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        over_spans(lambda: work, [(i, i + 1) for i in range(100)])
    assert len(begun) <= 2


def test_flushed_denormals_are_refused(monkeypatch):
    monkeypatch.setattr(scored, "_TINY", np.float32(0))
    weight = normal(100)
    before = weight.copy()
    with pytest.raises(ox.DenormalsFlushed, match=r"'array'.*set_flush_denormal"):
        ox.prune_tensor_inplace(weight, HALF)
    assert np.array_equal(weight, before)


class Unread(ox.BlockSource):
    """A source that must not be read."""

    shape = (4, 4)
    dtype = np.dtype(np.float32)

    def load(self, start: int, stop: int, scratch: np.ndarray) -> np.ndarray:
        raise AssertionError("read")

    def store(self, start: int, block: np.ndarray) -> None:
        raise AssertionError("written")


@pytest.mark.parametrize("config", [ox.PruningConfig(1.5), ox.PruningConfig(0.5, min_nonzero=17), 0.5])
def test_blocks_are_not_read_for_a_wrong_config(config):
    with pytest.raises(ox.PruningError):
        ox.prune_blocks(Unread(), config)


def read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (lambda: ox.ArrayBlocks(np.zeros(10, np.int32)), ox.UnsupportedDtype),
        (lambda: ox.ArrayBlocks(np.zeros(10, ">f4")), ox.UnsupportedDtype),
        (lambda: ox.ArrayBlocks(read_only(normal(10))), ox.ReadOnlyTarget),
        (lambda: ox.ArrayBlocks(normal(10)[::2]), ox.UnsupportedArray),
        (lambda: normal(10), ox.UnsupportedArray),
    ],
)
def test_blocks_that_cannot_be_pruned(source, error):
    with pytest.raises(error):
        ox.prune_blocks(source(), HALF)


@pytest.mark.parametrize("single", [normal(3, 3), ox.WeightTensor("w", normal(3, 3))])
@pytest.mark.parametrize("verb", [lambda t: ox.prune_model(t, HALF), ox.model_sparsity_report])
def test_one_tensor_where_several_are_wanted(verb, single):
    with pytest.raises(ox.InvalidOption, match="put it in a list"):
        verb(single)


def test_errors_of_the_reference_have_a_note_with_the_name():
    with pytest.raises(ox.NotTwoDimensional) as caught:
        ox.prune_model({"a": normal(3, 3), "b": normal(3)}, ox.PruningConfig(0.5, "l2", "row"))
    assert caught.value.__notes__ == ["tensor 'b'"]


def test_reports_of_a_mapping_have_its_names():
    report = ox.model_sparsity_report({"a": normal(3), "b": np.zeros(2, np.float32)})
    assert [layer.name for layer in report.layers] == ["a", "b"]


def test_axis_text_holds_its_groups():
    assert ox.Axis(1, 4).text == "axis:1/4"
    assert ox.PruningConfig(0.5, "l1", "axis:1/4").granularity == ox.Axis(1, 4)


def test_a_gradient_of_another_layout():
    weight, gradient = normal(40, 30), normal(40, 30) ** 2
    expected = ox.compute_mask(weight, ox.PruningConfig(0.5, ox.Taylor(gradient)))
    found = ox.compute_mask(weight, ox.PruningConfig(0.5, ox.Taylor(np.asfortranarray(gradient))))
    assert np.array_equal(found, expected)


def test_gradients_and_masks_of_torch():
    torch = pytest.importorskip("torch")
    weight = torch.from_numpy(normal(20, 20)).to(torch.bfloat16)
    gradient = torch.ones(20, 20, dtype=torch.bfloat16, requires_grad=True)
    pruned, mask = ox.prune_tensor(weight, ox.PruningConfig(0.5, ox.Taylor(gradient)))
    assert int(mask.sum()) == 200
    assert torch.equal(ox.apply_mask(weight, mask.to(torch.bfloat16)), pruned)
