"""Models whose tensors get other values: what is written, what is proved, what is refused."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from onnx_tools import NothingSelected, Selection, VerificationFailed, prune_file, verify_files
from onnx_tools.model_file import ModelFile
from onnx_tools.new_values import NewTensor, NewValues
from onnx_tools.plan import make_plan
from onnx_tools.policy import Policy
from onnx_tools.report_parts import configuration
from oxiprune_gpu import InvalidOption, NonFiniteWeight, PruningConfig, ShapeMismatch

BODY = "h = MatMul(x, w) a = Add(h, b) r = Relu(a) y = MatMul(r, v)"
KEPT = np.array([[True, False, True], [True, True, False]])
VALUES = np.array([[1.5, 7, -0.0], [2, -3, 9]], np.float32)
AFTER = [[1.5, 0, 0], [2, -3, 0]]


def given(path, external: bool = False, dtype=np.float32):
    """Write the model; return its path."""
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 21]> g (float[N, 2] x) => (float[N, 2] y) {{ {BODY} }}'
    )
    tensors = {"w": np.arange(1, 7).reshape(2, 3), "b": np.array([1, 2, 3]), "v": np.arange(1, 7).reshape(3, 2)}
    model.graph.initializer.extend(numpy_helper.from_array(a.astype(dtype), name) for name, a in tensors.items())
    onnx.save_model(model, path, save_as_external_data=external, location="data.bin", size_threshold=0)
    return path


def new(path, **tensors: NewTensor) -> NewValues:
    """The plan of half of everything, and these tensors."""
    policy, selection = Policy.of(PruningConfig(0.5)), Selection(min_elements=0)
    plan = make_plan(ModelFile.open(path).skeleton, policy, selection)
    return NewValues(plan, tensors, configuration(policy, selection, None), {"v": "not observed"})


def tensor(values=None, kept=None) -> NewTensor:
    return NewTensor(None if kept is None else lambda: kept, None if values is None else lambda: values)


def read(path, name: str) -> np.ndarray:
    model = onnx.load(path)
    return numpy_helper.to_array(next(each for each in model.graph.initializer if each.name == name))


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("slab", [2, 1 << 20])
def test_values_and_zeros_are_written_and_the_rest_stays(tmp_path, monkeypatch, external, slab):
    monkeypatch.setattr("onnx_tools.new_values._SLAB", slab)
    model, output = given(tmp_path / "m.onnx", external), tmp_path / "out.onnx"
    bias = np.array([9, 2, -1], np.float32)
    report = prune_file(model, output, config=new(model, w=tensor(VALUES, KEPT), b=tensor(bias)))
    assert read(output, "w").tolist() == AFTER
    assert not np.signbit(read(output, "w")[0, 2])
    assert read(output, "b").tolist() == [9, 2, -1]
    assert read(output, "v").tobytes() == read(model, "v").tobytes()
    weights = {weight.name: (weight.pruned, weight.refitted, weight.nonzero_after) for weight in report.weights}
    assert weights == {"w": (2, 4, 3), "b": (0, 2, 3)}
    assert [(item.name, item.reason) for item in report.left_alone] == [("v", "not observed")]
    assert (
        "3 values became zero, 5 were refitted, every other byte is as it was" in report.verification.checks[0].detail
    )


def test_kept_elements_keep_their_bits_without_values(tmp_path):
    model, output = given(tmp_path / "m.onnx"), tmp_path / "out.onnx"
    report = prune_file(model, output, config=new(model, w=tensor(kept=KEPT)))
    assert read(output, "w").tolist() == [[1, 0, 3], [4, 5, 0]]
    assert report.weights[0].refitted == 0
    assert [check.outcome for check in verify_files(model, output, runtime=False).checks[:1]] == ["passed"]
    assert b"refitted" not in output.read_bytes()


def test_values_alone_are_a_change(tmp_path):
    model, output = given(tmp_path / "m.onnx"), tmp_path / "out.onnx"
    assert prune_file(model, output, config=new(model, w=tensor(VALUES + 1))).changed


def test_values_are_rounded_to_the_dtype_of_the_tensor(tmp_path):
    model, output = given(tmp_path / "m.onnx", dtype=ml_dtypes.bfloat16), tmp_path / "out.onnx"
    prune_file(model, output, config=new(model, w=tensor(np.full((2, 3), 1.003, np.float32))))
    assert set(read(output, "w").astype(np.float32).ravel().tolist()) == {1.0}


def test_verify_lets_only_the_named_tensors_change(tmp_path):
    model, output = given(tmp_path / "m.onnx"), tmp_path / "out.onnx"
    prune_file(model, output, config=new(model, w=tensor(VALUES, KEPT)))
    check = verify_files(model, output, runtime=False).checks[0]
    assert (check.outcome, "3 were refitted" in check.detail) == ("passed", True)
    assert check.detail.endswith("; that refitted values are right is not proven, only that they are finite: 'w'")
    changed = onnx.load(output)
    for each in changed.graph.initializer:
        if each.name == "v":
            each.raw_data = np.full((3, 2), 5, np.float32).tobytes()
    onnx.save(changed, output)
    assert verify_files(model, output, runtime=False).checks[0].outcome == "failed"


def test_verify_refuses_values_that_are_not_finite(tmp_path):
    model, output = given(tmp_path / "m.onnx"), tmp_path / "out.onnx"
    prune_file(model, output, config=new(model, w=tensor(VALUES, KEPT)))
    changed = onnx.load(output)
    next(each for each in changed.graph.initializer if each.name == "w").raw_data = np.full(6, np.nan, "f4").tobytes()
    onnx.save(changed, output)
    check = verify_files(model, output, runtime=False).checks[0]
    assert (check.outcome, "NaN or infinite" in check.detail) == ("failed", True)


@pytest.mark.parametrize(
    ("tensors", "error", "words"),
    [
        ({"nobody": tensor(VALUES)}, InvalidOption, "'nobody': the model stores no floats under this name"),
        ({"w": tensor(VALUES.T)}, ShapeMismatch, r"'w' have shape \[3, 2\], it has \[2, 3\]"),
        ({"w": tensor(np.full_like(VALUES, np.inf))}, NonFiniteWeight, "w"),
        ({"w": tensor(VALUES, KEPT.T)}, ShapeMismatch, "'w'"),
        ({}, NothingSelected, "not observed"),
    ],
)
def test_bad_values_are_refused_and_nothing_is_written(tmp_path, tensors, error, words):
    model, output = given(tmp_path / "m.onnx"), tmp_path / "out.onnx"
    with pytest.raises(error, match=words):
        prune_file(model, output, config=new(model, **tensors))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx"]


def test_quantised_weights_are_not_refitted(tmp_path):
    body = "d = DequantizeLinear(w, s) y = MatMul(x, d)"
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 21]> g (float[N, 2] x) => (float[N, 3] y) {{ {body} }}'
    )
    tensors = {"w": np.ones((2, 3), np.int8), "s": np.array(0.5, np.float32)}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in tensors.items())
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    with pytest.raises(InvalidOption, match="'w': it is quantised"):
        prune_file(path, tmp_path / "out.onnx", config=new(path, w=tensor(VALUES, KEPT)))


def test_a_verifier_that_finds_more_refuses(tmp_path):
    model, output = given(tmp_path / "m.onnx"), tmp_path / "out.onnx"

    def verify(before, after, allowed):
        return verify_files(before, after, allowed, runtime=True, max_drift=0.0)

    with pytest.raises(VerificationFailed, match="drift"):
        prune_file(model, output, config=new(model, w=tensor(VALUES, KEPT)), verify=verify)
    assert not output.exists()
