"""Scopes, names, readers and paths of a model."""

from __future__ import annotations

import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper

from onnx_tools import graph_index
from onnx_tools.graph_index import GraphIndex, Node, Scope

NESTED = """
<ir_version: 8, opset_import: ["": 17]>
g (float[4] x, bool c) => (float[4] y)
<float[2] w = {1, 2}, float[2] v = {3, 4}>
{
  k = Constant <value = float[1] {5}> ()
  y = If (c) <
    then_branch = t () => (float[4] a) <float[2] w = {6, 7}> { a = Add(w, v) },
    else_branch = e () => (float[4] b) {
      i = Constant <value = float[1] {8}> ()
      b = If (c) <
        then_branch = tt () => (float[4] d) { d = Mul(i, w) },
        else_branch = ee () => (float[4] f) { f = Mul(k, missing) }
      >
    }
  >
  z = Relu(v)
}
"""


def parse(text: str) -> GraphIndex:
    return GraphIndex(onnx.parser.parse_model(text))


def node_of(index: GraphIndex, output: str) -> Node:
    return next(node for node in index.nodes if output in node.proto.output)


def at(model: onnx.ModelProto, path: graph_index.Path) -> object:
    """The message at a path."""
    message: object = model
    for name, i in path:
        part = getattr(message, name)
        message = part[i] if hasattr(part, "__len__") else part
    return message


def test_scopes_have_readable_labels() -> None:
    labels = [scope.label for scope in parse(NESTED).scopes]
    assert labels == [
        "",
        "y/then_branch",
        "y/else_branch",
        "y/else_branch/b/then_branch",
        "y/else_branch/b/else_branch",
    ]


def test_inner_names_shadow_outer_ones() -> None:
    index = parse(NESTED)
    inner, outer = node_of(index, "a").inputs
    assert inner is not None
    assert inner.tensor is index.tensors[3]
    assert outer is index.scopes[0].values["v"]


def test_names_are_captured_through_several_graphs() -> None:
    index = parse(NESTED)
    i, w = node_of(index, "d").inputs
    assert i is not None
    assert i.producer is node_of(index, "i")
    assert w is index.scopes[0].values["w"]


def test_an_unknown_name_resolves_to_nothing() -> None:
    assert node_of(parse(NESTED), "f").inputs[1] is None


def test_readers_are_found_in_every_scope() -> None:
    index = parse(NESTED)
    readers = index.scopes[0].values["v"].readers
    assert [(reader.node.label, reader.input_index) for reader in readers] == [("a", 1), ("z", 0)]


def test_every_path_leads_to_its_tensor() -> None:
    model = onnx.parser.parse_model(NESTED)
    index = GraphIndex(model)
    assert [tensor.path for tensor in index.tensors][:3] == [
        (("graph", 0), ("initializer", 0)),
        (("graph", 0), ("initializer", 1)),
        (("graph", 0), ("node", 0), ("attribute", 0), ("t", 0)),
    ]
    assert index.tensors[3].path == (("graph", 0), ("node", 1), ("attribute", 0), ("g", 0), ("initializer", 0))
    assert all(at(model, tensor.path) == tensor.proto for tensor in index.tensors)


def test_outputs_of_graphs_are_noted() -> None:
    index = parse(NESTED)
    assert [scope.label for scope in index.scopes[1].values["a"].output_of] == ["y/then_branch"]


def test_constants_spread_over_nodes_but_not_over_inputs_and_graphs() -> None:
    index = parse(NESTED)
    assert index.scopes[1].values["a"].constant
    values = index.scopes[0].values
    assert (values["w"].constant, values["z"].constant, values["x"].constant, values["y"].constant) == (1, 1, 0, 0)


def test_initializers_that_are_also_inputs_are_one_value() -> None:
    index = parse(
        '<ir_version: 3, opset_import: ["": 8]> g (float[2] x, float[2] w = {1, 2}) => (float[2] y) {y = Add(x, w)}'
    )
    value = index.scopes[0].values["w"]
    assert value.tensor is index.tensors[0]
    assert not value.duplicated
    assert not value.fed


def test_names_given_twice_are_marked() -> None:
    tensors = [helper.make_tensor("w", TensorProto.FLOAT, [1], [i]) for i in range(2)]
    index = GraphIndex(helper.make_model(helper.make_graph([], "g", [], [], tensors)))
    assert index.scopes[0].values["w"].duplicated
    assert len(index.tensors) == 2


def test_inputs_of_subgraphs_are_fed_by_their_node() -> None:
    body = helper.make_graph([], "b", [helper.make_tensor_value_info("i", TensorProto.FLOAT, [1])], [])
    node = helper.make_node("Loop", ["", "", "x"], ["y"], name="L", body=body)
    scope = GraphIndex(helper.make_model(helper.make_graph([node], "g", [], []))).scopes[1]
    assert (scope.label, scope.values["i"].fed) == ("L/body", True)


