"""Weights that are passed to local functions, or lie in them."""

from __future__ import annotations

import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_tools import Selection, function_calls, prune_model
from onnx_tools.graph_index import GraphIndex
from onnx_tools.operators import UnitAxis
from onnx_tools.weights import FoundWeights, LeftAlone, Weight, find_weights
from oxiprune_gpu import PruningConfig
from tests.onnx_tools.test_graph_index import limits

HEADER = '<ir_version: 10, opset_import: ["": 20, "my": 1]> g (float[N] x) => (float[N] y)'
STORED = "<float[2, 3] w = {1, 2, 3, 4, 5, 6}, float[3, 2] v = {1, 2, 3, 4, 5, 6}>"


def model_of(body: str, *functions: str) -> onnx.ModelProto:
    texts = (f'<opset_import: ["": 20, "my": 1], domain: "my"> {function}' for function in functions)
    return onnx.parser.parse_model(f"{HEADER} {STORED} {{ {body} }} {' '.join(texts)}")


def found_in(body: str, *functions: str) -> dict[str, Weight | LeftAlone]:
    found = find_weights(model_of(body, *functions))
    items: list[Weight | LeftAlone] = [*found.weights, *found.left_alone]
    return {item.name: item for item in items}


def weight(name: str, body: str, *functions: str) -> Weight:
    found = found_in(body, *functions)[name]
    assert isinstance(found, Weight), found
    return found


def reason(name: str, body: str, *functions: str) -> str:
    found = found_in(body, *functions)[name]
    assert isinstance(found, LeftAlone), found
    return found.reason


LINEAR = "L (a, b) => (c) { t = Transpose(b) c = MatMul(a, t) }"
TRANSPOSABLE = "L <t> (a, b) => (c) { c = Gemm <transB: int = @t> (a, b) }"
BY_DEFAULT = "L <t: int = 1> (a, b) => (c) { c = Gemm <transB: int = @t> (a, b) }"


def test_a_weight_is_followed_into_the_function_that_it_is_passed_to() -> None:
    found = weight("w", "y = my.L(x, w)", LINEAR)
    assert (found.rows, found.columns) == (UnitAxis((2, 3), 0), UnitAxis((2, 3), 1))
    assert (found.op_types, found.consumers) == (("MatMul",), ("y/c",))


def test_each_call_gets_what_it_is_given() -> None:
    body = "a = my.L(x, w) y = my.L(a, v)"
    assert [weight(name, body, LINEAR).consumers for name in "wv"] == [("a/c",), ("y/c",)]


@pytest.mark.parametrize(
    ("body", "function", "rows"),
    [
        ("y = my.L <t = 1> (x, w)", TRANSPOSABLE, 0),
        ("y = my.L <t = 0> (x, w)", TRANSPOSABLE, 1),
        ("y = my.L(x, w)", TRANSPOSABLE, 1),
        ("y = my.L(x, w)", BY_DEFAULT, 0),
        ("y = my.L <t = 0> (x, w)", BY_DEFAULT, 1),
    ],
)
def test_attributes_are_those_of_the_call(body: str, function: str, rows: int) -> None:
    assert weight("w", body, function).rows == UnitAxis((2, 3), rows)


def test_attributes_go_through_several_calls() -> None:
    outer = "M <u> (a, b) => (c) { c = my.L <t: int = @u> (a, b) }"
    found = weight("w", "y = my.M <u = 1> (x, w)", outer, TRANSPOSABLE)
    assert (found.rows, found.consumers) == (UnitAxis((2, 3), 0), ("y/c/c",))


def test_an_attribute_of_the_call_that_the_function_does_not_have_is_not_seen() -> None:
    function = "L (a, b) => (c) { c = Gemm <transB: int = @t> (a, b) }"
    assert weight("w", "y = my.L <t = 1> (x, w)", function).rows == UnitAxis((2, 3), 1)


def test_what_a_function_hands_back_is_followed_outside() -> None:
    function = "T (b) => (c) { c = Transpose(b) }"
    found = weight("w", "t = my.T(w) y = MatMul(x, t)", function)
    assert (found.rows, found.consumers) == (UnitAxis((2, 3), 0), ("y",))


def test_calls_that_disagree() -> None:
    found = weight("w", "a = my.L <t = 1> (x, w) y = my.L <t = 0> (a, w)", TRANSPOSABLE)
    assert found.rows_missing == "consumers disagree on the output axis"


