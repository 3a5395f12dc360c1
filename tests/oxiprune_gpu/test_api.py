"""The public names: what goes in, what comes out, and what every refusal says."""

from __future__ import annotations

import inspect
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

import oxiprune_gpu as ox
from tests import oracles

HALF = ox.PruningConfig(0.5)

NAMES = [
    "Allocation",
    "ArrayBlocks",
    "Axis",
    "BelowMinNonzero",
    "Block",
    "BlockSource",
    "Compressed24",
    "DenormalsFlushed",
    "EmptyTensor",
    "Erk",
    "Global",
    "GpuUnavailable",
    "ImportanceMetric",
    "ImportanceScores",
    "InvalidOption",
    "InvalidSparsity",
    "Kernel",
    "L1Magnitude",
    "L2Magnitude",
    "ModelSparsitySummary",
    "NM",
    "NonFiniteScore",
    "NonFiniteWeight",
    "NotTwoDimensional",
    "NotTwoOfFour",
    "PlanResult",
    "PruneCounts",
    "PrunePlan",
    "PruningConfig",
    "PruningError",
    "PruningGranularity",
    "Random",
    "ReadOnlyTarget",
    "Reconstruction",
    "ScoreStats",
    "ShapeMismatch",
    "SparsityReport",
    "StructuredColumn",
    "StructuredRow",
    "Taylor",
    "TaylorProxy",
    "Uniform",
    "Unstructured",
    "UnsupportedArray",
    "UnsupportedDtype",
    "WeightTensor",
    "__version__",
    "allocate",
    "apply_mask",
    "compress_2_4",
    "compute_importance",
    "compute_mask",
    "count_nonzero_blocks",
    "decompress_2_4",
    "deferred_checks",
    "model_sparsity_report",
    "parse_allocation",
    "parse_granularity",
    "parse_metric",
    "prepare",
    "prune_blocks",
    "prune_model",
    "prune_sparsegpt",
    "prune_wanda",
    "refit",
    "prune_tensor",
    "prune_tensor_inplace",
    "resolve_backend",
    "usable_cupy",
    "score_stats_blocks",
]

DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16, np.float64]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)


class OnlyArray:
    """Something that can only be converted to numpy."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return np.array(self.array, dtype, copy=copy)


class OnlyDLPack:
    """Something that only lends its memory."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class OnAnotherDevice(OnlyDLPack):
    """Something whose memory this machine's processor can't read."""

    def __dlpack__(self, **options):
        raise BufferError("it lies on device 10:0")

    def __dlpack_device__(self):
        return (10, 0)


def normal(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def expected_of(weight: np.ndarray, sparsity: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """(pruned, mask) of unstructured L1 pruning."""
    fallen = oracles.lowest(oracles.element_scores(weight, "l1"), int(sparsity * weight.size)).reshape(weight.shape)
    return oracles.zeroed(weight, fallen), ~fallen


def same(got: np.ndarray, expected: np.ndarray) -> bool:
    return got.dtype == expected.dtype and got.shape == expected.shape and got.tobytes() == expected.tobytes()


def check_both_ways(weight: np.ndarray) -> None:
    """Pruning a copy leaves the weight alone; pruning in place changes it, wherever its elements lie."""
    before = weight.copy()
    pruned, mask = expected_of(weight)
    got, got_mask = ox.prune_tensor(weight, HALF)
    assert same(got, pruned)
    assert same(got_mask, mask)
    assert same(weight, before)
    assert same(ox.compute_mask(weight, HALF), mask)
    assert same(weight, before)
    assert same(ox.prune_tensor_inplace(weight, HALF), mask)
    assert same(weight, pruned)


# Names


def test_the_names_are_these():
    assert sorted(ox.__all__) == sorted(NAMES)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "__version__"])
def test_every_name_is_documented(name):
    thing = getattr(ox, name)
    text = inspect.getdoc(thing)
    assert text
    assert not text.startswith(f"{name}("), "a dataclass without a docstring of its own"
    public = (
        [member for key, member in vars(thing).items() if not key.startswith("_")] if isinstance(thing, type) else []
    )
    assert all(member.__doc__ for member in public if callable(member) or isinstance(member, property | classmethod))