def test_subgraphs_in_a_list_have_their_paths() -> None:
    graphs = [helper.make_graph([], "a", [], [], [helper.make_tensor("w", TensorProto.FLOAT, [1], [0])]) for _ in "12"]
    node = helper.make_node("Many", [], ["y"], domain="my", bodies=graphs)
    index = GraphIndex(helper.make_model(helper.make_graph([node], "g", [], [])))
    assert [tensor.path[3:] for tensor in index.tensors] == [(("graphs", i), ("initializer", 0)) for i in range(2)]


def test_tensors_that_no_graph_reads_are_listed_with_their_place() -> None:
    function = helper.make_function(
        "my", "F", ["x"], ["y"],
        [helper.make_node("Constant", [], ["k"], value=helper.make_tensor("", 1, [1], [0])),
         helper.make_node("Add", ["x", "k"], ["y"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    values, indices = helper.make_tensor("s", 1, [1], [5]), helper.make_tensor("", 7, [1], [2])
    graph = helper.make_graph([], "g", [], [], sparse_initializer=[helper.make_sparse_tensor(values, indices, [4])])
    model = helper.make_model(graph, functions=[function])
    model.training_info.add().algorithm.initializer.append(helper.make_tensor("t", 1, [1], [0]))
    index = GraphIndex(model)
    places = [graph_index.SPARSE, graph_index.SPARSE, graph_index.FUNCTION, graph_index.TRAINING]
    assert [tensor.place for tensor in index.tensors] == places
    assert all(at(model, tensor.path) == tensor.proto for tensor in index.tensors)
    assert index.functions == {("my", "F")}


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (helper.make_tensor("s", TensorProto.INT64, [2], [3, -1]), (3, -1)),
        (helper.make_tensor("s", TensorProto.INT32, [2], [3, -1]), (3, -1)),
        (helper.make_tensor("s", TensorProto.INT64, [], [7]), (7,)),
        (helper.make_tensor("s", TensorProto.INT64, [2], b"\x03" + b"\0" * 15, raw=True), (3, 0)),
        (helper.make_tensor("s", TensorProto.INT64, [0], []), ()),
        (helper.make_tensor("s", TensorProto.FLOAT, [1], [1.0]), None),
        (TensorProto(name="s", data_type=TensorProto.INT64, dims=[40]), None),
        (TensorProto(name="s", data_type=TensorProto.INT64, dims=[-1]), None),
        (TensorProto(name="s", data_type=TensorProto.INT64, dims=[2], raw_data=b"123"), None),
        (TensorProto(name="s", data_type=TensorProto.INT64, dims=[1, 1], int64_data=[4]), None),
        (TensorProto(name="s", data_type=TensorProto.INT64, dims=[0], data_location=TensorProto.EXTERNAL), None),
    ],
)
def test_small_integers_are_read_or_missing(tensor: TensorProto, expected: tuple[int, ...] | None) -> None:
    graph = helper.make_graph([helper.make_node("Reshape", ["x", "s"], ["y"])], "g", [], [], [tensor])
    assert GraphIndex(helper.make_model(graph)).nodes[0].input_ints(1) == expected


def test_integers_of_a_constant_node_are_read() -> None:
    nodes = [helper.make_node("Constant", [], ["s"], value_ints=[2, 3]), helper.make_node("Reshape", ["x", "s"], ["y"])]
    assert GraphIndex(helper.make_model(helper.make_graph(nodes, "g", [], []))).nodes[1].input_ints(1) == (2, 3)


def test_a_cycle_is_indexed_and_never_constant() -> None:
    nodes = [helper.make_node("Add", ["w", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    graph = helper.make_graph(nodes, "g", [], [], [helper.make_tensor("w", TensorProto.FLOAT, [1], [0])])
    values = GraphIndex(helper.make_model(graph)).scopes[0].values
    assert [values[name].constant for name in "wab"] == [True, False, False]


def test_empty_names_define_nothing() -> None:
    nodes = [helper.make_node("Add", ["", ""], ["", ""]), onnx.NodeProto()]
    index = GraphIndex(helper.make_model(helper.make_graph(nodes, "g", [], [], [TensorProto()])))
    assert index.scopes[0].values == {}
    assert [node.label for node in index.nodes] == ["Add[0]", "[1]"]
    assert index.tensors[0].name == "initializer[0]"


def test_an_empty_model_has_an_empty_main_graph() -> None:
    index = GraphIndex(onnx.ModelProto())
    assert [scope.label for scope in index.scopes] == [""]
    assert index.tensors == []


def test_deep_nesting_does_not_recurse() -> None:
    model = onnx.ModelProto()
    graph = model.graph
    for _ in range(1500):
        node = graph.node.add(op_type="If")
        graph = node.attribute.add(name="b").g
    graph.initializer.add(name="w", data_type=1)
    assert len(GraphIndex(model).tensors) == 1


def test_a_scope_resolves_nothing_for_an_empty_name() -> None:
    assert Scope(onnx.GraphProto(), ()).resolve("") is None
