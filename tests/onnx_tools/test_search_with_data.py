"""Search and sensitivity with methods that look at data: biases that are moved, weights that are not seen."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from onnx_tools import DataMethod, NothingSelected, Selection
from onnx_tools.quality import read_quality
from onnx_tools.search.allocating import Curves, sensitivity_policy
from onnx_tools.search.options import Search
from onnx_tools.search.search import search_file
from onnx_tools.search.sensitivity import Sensitivity, measure_sensitivity
from onnx_tools.sensitivity_commands import sensitivity_text

EVERY_SIZE = Selection(min_elements=0)
X = np.random.default_rng(1).standard_normal((60, 8)).astype("f4")
IF = """y = If (c) <then_branch = t () => (m) { i = Tanh (r) m = MatMul (i, v) },
                    else_branch = e () => (n) { n = MatMul (r, v) }>"""


def written(path: pathlib.Path, last: str, more: str = "") -> pathlib.Path:
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[N, 8] x{more}) => (float[N, 4] y)'
        f" {{ h = MatMul (x, w) a = Add (h, b) r = Relu (a) {last} }}"
    )
    random = np.random.default_rng(2)
    for name, shape in {"w": (8, 40), "b": (40,), "v": (40, 4)}.items():
        values = random.standard_normal(shape).astype("f4") * (name != "b")
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    onnx.save(model, path)
    return path


def sensitivity(path: pathlib.Path, data: Any, selection: Selection = EVERY_SIZE, **words: Any) -> Any:
    method = DataMethod(data, "wanda", order="once", **words)
    return measure_sensitivity(
        path, Sensitivity(read_quality("drift", data, path), (0.5, 0.75), method=method, selection=selection)
    )


def test_biases_that_are_moved_are_no_weights_of_a_search(tmp_path):
    model = written(tmp_path / "m.onnx", "y = MatMul (r, v)")
    method = DataMethod({"x": X}, "wanda", repair=True, order="once")
    words: dict[str, Any] = {"allocations": ("uniform",), "selection": EVERY_SIZE, "resolution": 0.05}
    asked = Search(read_quality("cosine", {"x": X}, model), 0.05, method=method, **words)
    found = search_file(model, tmp_path / "out.onnx", asked)
    assert {each.name for each in found.weights} == {"w", "v"}
    kept = sum(each.kept for each in found.weights)
    assert found.trials[found.answer - 1].sparsity == pytest.approx(1 - kept / 480)


def test_zeros_of_biases_are_no_zeros_of_a_curve(tmp_path):
    curves = sensitivity(written(tmp_path / "m.onnx", "y = MatMul (r, v)"), {"x": X}, repair="batch-norm").curves
    assert [[point.zeros for point in curve.points] for curve in curves] == [[160, 240], [80, 120]]


def test_weights_that_are_not_seen_have_no_points(tmp_path):
    data = {"x": X, "c": np.array(True)}
    report = sensitivity(written(tmp_path / "m.onnx", IF, ", bool c"), data)
    assert [(curve.name, len(curve.points)) for curve in report.curves] == [("w", 2), ("v", 0)]
    assert "'v' was not measured" in report.warnings[0]
    assert "not seen from outside" in report.warnings[0]
    assert sensitivity_text(report).splitlines()[-1].split()[-2:] == ["-", "-"]
    rules = sensitivity_policy(Curves.of(report), 0.3).rules
    assert [(rule.sparsity, rule.prune) for rule in rules] == [(0.5, True), (None, False)]


def test_nothing_is_seen(tmp_path):
    data = {"x": X, "c": np.array(True)}
    with pytest.raises(NothingSelected, match="no selected weight was measured: 'v'"):
        sensitivity(written(tmp_path / "m.onnx", IF, ", bool c"), data, Selection(["v"], min_elements=0))