def test_importing_brings_nothing_heavy():
    code = "import oxiprune_gpu, sys; print(*{'cupy', 'onnx', 'onnxruntime', 'torch'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == ""


# Forms


@dtypes
def test_array_in_array_out(dtype):
    check_both_ways(normal(7, 9, dtype=dtype))


def test_weight_tensor_in_weight_tensor_out():
    weight = ox.WeightTensor("w", normal(4, 6))
    pruned, mask = ox.prune_tensor(weight, HALF)
    assert isinstance(pruned, ox.WeightTensor)
    assert pruned.name == "w"
    assert isinstance(mask, np.ndarray)
    assert isinstance(ox.apply_mask(weight, mask), ox.WeightTensor)


def test_weight_tensor_sees_data_in_a_shape():
    weight = ox.WeightTensor("w", np.arange(6, dtype=np.float32), (2, 3))
    assert (weight.shape, weight.size, weight.dtype) == ((2, 3), 6, np.float32)
    assert repr(weight) == "WeightTensor('w', shape=[2, 3])"
    ox.prune_tensor_inplace(weight, ox.PruningConfig(0.5, "l1", "row"))
    assert weight.data.tolist() == [[0, 0, 0], [3, 4, 5]]


@pytest.mark.parametrize("shape", [(5,), (2, 2), (-2, -3), ()])
def test_weight_tensor_refuses_another_shape(shape):
    with pytest.raises(ox.ShapeMismatch, match="'w' does not fit its 6 elements"):
        ox.WeightTensor("w", np.zeros(6, np.float32), shape)


def test_list_in_array_out():
    pruned, mask = ox.prune_tensor([[1.0, -2.0], [0.5, 3.0]], HALF)
    assert pruned.tolist() == [[0, -2], [0, 3]]
    assert mask.tolist() == [[False, True], [False, True]]


def test_float_in():
    assert ox.prune_tensor(3.0, ox.PruningConfig(0.9))[0].tolist() == 3.0
    assert ox.prune_tensor(np.float32(3), ox.PruningConfig(0.9))[0].dtype == np.float32


def test_only_array():
    weight = normal(5, 4)
    pruned, mask = ox.prune_tensor(OnlyArray(weight), HALF)
    assert same(pruned, expected_of(weight)[0])
    assert same(mask, expected_of(weight)[1])


def test_only_dlpack():
    weight = normal(5, 4)
    expected = expected_of(weight)
    assert same(ox.prune_tensor(OnlyDLPack(weight), HALF)[0], expected[0])
    assert same(ox.prune_tensor_inplace(OnlyDLPack(weight), HALF), expected[1])
    assert same(weight, expected[0])


@pytest.mark.parametrize("thing", [None, "text", {1.0: 2.0}, object(), OnAnotherDevice(normal(3))], ids=repr)
def test_no_array_is_refused(thing):
    with pytest.raises(ox.UnsupportedArray, match="can't read tensor 'w'"):
        ox.prune_tensor(ox.WeightTensor("w", thing), HALF)


@pytest.mark.parametrize(
    "dtype", [">f4", ">f8", "int32", "uint8", "bool", "complex64", "float8_e4m3fn", "S4", "object"]
)
def test_other_dtypes_are_refused(dtype):
    weight = ox.WeightTensor("w", np.zeros(4, dtype))
    for call in (ox.prune_tensor, ox.prune_tensor_inplace, ox.compute_mask):
        with pytest.raises(ox.UnsupportedDtype, match=r"^tensor 'w' has dtype .*: supported are float16, bfloat16"):
            call(weight, HALF)


def test_a_list_of_integers_is_refused():
    with pytest.raises(ox.UnsupportedDtype, match="'array' has dtype int64"):
        ox.prune_tensor([1, 2, 3], HALF)


