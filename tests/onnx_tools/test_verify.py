"""Tests of the byte comparison and of verify_files: what passes, and every kind of damage that must not."""

from __future__ import annotations

import contextlib
import math
import os
import pathlib
import random
import subprocess
import sys
from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_tools.errors import InvalidExternalData, InvalidModelFile, OnnxToolsError
from onnx_tools.model_copy import ModelCopy
from onnx_tools.model_file import ModelFile, iter_tensors, tensor_at
from onnx_tools.report import VerificationReport
from onnx_tools.verification.byte_check import ByteComparison, compare_bytes
from onnx_tools.verify import bytes_check, verify_files
from onnx_tools.wire import Path
from oxiprune_gpu.errors import InvalidOption, PruningError
from tests.storages import STORAGES

WEIGHT: Path = (("graph", 0), ("initializer", 1))
BIAS: Path = (("graph", 0), ("initializer", 0))


def saved(path: pathlib.Path, model: onnx.ModelProto) -> pathlib.Path:
    path.write_bytes(model.SerializeToString())
    return path


def compare(
    folder: pathlib.Path, model: onnx.ModelProto, change: Callable[[onnx.ModelProto], object], **options: object
) -> ByteComparison:
    """Compare the model with a changed copy of it."""
    after = onnx.ModelProto()
    after.CopyFrom(model)
    change(after)
    return compare_bytes(saved(folder / "before.onnx", model), saved(folder / "after.onnx", after), **options)