def test_a_weight_inside_a_function_is_one_weight_of_all_calls() -> None:
    function = "F (a) => (c) { k = Constant <value = float[2, 2] {1, 2, 3, 4}> () c = MatMul(a, k) }"
    found = weight("k", "a = my.F(x) y = my.F(a)", function)
    assert found.path == (("functions", 0), ("node", 0), ("attribute", 0), ("t", 0))
    assert (found.rows, found.consumers) == (UnitAxis((2, 2), 1), ("a/c", "y/c"))


def test_a_weight_inside_a_function_is_pruned_there() -> None:
    model = model_of(
        "y = my.F(x)", "F (a) => (c) { k = Constant <value = float[2, 2] {1, 4, 3, 2}> () c = MatMul(a, k) }"
    )
    prune_model(model, config=PruningConfig(0.5), selection=Selection(min_elements=0))
    (values,) = (attribute.t for attribute in model.functions[0].node[0].attribute)
    assert numpy_helper.to_array(values).tolist() == [[0, 4], [3, 0]]


def test_functions_are_named_where_names_are_taken_twice() -> None:
    functions = [
        f"{name} (a) => (c) {{ k = Constant <value = float[2, 2] {{1, 2, 3, 4}}> () c = MatMul(a, k) }}"
        for name in ("F", "G")
    ]
    assert {"F/k", "G/k"} <= found_in("a = my.F(x) y = my.G(a)", *functions).keys()


def test_stored_shapes_inside_a_function_are_read() -> None:
    function = "R (b) => (c) { s = Constant <value = int64[2] {3, 2}> () c = Reshape(b, s) }"
    assert weight("w", "t = my.R(w) y = MatMul(x, t)", function).rows == UnitAxis((3, 2), 1)


def test_subgraphs_of_functions_see_their_names_and_attributes() -> None:
    function = """
      L <t> (a, b, k) => (c) {
        c = If (k) <then_branch = p () => (d) { d = Gemm <transB: int = @t> (a, b) }, else_branch = q () => (a) {}>
      }
    """
    found = weight("w", "y = my.L <t = 1> (x, w, x)", function)
    assert (found.rows, found.consumers) == (UnitAxis((2, 3), 0), ("y/d",))


@pytest.mark.parametrize(
    ("functions", "expected"),
    [
        (["L (a, b) => (c) { c = my.L(a, b) }"], "passed to local function my L, whose calls never end"),
        (
            ["L (a, b) => (c) { c = my.M(a, b) }", "M (a, b) => (c) { c = my.L(a, b) }"],
            "passed to local function my L, whose calls never end",
        ),
        ([LINEAR, LINEAR], "passed to local function my L, which is defined twice"),
        (["L (a, b) => (c) { c = Relu(a) }"], "unused by any node"),
        (["L (a) => (c) { c = Relu(a) }"], "unused by any node"),
        (["L (a, b) => (b) { c = Relu(a) }"], "graph output"),
        (["L (a, b) => (c) { b = Relu(a) c = MatMul(a, b) }"], "unused by any node"),
        (["L (a, b) => (c) { c = Add(a, b) }"], "read only by Add (not a weight slot)"),
    ],
)
def test_reasons(functions: list[str], expected: str) -> None:
    assert reason("w", "y = my.L(x, w)", *functions) == expected


def test_an_overload_that_is_not_there() -> None:
    model = model_of("y = my.L(x, w)", LINEAR)
    model.graph.node[0].overload = "other"
    found = find_weights(model)
    assert found.left_alone[0].reason == "passed to local function my L, of which no such overload is defined"


def test_overloads_are_told_apart() -> None:
    model = model_of("y = my.L(x, w)", LINEAR, "L (a, b) => (c) { c = MatMul(a, b) }")
    model.functions[1].overload = model.graph.node[0].overload = "plain"
    assert find_weights(model).weights[0].rows == UnitAxis((2, 3), 1)


def test_a_function_that_is_not_called() -> None:
    function = "F (a) => (c) { k = Constant <value = float[2, 2] {1, 2, 3, 4}> () c = MatMul(a, k) }"
    assert reason("functions[0]/node[0]/attribute[0]", "y = Relu(x)", function) == (
        "inside a local function that no call reaches"
    )