# Layouts

LAYOUTS = {
    "row-major": lambda: normal(8, 6),
    "column-major": lambda: np.asfortranarray(normal(8, 6)),
    "transposed": lambda: normal(8, 6).T,
    "every second": lambda: normal(16, 12)[::2, 1::2],
    "backwards": lambda: normal(8, 6)[::-1, ::-1],
    "axes moved": lambda: np.moveaxis(normal(3, 4, 5), 0, 1),
    "field of a record": lambda: np.rec.fromarrays([normal(9), normal(9)], names="a,b")["a"],
    "packed field": lambda: np.zeros(9, [("pad", "u1"), ("a", "f4")])["a"],
    "scalar": lambda: normal(1).reshape(()),
    "one": lambda: normal(1),
    "many axes": lambda: normal(2, 1, 3, 1, 4),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    check_both_ways(LAYOUTS[layout]())


@pytest.mark.parametrize("granularity", ["row", "column"])
def test_units_of_a_view_are_units_of_what_it_shows(granularity):
    config = ox.PruningConfig(0.5, "l2", granularity)
    view = normal(12, 10)[::2, ::-1].T
    assert same(ox.compute_mask(view, config), ox.compute_mask(view.copy(order="C"), config))


def test_only_the_view_changes():
    whole = normal(8, 8)
    before = whole.copy()
    ox.prune_tensor_inplace(whole[::2], HALF)
    assert same(whole[1::2], before[1::2])


def test_read_only():
    weight = normal(5)
    weight.flags.writeable = False
    assert same(ox.prune_tensor(weight, HALF)[0], expected_of(weight)[0])
    check_read_only(weight, "the array is read-only")


def test_broadcast():
    weight = np.broadcast_to(normal(3), (2, 3))
    assert same(ox.prune_tensor(weight, HALF)[0], expected_of(weight)[0])
    row = normal(3)
    check_read_only(np.lib.stride_tricks.as_strided(row, (2, 3), (0, 4)), "share one place in memory")


@pytest.mark.parametrize("weight", [[1.0, 2.0], 1.0, OnlyArray(normal(4))], ids=["list", "float", "only __array__"])
def test_what_is_converted_is_not_changed_in_place(weight):
    check_read_only(weight, "read-only|no array")


def check_read_only(weight, why: str) -> None:
    with pytest.raises(ox.ReadOnlyTarget, match=why):
        ox.prune_tensor_inplace(weight, HALF)
    with pytest.raises(ox.ReadOnlyTarget, match="use prune_tensor, which returns a new array"):
        ox.prune_model([weight], HALF, inplace=True)


@pytest.mark.parametrize("kind", [np.matrix, np.ma.MaskedArray, np.memmap, np.recarray])
def test_subclasses_are_pruned_or_refused(kind):
    """A subclass may mean something else by its methods. What must not happen is anything but these two."""
    weight = normal(4, 6)
    try:
        pruned, mask = ox.prune_tensor(weight.view(kind), HALF)
    except ox.PruningError:
        return
    assert same(np.asarray(pruned), expected_of(weight)[0])
    assert same(np.asarray(mask), expected_of(weight)[1])


def test_windows_that_overlap_are_not_pruned_in_place():
    """Zeroing an element of one window would zero elements of others that are to be kept."""
    windows = np.lib.stride_tricks.sliding_window_view(normal(9), 3, writeable=True)
    before = windows.copy()
    check_read_only(windows, "share one place in memory")
    assert same(windows.copy(), before)


# prune_model


def test_model_as_list():
    weights = [normal(4), ox.WeightTensor("w", normal(5))]
    (first, _), (second, _) = ox.prune_model(weights, HALF)
    assert same(first, expected_of(weights[0])[0])
    assert same(second.data, expected_of(weights[1].data)[0])


def test_model_as_mapping():
    weights = {"a": normal(4), "b": normal(5)}
    pruned = ox.prune_model(weights, HALF)
    assert list(pruned) == ["a", "b"]
    assert same(pruned["b"][0], expected_of(weights["b"])[0])
    assert same(pruned["b"][1], expected_of(weights["b"])[1])


def test_model_in_place():
    weights = {"a": normal(4), "b": np.asfortranarray(normal(5, 3))}
    expected = {name: expected_of(weight) for name, weight in weights.items()}
    pruned = ox.prune_model(weights, HALF, inplace=True)
    for name, weight in weights.items():
        assert pruned[name][0] is weight
        assert same(weight, expected[name][0])
        assert same(pruned[name][1], expected[name][1])


def test_model_stops_at_the_first_error():
    weights = {"good": normal(4), "bad": np.full(4, np.nan, np.float32), "later": normal(5)}
    before = weights["later"].copy()
    expected = expected_of(weights["good"])[0]
    with pytest.raises(ox.NonFiniteWeight, match="'bad' holds 4 NaN"):
        ox.prune_model(weights, HALF, inplace=True)
    assert same(weights["good"], expected)
    assert same(weights["later"], before)


def test_model_names_arrays_by_their_place():
    with pytest.raises(ox.EmptyTensor, match=r"empty tensor: 'tensors\[1\]'"):
        ox.prune_model([normal(4), normal(0)], HALF)


def test_random_starts_anew_for_each_weight():
    (_, first), (_, second) = ox.prune_model([normal(50), np.ones(50)], ox.PruningConfig(0.5, "random:7"))
    assert same(first, second)


# Config


def test_config_from_text():
    config = ox.PruningConfig(0.25, "random:42", "axis:-2", 3)
    assert config == ox.PruningConfig(0.25, ox.Random(42), ox.Axis(-2), 3)
    assert (config.metric.text, config.granularity.text) == ("random:42", "axis:-2")


@pytest.mark.parametrize(
    ("text", "metric"),
    [("l1", ox.L1Magnitude()), ("l2", ox.L2Magnitude()), ("taylor", ox.TaylorProxy()), ("random:0", ox.Random(0))],
)
def test_metric_texts(text, metric):
    assert ox.PruningConfig(0.5, text).metric == metric
    assert metric.text == text


@pytest.mark.parametrize(
    ("text", "granularity"),
    [("unstructured", ox.Unstructured()), ("row", ox.StructuredRow()), ("column", ox.StructuredColumn())],
)
def test_granularity_texts(text, granularity):
    assert ox.PruningConfig(0.5, "l1", text).granularity == granularity
    assert granularity.text == text


def test_defaults():
    assert ox.PruningConfig(0.5) == ox.PruningConfig(0.5, "l1", "unstructured", 1)
    assert ox.PruningConfig.unstructured_l1(0.5) == ox.PruningConfig(0.5)
    assert ox.PruningConfig.structured_row_l2(0.5) == ox.PruningConfig(0.5, "l2", "row")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("l3",), "unknown metric 'l3': use one of l1, l2, taylor, random:SEED"),
        (("L1",), "unknown metric 'L1'"),
        (("",), "unknown metric ''"),
        (("l1:2",), "metric 'l1' takes no argument, got '2'"),
        (("l1:",), "metric 'l1' takes no argument, got ''"),
        (("random",), "metric random needs a seed, as in random:42; got ''"),
        (("random:",), "metric random needs a seed"),
        (("random:x",), "got 'x'"),
        (("random:-1",), "got '-1'"),
        (("random:1.5",), "got '1.5'"),
        (("random:18446744073709551616",), "seed 18446744073709551616 of metric random must be in [0, 2**64)"),
        ((1,), "metric must be text or an ImportanceMetric, not int"),
        ((ox.L1Magnitude,), "metric must be text or an ImportanceMetric, not"),
        (("l1", "rows"), "unknown granularity 'rows': use one of unstructured, row, column, axis:N"),
        (("l1", "row:1"), "granularity 'row' takes no argument, got '1'"),
        (("l1", "axis"), "granularity axis needs a number, as in axis:0; got ''"),
        (("l1", "axis:x"), "got 'x'"),
        (("l1", 0), "granularity must be text or a PruningGranularity, not int"),
        (("l1", "row", -1), "min_nonzero -1 must be an integer, 0 or more"),
        (("l1", "row", 1.5), "min_nonzero 1.5 must be"),
        (("l1", "row", "1"), "min_nonzero '1' must be"),
    ],
    ids=str,
)
def test_invalid_options(arguments, text):
    with pytest.raises(ox.InvalidOption) as caught:
        ox.PruningConfig(0.5, *arguments)
    assert text in str(caught.value)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "3", None], ids=repr)