def stored(array: NDArray[np.generic], field: str = "raw_data") -> onnx.ModelProto:
    """A model with the initializer `w`, its values in `field`."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) {y = Neg(x)}'
    )
    tensor = numpy_helper.from_array(array, "w")
    if field != "raw_data":
        tensor.ClearField("raw_data")
        values = array.view(np.uint16).astype(np.int32) if field == "int32_data" else array
        getattr(tensor, field).extend(values.ravel().tolist())
    model.graph.initializer.append(tensor)
    return model


def values(dtype: object, count: int = 300) -> NDArray[np.generic]:
    return (np.arange(count) + 1).astype(dtype)


def put(array: NDArray[np.generic], index: int, value: float, field: str = "raw_data") -> Callable[..., object]:
    def change(model: onnx.ModelProto) -> None:
        new = array.copy()
        new[index] = value
        model.graph.initializer[0].CopyFrom(stored(new, field).graph.initializer[0])

    return change


@pytest.mark.parametrize(("dtype", "field"), STORAGES)
@pytest.mark.parametrize("count", [5, 300], ids=["in the skeleton", "a payload"])
def test_new_zeros_are_counted_and_nothing_else_passes(
    tmp_path: pathlib.Path, dtype: object, field: str, count: int
) -> None:
    array = values(dtype, count)
    model = stored(array, field)

    good = compare(tmp_path, model, put(array, 3, 0.0, field))
    assert not good.violations
    assert [(tensor.name, tensor.newly_zero) for tensor in good.zeroed] == [("w", 1)]

    for value, shown in ((-0.0, "-0"), (9.0, "9"), (float("nan"), "nan")):
        bad = compare(tmp_path, model, put(array, 3, value, field))
        assert [(v.where, v.index) for v in bad.violations] == [("tensor 'w'", 3)]
        assert bad.violations[0].after.startswith(shown)
        assert bad.violations[0].before.startswith("4")
        assert not bad.zeroed


@pytest.mark.parametrize(("dtype", "field"), STORAGES)
@pytest.mark.parametrize("count", [5, 300], ids=["in the skeleton", "a payload"])
def test_zeros_that_lose_their_sign_are_counted_apart(
    tmp_path: pathlib.Path, dtype: object, field: str, count: int
) -> None:
    array = values(dtype, count)
    array[1:3] = -0.0
    model, after = stored(array, field), array.copy()
    after[1:4] = 0.0
    found = compare(tmp_path, model, lambda m: m.CopyFrom(stored(after, field)))
    assert not found.violations
    assert [(tensor.newly_zero, tensor.signs) for tensor in found.zeroed] == [(1, 2)]
    text = bytes_check(found).detail
    assert text == "1 values in 1 tensors are newly zero and 2 negative zeros became +0.0, every other byte is equal"
    after[3] = array[3]
    found = compare(tmp_path, model, lambda m: m.CopyFrom(stored(after, field)))
    assert bytes_check(found).detail.startswith("0 values in 0 tensors are newly zero and 2 negative zeros")


def test_the_first_bad_element_of_a_large_tensor_is_named(tmp_path: pathlib.Path) -> None:
    array = values(np.float32, 900_001)
    changed = array.copy()
    changed[::2] = 0
    for index in (700_001, 800_001):
        changed[index] = -1
    found = compare(tmp_path, stored(array), lambda m: m.CopyFrom(stored(changed)))
    assert [(v.index, v.before, v.after) for v in found.violations] == [(700_001, "700002.0", "-1.0")]
    assert found.newly_zero == 450_001


@pytest.mark.parametrize("count", [5, 300])
@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.int32, ml_dtypes.float8_e4m3fn, np.bool_])
def test_other_types_must_be_equal(tmp_path: pathlib.Path, dtype: object, count: int) -> None:
    array = np.ones(count).astype(dtype)
    assert not compare(tmp_path, stored(array), lambda m: None).violations
    found = compare(tmp_path, stored(array), put(array, 2, 0))
    assert [v.where for v in found.violations] == ["tensor 'w'"]
    assert "a value changed" in str(found.violations[0])


def test_equal_models_are_equal(small_file: pathlib.Path) -> None:
    assert compare_bytes(small_file, small_file) == ByteComparison((), ())


CHANGES: dict[str, tuple[Callable[[onnx.ModelProto], object], str]] = {
    "producer": (lambda m: setattr(m, "producer_name", "other"), "producer_name differs"),
    "node": (lambda m: setattr(m.graph.node[1], "op_type", "Gemm"), "graph.node[1].op_type differs"),
    "node gone": (lambda m: m.graph.node.pop(), "number of graph.node (5 before, 4 after)"),
    "metadata": (lambda m: m.metadata_props.add(key="other", value="1"), "number of metadata_props"),
    "initializer gone": (lambda m: m.graph.initializer.pop(), "tensor 'weight': is missing"),
    "initializer first gone": (lambda m: m.graph.initializer.pop(0), "tensor 'bias': is missing"),
    "initializer added": (lambda m: m.graph.initializer.add(name="new", data_type=1), "tensor 'new': was added"),
    "dims": (lambda m: m.graph.initializer[1].dims.__setitem__(slice(None), [32, 16]), "initializer[1].dims differs"),
    "type": (lambda m: setattr(m.graph.initializer[1], "data_type", 6), "initializer[1].data_type differs"),
    "doc": (lambda m: setattr(m.graph.initializer[1], "doc_string", "x"), "initializer[1].doc_string differs"),
    "renamed": (lambda m: setattr(m.graph.initializer[1], "name", "x"), "tensor 'weight': is missing"),
    "shape constant": (
        lambda m: m.graph.node[0].attribute[0].t.int64_data.__setitem__(1, 0),
        "a value changed (index 1: 32 became 0)",
    ),
    "opset": (lambda m: setattr(m.opset_import[0], "version", 18), "opset_import[0].version differs"),
    "function": (lambda m: setattr(m.functions[0], "name", "x"), "functions[0].name differs"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_whatever_else_changes_is_named(tmp_path: pathlib.Path, small_model: onnx.ModelProto, name: str) -> None:
    change, expected = CHANGES[name]
    found = compare(tmp_path, small_model, change)
    assert any(expected in str(violation) for violation in found.violations), found.violations


def test_our_metadata_is_left_out(tmp_path: pathlib.Path, small_model: onnx.ModelProto) -> None:
    small_model.metadata_props.add(key="oxiprune", value="the run before")
    small_model.metadata_props.add(key="author", value="me")

    def change(model: onnx.ModelProto) -> None:
        del model.metadata_props[0]
        model.metadata_props.add(key="oxiprune", value="this run")

    assert not compare(tmp_path, small_model, change).violations
    assert compare(tmp_path, small_model, lambda m: m.metadata_props.pop()).violations


def test_only_allowed_tensors_may_change(tmp_path: pathlib.Path, small_model: onnx.ModelProto) -> None:
    def change(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            array = numpy_helper.to_array(tensor).copy()
            array.flat[3] = 0
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    assert not compare(tmp_path, small_model, change).violations
    assert not compare(tmp_path, small_model, change, allowed=[BIAS, WEIGHT]).violations
    found = compare(tmp_path, small_model, change, allowed=[WEIGHT])
    assert [str(v) for v in found.violations] == [
        "tensor 'bias': a value changed that was to be left alone (index 3: 3.5 became 0.0)"
    ]


@pytest.mark.parametrize("kept", ["raw_data", "float_data"])
def test_values_encoded_in_another_field_are_compared_as_values(
    tmp_path: pathlib.Path, small_model: onnx.ModelProto, kept: str
) -> None:
    def change(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[1]
        array = numpy_helper.to_array(tensor).copy()
        array.flat[0] = 0
        tensor.CopyFrom(stored(array.ravel(), kept).graph.initializer[0])
        tensor.name = "weight"
        tensor.dims[:] = [16, 32]

    found = compare(tmp_path, small_model, change)
    assert found.newly_zero == 1
    assert not found.violations


def test_a_model_with_a_message_twice_is_compared_as_parsed(tmp_path: pathlib.Path) -> None:
    array = values(np.float32)
    model = stored(array)
    extra = onnx.ModelProto()
    extra.graph.initializer.append(numpy_helper.from_array(np.arange(200), "i"))
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    before.write_bytes(model.SerializeToString() + extra.SerializeToString())
    assert not ModelFile.open(before).regular
    whole = onnx.load(before)
    whole.metadata_props.add(key="oxiprune", value="x")
    put(array, 7, 0.0)(whole)
    found = compare_bytes(before, saved(after, whole))
    assert found.newly_zero == 1
    assert not found.violations
    whole.graph.initializer[1].raw_data = b"\1" * 1600
    assert [v.where for v in compare_bytes(before, saved(after, whole)).violations] == ["tensor 'i'"]
    whole.graph.name = "other"
    assert "graph.name differs" in str(compare_bytes(before, saved(after, whole)).violations[-1])


def pruned(before: pathlib.Path, output: pathlib.Path, path: Path = WEIGHT) -> pathlib.Path:
    """Set the first ten elements of a weight to zero, as pruning does."""
    with ModelCopy(ModelFile.open(before), output) as copy:
        copy.blocks(path).store(0, np.zeros(10, np.float32))
        copy.set_metadata("oxiprune", "{}")
        copy.commit()
    return output


@pytest.fixture
def external_pair(external_file: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path, pathlib.Path]:
    """Before, after, and the data file of after."""
    after = pruned(external_file, external_file.with_name("out.onnx"))
    return external_file, after, after.with_name("out.onnx.data")


def flip(path: pathlib.Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x41
    path.write_bytes(data)


def test_external_data_under_another_name(external_pair: tuple[pathlib.Path, ...]) -> None:
    found = compare_bytes(external_pair[0], external_pair[1])
    assert found.newly_zero == 10
    assert not found.violations
    assert compare_bytes(external_pair[0], external_pair[1], allowed=[]).violations


@pytest.mark.parametrize(
    ("offset", "expected"),
    [(3, "outside all tensors changed (index 3: 0x11"), (64 + 100, "index 25"), (64 + 2048 + 2, "index 2114: 0x22")],
)
def test_a_flipped_byte_of_external_data(external_pair: tuple[pathlib.Path, ...], offset: int, expected: str) -> None:
    flip(external_pair[2], offset)
    found = compare_bytes(external_pair[0], external_pair[1])
    assert len(found.violations) == 1
    assert expected in str(found.violations[0])


def test_external_data_of_another_size_or_place(external_pair: tuple[pathlib.Path, ...]) -> None:
    before, after, data = external_pair
    data.write_bytes(data.read_bytes() + b"x")
    assert "2122 bytes became 2123" in str(compare_bytes(before, after).violations[0])
    data.write_bytes(data.read_bytes()[:-1])
    model = onnx.load(after, load_external_data=False)
    for entry in model.graph.initializer[1].external_data:
        entry.value = "65" if entry.key == "offset" else entry.value
    saved(after, model)
    assert "external_data[1].value differs" in str(compare_bytes(before, after).violations)


def test_missing_external_data_is_an_error(external_pair: tuple[pathlib.Path, ...]) -> None:
    external_pair[2].unlink()
    with pytest.raises(InvalidExternalData):
        compare_bytes(external_pair[0], external_pair[1])


def test_tensors_that_share_bytes_of_a_data_file(tmp_path: pathlib.Path, external_file: pathlib.Path) -> None:
    model = onnx.load(external_file, load_external_data=False)
    twin = model.graph.initializer.add()
    twin.CopyFrom(model.graph.initializer[1])
    twin.name = "twin"
    saved(external_file, model)
    after = pruned(external_file, tmp_path / "out.onnx")
    found = compare_bytes(external_file, after)
    assert [(t.name, t.newly_zero) for t in found.zeroed] == [("weight", 10), ("twin", 10)]
    assert [v.where for v in compare_bytes(external_file, after, allowed=[WEIGHT]).violations] == ["tensor 'twin'"]


def test_every_flipped_byte_of_a_small_model_is_noticed(tmp_path: pathlib.Path, small_file: pathlib.Path) -> None:
    after = pruned(small_file, tmp_path / "after.onnx")
    data = after.read_bytes()
    entry = data.index(b"oxiprune") - 4
    offsets = random.Random(1).sample(range(entry), 400)
    for offset in offsets:
        after.write_bytes(data[:offset] + bytes([data[offset] ^ 0x55]) + data[offset + 1 :])
        try:
            assert compare_bytes(small_file, after).violations, offset
        except OnnxToolsError:
            continue


def test_values_that_do_not_fit_their_shape_must_be_equal(tmp_path: pathlib.Path) -> None:
    array = values(np.float32)
    model = stored(array)
    model.graph.initializer[0].dims[0] = 301
    assert not compare(tmp_path, model, lambda m: None).violations
    data = b"\0\0\0\0" + array.tobytes()[4:]
    found = compare(tmp_path, model, lambda m: setattr(m.graph.initializer[0], "raw_data", data))
    assert [v.where for v in found.violations] == ["tensor 'w'"]


def outcomes(report: VerificationReport) -> dict[str, str]:
    return {check.name: check.outcome for check in report.checks}


def detail(report: VerificationReport, name: str) -> str:
    return next(check.detail for check in report.checks if check.name == name)


def runnable(text: str, **arrays: NDArray[np.generic]) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g {text}')
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return model


MATMUL = "(float[N, 4] x) => (float[N, 3] y) { y = MatMul(x, w) }"
FIXED = "(float[2, 4] x, float[1] s) => (float[2, 3] y) { h = MatMul(x, w) y = Mul(h, s) }"


@pytest.fixture
def pair(tmp_path: pathlib.Path) -> Callable[..., tuple[pathlib.Path, pathlib.Path]]:
    """Makes a model with weight `w` (4, 3) and the same with its first row zero."""
    pytest.importorskip("onnxruntime")

    def make(text: str = MATMUL) -> tuple[pathlib.Path, pathlib.Path]:
        weight = np.arange(1, 13, dtype=np.float32).reshape(4, 3)
        less = weight.copy()
        less[0] = 0
        return (
            saved(tmp_path / "before.onnx", runnable(text, w=weight)),
            saved(tmp_path / "after.onnx", runnable(text, w=less)),
        )

    return make


def npz(folder: pathlib.Path, **arrays: NDArray[np.generic]) -> pathlib.Path:
    np.savez(folder / "data.npz", **arrays)
    return folder / "data.npz"


def test_all_checks_pass_and_the_drift_is_measured(pair: Callable[..., tuple[pathlib.Path, ...]]) -> None:
    before, after = pair()
    report = verify_files(before, after)
    assert outcomes(report) == {**dict.fromkeys(("bytes", "checker", "runtime"), "passed"), "drift": "measured"}
    assert detail(report, "drift").endswith("; no limit given (--max-drift)")
    assert "3 values in 1 tensors are newly zero" in detail(report, "bytes")
    assert report.drifts[0].relative_l2 > 0
    assert not report.failed
    assert verify_files(before, after) == report
    assert verify_files(before, after, seed=1) != report
    same = verify_files(before, before, max_drift=0).drifts[0]
    assert (same.relative_l2, same.max_abs, same.cosine) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("name", ["bias", "scale", "constant"])
def test_zeros_in_what_is_no_weight_fail(tmp_path: pathlib.Path, name: str) -> None:
    arrays = {"w": np.ones((4, 3), np.float32), "bias": values(np.float32, 3), "scale": values(np.float32, 3)}
    text = """(float[N, 4] x) => (float[N, 3] y)
        { k = Constant <value = float[3] {1, 2, 3}> () h = MatMul(x, w) b = Add(h, bias) c = Mul(b, k)
          y = LayerNormalization(c, scale) }"""
    before = runnable(text, **arrays)
    after = onnx.ModelProto()
    after.CopyFrom(before)
    tensors = {tensor.name: tensor for tensor in after.graph.initializer}
    tensors["constant"] = after.graph.node[0].attribute[0].t
    files = saved(tmp_path / "before.onnx", before), saved(tmp_path / "after.onnx", after)
    for zeroed, outcome in (("w", "passed"), (name, "failed")):
        tensors[zeroed].ClearField("float_data")
        tensors[zeroed].raw_data = bytes(4 * math.prod(tensors[zeroed].dims))
        saved(files[1], after)
        report = verify_files(*files, runtime=False)
        assert outcomes(report)["bytes"] == outcome
    assert ("tensor graph[0].node[0]" if name == "constant" else f"tensor '{name}'") in detail(report, "bytes")
    assert "a value changed that was to be left alone (index 0: 1.0 became 0.0)" in detail(report, "bytes")
    report = verify_files(*files, [path for path, _ in iter_tensors(before)], runtime=False)
    assert outcomes(report)["bytes"] == "passed"


def test_a_tensor_on_the_bytes_of_a_weight_changes_with_it(external_file: pathlib.Path) -> None:
    model = onnx.load(external_file, load_external_data=False)
    alias = model.graph.initializer.add()
    alias.CopyFrom(model.graph.initializer[1])
    alias.name = "alias"
    saved(external_file, model)
    report = verify_files(external_file, pruned(external_file, external_file.with_name("o.onnx")), runtime=False)
    assert outcomes(report)["bytes"] == "passed"


def test_drift_on_data_in_batches(tmp_path: pathlib.Path, pair: Callable[..., tuple[pathlib.Path, ...]]) -> None:
    before, after = pair()
    x = np.random.default_rng(3).standard_normal((150, 4)).astype(np.float32)
    weight = np.arange(1, 13, dtype=np.float64).reshape(4, 3)
    old, new = x @ weight, x[:, 1:] @ weight[1:]
    report = verify_files(before, after, data=npz(tmp_path, x=x))
    drift = report.drifts[0]
    assert "data.npz, 3 runs" in detail(report, "drift")
    assert drift.relative_l2 == pytest.approx(np.linalg.norm(new - old) / np.linalg.norm(old), rel=1e-5)
    assert drift.max_abs == pytest.approx(np.abs(new - old).max(), rel=1e-5)
    cosine = (old * new).sum() / np.linalg.norm(old) / np.linalg.norm(new)
    assert drift.cosine == pytest.approx(cosine, rel=1e-5)


@pytest.mark.parametrize(("limit", "outcome"), [(0.01, "failed"), (0.0, "failed"), (10.0, "passed")])
def test_drift_fails_only_against_a_limit(
    pair: Callable[..., tuple[pathlib.Path, ...]], limit: float, outcome: str
) -> None:
    report = verify_files(*pair(), max_drift=limit)
    assert outcomes(report)["drift"] == outcome
    assert report.failed == (outcome == "failed")


def test_a_fixed_batch_is_fed_in_slices(tmp_path: pathlib.Path, pair: Callable[..., tuple[pathlib.Path, ...]]) -> None:
    x, s = np.ones((10, 4), np.float32), np.full(1, 2, np.float32)
    report = verify_files(*pair(FIXED), data=npz(tmp_path, x=x, s=s))
    assert "5 runs" in detail(report, "drift")
    assert report.drifts[0].max_abs == 6.0


FLOATS = np.ones((6, 4), np.float32)
ONE = np.ones(1, np.float32)


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"x": FLOATS}, "no array for the input 's', which wants float32 of shape (1); there are: 'x'"),
        ({"x": FLOATS}, "np.savez('inputs.npz', x=array, s=array)"),
        ({"x": FLOATS.astype(np.float64), "s": ONE}, "'x' wants float32 of shape (2, 4), or more along a fixed first"),
        ({"x": FLOATS[:, :3], "s": ONE}, "the array is float32 of shape (6, 3)"),
        ({"x": FLOATS[:0], "s": ONE}, "the array for the input 'x' is empty"),
        ({"x": FLOATS[:5], "s": ONE}, "the array is float32 of shape (5, 4)"),
        ({"x": FLOATS[0], "s": ONE}, "the array is float32 of shape (4,)"),
        ({"x": FLOATS, "s": np.ones(2, np.float32)}, "different numbers of batches: [2, 3]"),
        ({"x": FLOATS, "s": np.array(["a"])}, "the array is str"),
        ({"x": FLOATS, "s": np.array([None])}, "not an .npz of plain arrays"),
    ],
)
def test_data_that_does_not_fit_names_the_input(
    tmp_path: pathlib.Path, pair: Callable[..., tuple[pathlib.Path, ...]], arrays: dict[str, object], expected: str
) -> None:
    with pytest.raises(InvalidOption) as error:
        verify_files(*pair(FIXED), data=npz(tmp_path, **arrays))
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_arrays_that_are_no_inputs_are_left_out(
    tmp_path: pathlib.Path, pair: Callable[..., tuple[pathlib.Path, ...]]
) -> None:
    report = verify_files(*pair(FIXED), data=npz(tmp_path, x=FLOATS, s=ONE, labels=np.arange(6)))
    assert outcomes(report)["drift"] == "measured"
    assert "data.npz, 3 runs" in detail(report, "drift")


def test_damaged_data_is_an_error(tmp_path: pathlib.Path, pair: Callable[..., tuple[pathlib.Path, ...]]) -> None:
    files = pair(FIXED)
    good = npz(tmp_path, x=FLOATS, s=ONE).read_bytes()
    data, chance = tmp_path / "bad.npz", random.Random(5)
    with pytest.raises(InvalidOption, match="cannot be read"):
        verify_files(*files, data=data)
    np.save(tmp_path / "single.npy", ONE)
    with pytest.raises(InvalidOption, match="a single array"):
        verify_files(*files, data=tmp_path / "single.npy")
    for _ in range(60):
        bad = bytearray(good[: chance.choice([len(good), chance.randrange(len(good))])])
        for _ in range(chance.randrange(4)):
            bad[chance.randrange(len(bad))] = chance.randrange(256) if bad else 0
        data.write_bytes(bad)
        with contextlib.suppress(PruningError):
            verify_files(*files, data=data)


def test_a_model_that_cannot_run_on_the_data(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("onnxruntime")
    path = saved(tmp_path / "m.onnx", runnable("(float[N] x, float[M] z) => (float[K] y) { y = Add(x, z) }"))
    with pytest.raises(InvalidOption, match="the model cannot run on it"):
        verify_files(path, path, data=npz(tmp_path, x=np.ones(2, np.float32), z=np.ones(3, np.float32)))


@pytest.mark.parametrize("limit", [-1.0, float("nan")])
def test_a_limit_that_is_none(small_file: pathlib.Path, limit: float) -> None:
    with pytest.raises(InvalidOption, match="max_drift"):
        verify_files(small_file, small_file, max_drift=limit)


def test_nan_at_equal_places_is_no_drift_and_elsewhere_is(
    tmp_path: pathlib.Path, pair: Callable[..., tuple[pathlib.Path, ...]]
) -> None:
    before, after = pair("(float[N, 4] x) => (float[N, 3] y) { h = MatMul(x, w) y = Log(h) }")
    x = np.full((2, 4), -1, np.float32)
    report = verify_files(before, after, data=npz(tmp_path, x=x), max_drift=0)
    assert report.drifts[0].relative_l2 is None
    assert "6 of 6 values are NaN or infinite, the same" in report.drifts[0].note
    assert outcomes(report)["drift"] == "failed"
    assert outcomes(verify_files(before, after, data=npz(tmp_path, x=x)))["drift"] == "warning"
    x[0] = [0, 1, 1, 1]
    report = verify_files(before, after, data=npz(tmp_path, x=x), max_drift=0)
    assert (report.drifts[0].relative_l2, report.drifts[0].max_abs) == (0.0, 0.0)
    assert "3 of 6 values are NaN or infinite, the same" in report.drifts[0].note
    assert outcomes(report)["drift"] == "passed"
    x[0] = [3, -0.1, -0.1, -0.1]  # positive only with the first row
    report = verify_files(before, after, data=npz(tmp_path, x=x), max_drift=1e9)
    assert "NaN or infinite" in report.drifts[0].note
    assert outcomes(report)["drift"] == "failed"


def test_outputs_of_another_shape_and_integers(
    tmp_path: pathlib.Path, pair: Callable[..., tuple[pathlib.Path, ...]]
) -> None:
    text = """(float[N, 4] x) => (int64[2, K] found, int64[N, 1] best)
        { h = MatMul(x, w) found = NonZero(h) best = ArgMax <axis = 1> (h) }"""
    x = np.zeros((2, 4), np.float32)
    x[:, 0] = 1
    report = verify_files(*pair(text), data=npz(tmp_path, x=x), max_drift=1.0)
    assert report.drifts[0].note == "its shape or structure differs: (2, 6) became (2, 0)"
    assert report.drifts[0].relative_l2 is None
    assert "2 of 2 values differ" in report.drifts[1].note
    assert outcomes(report)["drift"] == "failed"


def test_inputs_that_random_numbers_cannot_fill(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("onnxruntime")
    model = runnable("(string[N] x) => (string[N] y) { y = Identity(x) }")
    path = saved(tmp_path / "m.onnx", model)
    report = verify_files(path, path)
    assert outcomes(report)["drift"] == "warning"
    assert "could not run on random inputs: the input 'x' wants tensor(string)" in detail(report, "drift")
    report = verify_files(path, path, data=npz(tmp_path, x=np.array(["a", "b"])), max_drift=0)
    assert outcomes(report)["drift"] == "passed"
    assert report.drifts[0].note == "not numbers"


def test_random_inputs_try_larger_sizes(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("onnxruntime")
    weight = np.ones((1, 1, 20), np.float32)
    path = saved(tmp_path / "m.onnx", runnable("(float[N, 1, T] x) => (float[N, 1, U] y) { y = Conv(x, w) }", w=weight))
    assert outcomes(verify_files(path, path))["drift"] == "measured"


def test_an_output_that_onnxruntime_refuses_fails(pair: Callable[..., tuple[pathlib.Path, ...]]) -> None:
    before, after = pair()
    model = onnx.load(after)
    model.graph.node[0].op_type = "NoSuchOp"
    report = verify_files(before, saved(after, model))
    assert outcomes(report) == {"bytes": "failed", "checker": "failed", "runtime": "failed", "drift": "skipped"}
    assert all("\n" not in check.detail for check in report.checks)
    assert not verify_files(saved(before, model), after).failed, "neither loads: a warning"


def test_no_runtime(small_file: pathlib.Path) -> None:
    report = verify_files(small_file, small_file, runtime=False)
    assert outcomes(report) == {"bytes": "passed", "checker": "passed", "runtime": "skipped", "drift": "skipped"}


@pytest.mark.parametrize(("limit", "outcome"), [(None, "skipped"), (0.1, "failed")])
def test_onnxruntime_missing_is_a_warning_but_a_limit_is_not_kept(
    small_file: pathlib.Path, monkeypatch: pytest.MonkeyPatch, limit: float | None, outcome: str
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    report = verify_files(small_file, small_file, max_drift=limit)
    assert outcomes(report) == {"bytes": "passed", "checker": "passed", "runtime": "warning", "drift": outcome}
    missing = "onnxruntime is not installed (pip install 'oxiprune-gpu[run]')"
    assert detail(report, "runtime") == f"could not verify: {missing}"
    assert detail(report, "drift") == f"not measured: {missing}"


def test_importing_verify_does_not_import_onnxruntime() -> None:
    code = "import sys, onnx_tools.verify; sys.exit('onnxruntime' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("data", [b"", b"\xff" * 50, b"hello"])
def test_what_is_no_model_is_an_error(tmp_path: pathlib.Path, small_file: pathlib.Path, data: bytes) -> None:
    (tmp_path / "bad.onnx").write_bytes(data)
    with pytest.raises(InvalidModelFile):
        verify_files(small_file, tmp_path / "bad.onnx")


def corpus_model(name: str) -> pathlib.Path:
    root = os.environ.get("OXIPRUNE_CORPUS")
    if not root:
        pytest.skip("OXIPRUNE_CORPUS is not set: no corpus of real models")
    pytest.importorskip("onnxruntime")
    return pathlib.Path(root, "models", name, "model.onnx")


def zeroed_copy(source: pathlib.Path, output: pathlib.Path) -> pathlib.Path:
    """Zero the first elements of the largest float tensor."""
    model = ModelFile.open(source)
    sizes = {p: payload.length for p, payload in model.payloads.items() if tensor_at(model.skeleton, p).data_type == 1}
    return pruned(source, output, max(sizes, key=sizes.__getitem__))


def test_a_model_that_failed_the_checker_before() -> None:
    path = corpus_model("digits_resnet_fp16")
    report = verify_files(path, path)
    assert outcomes(report)["checker"] == "passed"
    assert "the input fails the" in detail(report, "checker")


def test_a_model_that_cannot_be_loaded(tmp_path: pathlib.Path) -> None:
    source = corpus_model("superres_ppp_customop")
    report = verify_files(source, zeroed_copy(source, tmp_path / "out.onnx"))
    assert outcomes(report)["runtime"] == "warning"
    assert "DecodeImage" in detail(report, "runtime")
    assert not report.failed


def test_a_sequence_of_maps_is_compared_number_by_number(tmp_path: pathlib.Path) -> None:
    source = corpus_model("skl_mlp_zipmap")
    report = verify_files(source, zeroed_copy(source, tmp_path / "out.onnx"))
    assert not report.failed
    probabilities = report.drifts[1]
    assert probabilities.relative_l2 is not None
    assert "a sequence or map" in probabilities.note


def test_zeros_in_every_real_model(tmp_path: pathlib.Path, corpus: list[pathlib.Path]) -> None:
    for path in corpus:
        if path.parent.name in {"digits_resnet_fp16", "digits_resnet_int8_qdq", "digits_resnet_ext"}:
            continue  # float32 payloads inside the file are what `zeroed_copy` can change
        found = compare_bytes(path, zeroed_copy(path, tmp_path / f"{path.parent.name}.onnx"))
        assert not found.violations, path
        assert found.newly_zero <= 10


def test_every_real_model_equals_itself(corpus: list[pathlib.Path]) -> None:
    pytest.importorskip("onnxruntime")
    for path in corpus:
        runs = path.parent.name != "superres_ppp_customop"  # whose operators onnxruntime does not have
        report = verify_files(path, path, max_drift=0 if runs else None)
        assert not report.failed, path
        assert "every byte is equal" in detail(report, "bytes")
