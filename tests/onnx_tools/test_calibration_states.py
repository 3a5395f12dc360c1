"""The inputs and hidden states that are observed, put through the recurrences by hand, give what onnxruntime gives."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from onnx_tools.calibration.observed import observe
from tests.onnx_tools.calibration_cases import products, rows_of, small, written

ort = pytest.importorskip("onnxruntime")

STEPS, BATCH, INPUTS, HIDDEN = 5, 3, 4, 2
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
CASES = [
    (op, direction, given, lengths)
    for op in GATES
    for direction in ("forward", "reverse", "bidirectional")
    for given in (False, True)
    for lengths in (False, True)
]


def model_of(op, direction, given, lengths, y="y"):
    """A model with all optional inputs, or with as few as there may be."""
    directions = 2 if direction == "bidirectional" else 1
    reset = ", linear_before_reset = 1" if op == "GRU" else ""
    inputs = f"x, w, r, , {'lengths' if lengths else ''}, {'start' if given else ''}"
    text = f'{op} <direction = "{direction}", hidden_size = {HIDDEN}{reset}> ({inputs})'
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> g (float[{STEPS}, {BATCH}, {INPUTS}] x) '
        f"=> (float {y or 'last'}) {{ {y or 'all'}, last = {text} }}"
    )
    if not y:
        model.graph.node[0].output[0] = ""
    stored = {
        "w": small((directions, GATES[op] * HIDDEN, INPUTS), 1) / 8,
        "r": small((directions, GATES[op] * HIDDEN, HIDDEN), 2) / 8,
        **({"lengths": np.array([5, 3, 0], np.int32)} if lengths else {}),
        **({"start": small((directions, BATCH, HIDDEN), 3) / 8} if given else {}),
    }
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in stored.items())
    return model, stored


def sigmoid(value):
    return 1 / (1 + np.exp(-value))


def hidden_after(op, from_inputs, from_hidden, before, cell):
    """The hidden state and the cell after one step, from what the matrices give, gate by gate (ONNX's equations)."""
    if op == "RNN":
        return np.tanh(from_inputs + from_hidden), cell
    inputs, hidden = np.split(from_inputs, GATES[op], -1), np.split(from_hidden, GATES[op], -1)
    if op == "GRU":
        update, reset = sigmoid(inputs[0] + hidden[0]), sigmoid(inputs[1] + hidden[1])
        return (1 - update) * np.tanh(inputs[2] + reset * hidden[2]) + update * before, cell
    both = [a + b for a, b in zip(inputs, hidden, strict=True)]
    cell = sigmoid(both[2]) * cell + sigmoid(both[0]) * np.tanh(both[3])
    return sigmoid(both[1]) * np.tanh(cell), cell


@pytest.mark.parametrize(("op", "direction", "given", "lengths"), CASES)
def test_states(tmp_path, op, direction, given, lengths):
    model, stored = model_of(op, direction, given, lengths)
    feed = {"x": small((STEPS, BATCH, INPUTS), 4)}
    (y,) = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(["y"], feed)
    seen = {weight.weight.name: weight for weight in observe(model).weights}
    file = written(model, tmp_path)
    rows = {name: rows_of(file, seen[name], feed, 1 << 20) for name in ("w", "r")}
    parts = {name: products(rows[name], seen[name].view.matrices(stored[name])) for name in rows}
    last = np.array([5, 3, 0]) if lengths else np.full(BATCH, STEPS)
    lasting = np.arange(STEPS)[:, None] < last
    assert parts["w"].shape[1] == parts["r"].shape[1] == lasting.sum()
    for number, backward in enumerate({"forward": [0], "reverse": [1]}.get(direction, [0, 1])):
        spread = {name: np.zeros((STEPS, BATCH, GATES[op] * HIDDEN)) for name in parts}
        before = np.zeros((STEPS, BATCH, HIDDEN))
        before[lasting] = rows["r"][number]
        for name, part in parts.items():
            spread[name][lasting] = part[number]
        cell = np.zeros((BATCH, HIDDEN))
        for step in reversed(range(STEPS)) if backward else range(STEPS):
            found, after = hidden_after(op, spread["w"][step], spread["r"][step], before[step], cell)
            cell = np.where(lasting[step][:, None], after, cell)
            assert np.allclose(found[lasting[step]], y[step, number][lasting[step]], atol=1e-5)


def test_states_that_the_model_does_not_give(tmp_path):
    """Y has no name in the model; it gets one where it is looked at."""
    (named, _), (unnamed, _) = model_of("GRU", "forward", True, False), model_of("GRU", "forward", True, False, y="")
    feed = {"x": small((STEPS, BATCH, INPUTS), 4)}
    found = [
        rows_of(written(model, tmp_path), {each.weight.name: each for each in observe(model).weights}["r"], feed)
        for model in (named, unnamed)
    ]
    assert np.array_equal(*found)


def test_a_reset_in_front_of_the_product_is_not_seen():
    model, _ = model_of("GRU", "forward", False, False)
    model.graph.node[0].attribute[-1].i = 0
    assert model.graph.node[0].attribute[-1].name == "linear_before_reset"
    found = observe(model)
    assert [each.weight.name for each in found.weights] == ["w"]
    assert [(each.name, "reset gate" in each.reason) for each in found.unobserved] == [("r", True)]