def test_invalid_seeds(seed):
    with pytest.raises(ox.InvalidOption, match="seed"):
        ox.Random(seed)


@pytest.mark.parametrize("kind", [np.int8, np.int64, np.uint64])
def test_seeds_of_numpy(kind):
    weight = normal(50)
    mask = ox.compute_mask(weight, ox.PruningConfig(0.5, ox.Random(kind(3))))
    assert same(mask, ox.compute_mask(weight, ox.PruningConfig(0.5, "random:3")))


@pytest.mark.parametrize(
    ("sparsity", "text"),
    [
        (1.0, "1"),
        (1.5, "1.5"),
        (-0.1, "-0.1"),
        (-1e-300, "-0"),
        (np.nextafter(1.0, 0.0), "1"),
        (1e300, "inf"),
        (-np.inf, "-inf"),
        (np.nan, "NaN"),
        (np.float16(2), "2"),
    ],
)
def test_sparsity_out_of_range(sparsity, text):
    config, weight = ox.PruningConfig(sparsity), normal(4)
    for call in (config.check, lambda: ox.prune_tensor(weight, config), lambda: ox.compute_mask(weight, config)):
        with pytest.raises(ox.InvalidSparsity) as caught:
            call()
        assert str(caught.value) == f"sparsity {text} must be in [0.0, 1.0)"