def test_nodes_of_a_body_come_behind_the_call() -> None:
    index = GraphIndex(model_of("a = my.L(x, w) y = Relu(a)", LINEAR))
    assert [node.label for node in index.nodes] == ["a", "a/t", "a/c", "y"]


def chain(count: int, calls: int) -> onnx.ModelProto:
    """Each of `count` functions calls the next `calls` times; the last is a product."""
    model = model_of("y = my.F0(x, w)")
    for i in range(count):
        last = i == count - 1
        nodes = [
            helper.make_node("MatMul" if last else f"F{i + 1}", ["a", "b"], [f"c{k}"], domain="" if last else "my")
            for k in range(1 if last else calls)
        ]
        model.functions.append(helper.make_function("my", f"F{i}", ["a", "b"], ["c0"], nodes, []))
    return model


def test_ten_thousand_calls_inside_each_other() -> None:
    with limits():
        found = find_weights(chain(10_000, 1))
    assert [item.name for item in found.weights] == ["w"]
    assert found.weights[0].consumers[0].startswith("y/c0/c0/")


def test_calls_without_number_are_not_spelled_out() -> None:
    with limits():
        found = find_weights(chain(60, 2))
    assert reason_of(found) == "used in too many places: not yet covered"


def reason_of(found: FoundWeights) -> str:
    return next(item.reason for item in found.left_alone if item.name == "w")


def test_a_large_body_called_often_is_opened_as_far_as_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(function_calls, "MOST_PARTS", 20)
    body = " ".join(f"y{i} = my.L(x, w)" for i in range(5))
    assert reason("w", body, LINEAR) == (
        "weight of MatMul, but also passed to local function my L, which is one call of too many 'y2' and passed to "
        "local function my L, which is one call of too many 'y3' and passed to local function my L, which is one call "
        "of too many 'y4'"
    )


def test_many_calls_of_a_function_with_many_attributes() -> None:
    model = model_of(" ".join(f"y{i} = my.L(x, w)" for i in range(5000)), LINEAR)
    model.functions[0].attribute.extend(f"a{i}" for i in range(20_000))
    with limits():
        assert "which is one call of too many" in reason_of(find_weights(model))


def test_a_weight_that_is_a_thousand_states_of_a_loop() -> None:
    states = [f"s{i}" for i in range(20_000)]
    body = helper.make_graph(
        [helper.make_node("MatMul", [states[0], states[1]], ["m"])],
        "b",
        [onnx.ValueInfoProto(name=name) for name in ("i", "k", *states)],
        [onnx.ValueInfoProto(name=name) for name in ("k", *states)],
    )
    model = model_of("y = Relu(x)")
    model.graph.node.append(helper.make_node("Loop", ["", "", *["w"] * 20_000], ["z"], body=body))
    with limits():
        assert reason_of(find_weights(model)) == "used in too many places: not yet covered"


def test_many_functions_that_are_called_in_a_ring_take_no_time() -> None:
    model = model_of("y = my.F0(x, w)")
    for i in range(20_000):
        node = helper.make_node(f"F{(i + 1) % 20_000}", ["a", "b"], ["c"], domain="my")
        model.functions.append(helper.make_function("my", f"F{i}", ["a", "b"], ["c"], [node], []))
    with limits():
        assert reason_of(find_weights(model)) == "passed to local function my F0, whose calls never end"


def test_a_tensor_given_as_attribute_is_left_alone() -> None:
    model = model_of("y = my.F(x)", "F <k> (a) => (c) { t = Constant <value: tensor = @k> () c = MatMul(a, t) }")
    model.graph.node[0].attribute.append(
        helper.make_attribute("k", helper.make_tensor("k", TensorProto.FLOAT, [2, 2], [1, 2, 3, 4]))
    )
    found = {item.name: item.reason for item in find_weights(model).left_alone}
    assert found["y"] == "attribute 'k' of F"


def test_coefficients_whose_outputs_each_call_gives() -> None:
    function = "F <t> (a) => (c) { c = ai.onnx.ml.LinearRegressor <coefficients = [1.0, 2.0], targets: int = @t> (a) }"
    found = weight("c.coefficients", "a = my.F <t = 1> (x) y = my.F <t = 2> (a)", function)
    assert found.rows_missing == found.columns_missing == "its outputs are given by the caller"