@pytest.mark.parametrize("sparsity", ["abc", "0.5", None, True, 0.5j, [0.5], np.array([0.5])], ids=repr)
def test_sparsity_that_is_no_number(sparsity):
    with pytest.raises(ox.InvalidSparsity, match=r"must be in \[0.0, 1.0\)"):
        ox.PruningConfig(sparsity)


@pytest.mark.parametrize("sparsity", [0, -0.0, np.float64(0.5), np.float32(0.999), 1e-300])
def test_sparsity_in_range(sparsity):
    ox.PruningConfig(sparsity).check()


# Errors


@pytest.mark.parametrize(
    ("weight", "config", "error", "text"),
    [
        (normal(0), HALF, ox.EmptyTensor, "empty tensor: 'w'"),
        (normal(3, 0, 2), HALF, ox.EmptyTensor, "empty tensor: 'w'"),
        (normal(0), ox.PruningConfig(2.0), ox.InvalidSparsity, "sparsity 2 must be in [0.0, 1.0)"),
        (
            normal(0),
            ox.PruningConfig(0.5, "l1", "row"),
            ox.EmptyTensor,
            "empty tensor: 'w'",
        ),
        (
            normal(2, 3, 4),
            ox.PruningConfig(0.5, "l1", "row", 99),
            ox.NotTwoDimensional,
            "structured pruning requires 2D tensor, got shape [2, 3, 4]",
        ),
        (
            np.full(4, np.nan, np.float32),
            ox.PruningConfig(0.0, "l1", "unstructured", 5),
            ox.BelowMinNonzero,
            "cannot prune below min_nonzero=5 with 4 total elements",
        ),
        (
            np.full((2, 2), np.nan, np.float32),
            ox.PruningConfig(0.0, "random:1", "row"),
            ox.NonFiniteWeight,
            "weight of tensor 'w' holds 4 NaN: NaN has no importance; repair the model or leave this tensor out",
        ),
        (
            normal(4),
            ox.PruningConfig(0.5, ox.Taylor(np.array([1, 2, np.nan, 3]))),
            ox.NonFiniteWeight,
            "gradient of tensor 'w' holds 1 NaN: NaN has no importance; repair the model or leave this tensor out",
        ),
        (
            np.array([np.inf, 1, 2, 3]),
            ox.PruningConfig(0.5, ox.Taylor(np.zeros(4))),
            ox.NonFiniteScore,
            "1 scores of tensor 'w' are NaN (infinity times zero): clip the weight or the gradient, "
            "or use another metric",
        ),
        (
            normal(4),
            ox.PruningConfig(0.5, ox.Taylor(np.zeros((2, 2)))),
            ox.ShapeMismatch,
            "gradient of tensor 'w' has shape [2, 2], the weight [4]: they must be equal",
        ),
        (
            normal(4, 5),
            ox.PruningConfig(0.5, "l1", "axis:2"),
            ox.ShapeMismatch,
            "axis 2 does not exist in shape [4, 5]",
        ),
        (
            normal(4, 5),
            ox.PruningConfig(0.5, "l1", ox.Axis(1, groups=3)),
            ox.ShapeMismatch,
            "axis 1 of shape [4, 5] can't have 3 groups",
        ),
        (
            normal(4, 5),
            ox.PruningConfig(0.5, "l1", ox.Axis(0, groups=2)),
            ox.ShapeMismatch,
            "axis 0 of shape [4, 5] can't have 2 groups",
        ),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_errors(weight, config, error, text):
    before = weight.copy()
    for call in (ox.prune_tensor, ox.prune_tensor_inplace, ox.compute_mask):
        with pytest.raises(error) as caught:
            call(ox.WeightTensor("w", weight), config)
        assert str(caught.value) == text
        assert isinstance(caught.value, ox.PruningError)
        assert same(weight, before)


# The other verbs


@dtypes
def test_apply_mask(dtype):
    weight = np.array([[-0.0, 1, -np.inf], [np.nan, 2, 3]]).astype(dtype)
    mask = np.array([[True, False, False], [True, True, False]])
    expected = oracles.zeroed(weight, ~mask)
    assert same(ox.apply_mask(weight, mask), expected)
    assert same(ox.apply_mask(weight, mask.astype(np.float32).tolist()), expected)
    assert same(ox.apply_mask(np.asfortranarray(weight), np.asfortranarray(mask)), expected)


def test_apply_mask_undoes_nothing():
    weight, config = normal(30), HALF
    pruned, mask = ox.prune_tensor(weight, config)
    assert same(ox.apply_mask(weight, mask), pruned)


@pytest.mark.parametrize("shape", [(3, 2), (6,), (2, 1), (3,), ()])
def test_apply_mask_of_another_shape(shape):
    with pytest.raises(ox.ShapeMismatch, match=r"mask of tensor 'array' has shape .* the weight \[2, 3\]"):
        ox.apply_mask(normal(2, 3), np.ones(shape, bool))


@pytest.mark.parametrize(
    ("granularity", "min_nonzero", "kept"),
    [
        ("unstructured", 0, 3),
        ("unstructured", 7, 7),
        ("unstructured", 24, 24),
        ("row", 1, 6),
        ("row", 7, 12),
        ("row", 13, 18),
        ("column", 5, 8),
        ("column", 24, 24),
    ],
)
def test_min_nonzero(granularity, min_nonzero, kept):
    """0.9 of 24 elements, 4 rows of 6, 6 columns of 4: whole units stay."""
    mask = ox.compute_mask(normal(4, 6), ox.PruningConfig(0.9, "l1", granularity, min_nonzero))
    assert mask.sum() == kept


@pytest.mark.parametrize(("axis", "groups"), [(0, 1), (1, 1), (-1, 1), (2, 1), (1, 2), (1, 6), (2, 3), (3, 2), (-3, 3)])
@pytest.mark.parametrize("metric", ["l1", "l2", "taylor", "random:5"])
def test_axis_with_groups(axis, groups, metric):
    weight = normal(6, 4, 3, 2)
    units = oracles.axis_units(weight.shape, axis, groups)
    fallen = oracles.fallen_units(weight.size, units, oracles.unit_scores(weight, units, metric), len(units) // 2)
    pruned, mask = ox.prune_tensor(weight, ox.PruningConfig(0.5, metric, ox.Axis(axis, groups)))
    assert np.array_equal(~mask.reshape(-1), fallen)
    assert same(pruned, oracles.zeroed(weight, fallen))


def test_gradient_metric():
    weight, gradient = np.array([1.0, -2.0, 3.0, 4.0]), np.array([4.0, 3.0, -2.0, 0.5], np.float32)
    scores = ox.compute_importance(weight, ox.Taylor(gradient)).scores
    assert scores.tolist() == [4, 6, 6, 2]
    mask = ox.compute_mask(weight, ox.PruningConfig(0.75, ox.Taylor(gradient.tolist())))
    assert mask.tolist() == [False, False, True, False]


@pytest.mark.parametrize("ragged", [[[1.0], [1.0, 2.0]], ["a", "b"]], ids=["ragged", "text"])
def test_gradients_that_are_no_arrays(ragged):
    with pytest.raises(ox.PruningError):
        ox.compute_mask(normal(2), ox.PruningConfig(0.5, ox.Taylor(ragged)))


def test_importance_scores():
    scores = ox.compute_importance(np.array([[3.0, -1.0], [0.0, 2.0]], np.float32), "l1")
    assert (scores.scores.shape, scores.scores.dtype, scores.threshold) == ((2, 2), np.float32, 0.0)
    assert scores.sparsity() == 0.25
    scores.threshold = 2.0
    assert scores.sparsity() == 0.75
    assert scores.top_k(3).tolist() == [3, 2, 1]
    assert scores.top_k(-1).size == 0
    assert scores.top_k(99).size == 4
    assert scores.stats() == ox.ScoreStats(0.0, 3.0, 1.5, 1.5, float(np.float32(np.sqrt(1.25))))


@pytest.mark.parametrize("metric", ["l1", "l2", "random:1"])
def test_importance_of_nothing(metric):
    scores = ox.compute_importance(np.empty((0, 3), np.float32), metric)
    assert scores.scores.shape == (0, 3)
    assert scores.sparsity() == 0
    assert scores.stats() == ox.ScoreStats(0, 0, 0, 0, 0)


@dtypes
def test_reports(dtype):
    weight = np.array([[0.0, -0.0, 1.0], [2.0, np.nan, 0.0]]).astype(dtype)
    report = ox.SparsityReport.compute(ox.WeightTensor("w", weight))
    assert (report.total_params, report.nonzero_params, report.shape) == (6, 3, (2, 3))
    assert (report.sparsity, report.zero_fraction, report.density) == (0.5, 0.5, 0.5)
    assert report.summary() == "tensor='w' shape=[2, 3] total=6 nonzero=3 sparsity=0.5000"
    model = ox.model_sparsity_report([weight, np.zeros(2, dtype)])
    assert model == ox.ModelSparsitySummary.from_model([weight, np.zeros(2, dtype)])
    assert model.summary() == "layers=2 total_params=8 total_nonzero=3 overall_sparsity=0.6250"


def test_reports_of_nothing():
    report = ox.SparsityReport.compute(normal(0, 3))
    assert (report.sparsity, report.density, report.total_params) == (0.0, 1.0, 0)
    assert ox.model_sparsity_report([]).overall_sparsity == 0


# Other libraries


def test_torch():
    torch = pytest.importorskip("torch")
    weight = torch.from_numpy(normal(6, 4))
    expected, mask = expected_of(weight.numpy())
    pruned, got = ox.prune_tensor(weight, HALF)
    assert isinstance(pruned, torch.Tensor)
    assert isinstance(got, torch.Tensor)
    assert same(pruned.numpy(), expected)
    assert same(got.numpy(), mask)
    assert same(ox.prune_tensor_inplace(weight, HALF).numpy(), mask)
    assert same(weight.numpy(), expected)


def test_torch_bfloat16():
    torch = pytest.importorskip("torch")
    weight = torch.from_numpy(normal(40)).to(torch.bfloat16)
    expected, mask = expected_of(weight.view(torch.int16).numpy().view(ml_dtypes.bfloat16))
    pruned, got = ox.prune_tensor(weight, HALF)
    assert pruned.dtype == torch.bfloat16
    assert same(got.numpy(), mask)
    ox.prune_tensor_inplace(weight, HALF)
    for result in (weight, pruned):
        assert same(result.view(torch.int16).numpy(), expected.view(np.int16))


def test_torch_that_needs_a_gradient():
    torch = pytest.importorskip("torch")
    layer = torch.nn.Linear(6, 4)
    expected, _ = expected_of(layer.weight.detach().numpy().copy())
    ox.prune_tensor_inplace(layer.weight, HALF)
    assert same(layer.weight.detach().numpy(), expected)
    assert layer.weight.requires_grad


def test_torch_views():
    torch = pytest.importorskip("torch")
    weight = torch.from_numpy(normal(6, 4)).T
    expected, _ = expected_of(weight.numpy())
    ox.prune_tensor_inplace(weight, HALF)
    assert same(weight.numpy().copy(order="C"), expected)


def test_torch_knows_what_was_written():
    torch = pytest.importorskip("torch")
    weight, out, mask = torch.from_numpy(normal(6)), torch.empty(6), torch.empty(6, dtype=torch.bool)
    ox.prune_tensor(weight, HALF, out=out, mask_out=mask)
    assert (weight._version, out._version, mask._version) == (0, 1, 1)
    ox.apply_mask(weight, mask, out=weight)
    assert weight._version == 1


def test_torch_gradient():
    torch = pytest.importorskip("torch")
    weight, gradient = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([9.0, 1.0, 1.0])
    mask = ox.compute_mask(weight, ox.PruningConfig(0.7, ox.Taylor(gradient)))
    assert mask.tolist() == [True, False, False]


def test_torch_integers_are_refused():
    torch = pytest.importorskip("torch")
    with pytest.raises(ox.UnsupportedDtype, match="int64"):
        ox.prune_tensor(torch.arange(4), HALF)


# A count in place of the sparsity


@pytest.mark.parametrize(
    ("granularity", "min_nonzero", "count", "falls"),
    [
        ("unstructured", 1, 0, 0),
        ("unstructured", 1, 7, 7),
        ("unstructured", 0, 24, 24),
        ("unstructured", 1, 24, 23),
        ("row", 1, 3, 18),
        ("row", 7, 4, 12),
        ("axis:1", 0, 6, 24),
    ],
)
def test_so_many_units_fall(granularity, min_nonzero, count, falls):
    weight = normal(4, 6)
    config = ox.PruningConfig(0.1, "l1", granularity, min_nonzero)
    expected = ox.prune_tensor(weight, ox.PruningConfig(falls / 24, "l1", granularity, 0))[0] if falls < 24 else 0
    counts = ox.prune_blocks(ox.ArrayBlocks(weight), config, count=count)
    assert counts.pruned == falls
    assert np.array_equal(weight, np.broadcast_to(expected, weight.shape))


@pytest.mark.parametrize("count", [-1, 25, 2.0, True, "3"])
def test_a_count_that_can_not_be(count):
    with pytest.raises(ox.InvalidOption) as caught:
        ox.prune_blocks(ox.ArrayBlocks(normal(4, 6)), HALF, "fc", count=count)
    assert str(caught.value) == (f"tensor 'fc' has 24 units: count {count!r} must be a whole number from 0 to that")


def test_groups_have_no_count():
    with pytest.raises(ox.InvalidOption, match="count 4 of tensor 'fc': granularity 2:4 says it itself"):
        ox.prune_blocks(ox.ArrayBlocks(normal(4, 4)), ox.PruningConfig(granularity="2:4"), "fc", count=4)
