"""Scopes, names, readers and paths of a model."""

from __future__ import annotations

import contextlib
import pathlib
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType

import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper

from onnx_tools import graph_parts
from onnx_tools.graph_index import GraphIndex
from onnx_tools.graph_parts import Node, Scope, element_count

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


class TookTooLong(Exception):
    """What `limits` raises: no error of ours, so nothing holds it back."""


@contextlib.contextmanager
def limits(seconds: int = 20, gigabytes: float = 1.5) -> Iterator[None]:
    """Raise TookTooLong after `seconds`, and let no more memory be had than `gigabytes`, where the system can do so."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(seconds)
    try:
        with _memory_limit(int(gigabytes * 2**30)):
            yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TookTooLong


@contextlib.contextmanager
def _memory_limit(more: int) -> Iterator[None]:
    """No more than `more` bytes of address space beyond what the process has now."""
    status = pathlib.Path("/proc/self/statm")
    if sys.platform == "win32" or not status.exists():
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = int(status.read_text().split()[0]) * resource.getpagesize() + more
    known = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([wanted, *known]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_the_limits_end_what_hangs_and_what_grows() -> None:
    if not hasattr(signal, "SIGALRM") or not pathlib.Path("/proc/self/statm").exists():
        pytest.skip("this system has no SIGALRM or no /proc")
    with pytest.raises(TookTooLong), limits(seconds=1):
        time.sleep(30)
    with pytest.raises(MemoryError), limits(gigabytes=0.1):
        bytearray(2**30)
    assert len(bytearray(2**28)) == 2**28


def parse(text: str) -> GraphIndex:
    return GraphIndex(onnx.parser.parse_model(text))


def node_of(index: GraphIndex, output: str) -> Node:
    return next(node for node in index.nodes if output in node.proto.output)


def at(model: onnx.ModelProto, path: graph_parts.Path) -> object:
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
    places = [graph_parts.SPARSE, graph_parts.SPARSE, graph_parts.FUNCTION, graph_parts.TRAINING]
    assert [tensor.place for tensor in index.tensors] == places
    assert all(at(model, tensor.path) == tensor.proto for tensor in index.tensors)


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


def test_a_long_name_is_not_copied_for_each_thing_below_it() -> None:
    name = "n" * 300_000
    for node in (
        onnx.NodeProto(op_type="Foo", name=name),
        onnx.NodeProto(op_type="Foo", output=[name]),
        onnx.NodeProto(op_type=name),
        onnx.NodeProto(op_type="Foo"),
    ):
        by_attribute = name if not node.name and not node.output and node.op_type == "Foo" else "a"
        node.attribute.add(name=by_attribute).tensors.extend([TensorProto()] * 15_000)
        node.attribute.add(name=by_attribute).graphs.extend([onnx.GraphProto()] * 5_000)
        with limits():
            index = GraphIndex(helper.make_model(helper.make_graph([node], "g", [], [])))
        texts = [text for tensor in index.tensors for text in (tensor.name, tensor.what)]
        texts += [scope.label for scope in index.scopes]
        assert len(texts) == 35_001
        assert max(map(len, texts)) < 700


def test_labels_of_scopes_stay_short_in_each_other() -> None:
    model = onnx.ModelProto()
    graph = model.graph
    for _ in range(1000):
        graph = graph.node.add(op_type="If", name="n" * 150).attribute.add(name="b").g
    labels = [scope.label for scope in GraphIndex(model).scopes]
    assert labels[1] == f"{'n' * 150}/b"
    assert max(map(len, labels)) < 210


def test_attributes_are_not_searched_again_and_again() -> None:
    node = onnx.NodeProto(op_type="Split", input=["w"])
    node.attribute.extend([onnx.AttributeProto()] * 200_000)
    node.attribute.add(name="axis", i=1)
    node.attribute.add(name="axis", i=2)
    found = GraphIndex(helper.make_model(helper.make_graph([node], "g", [], []))).nodes[0]
    with limits():
        assert {found.int_attribute("axis", 0) for _ in range(20_000)} == {1}


def test_long_lists_of_integers_are_not_read() -> None:
    tensor = helper.make_tensor("s", TensorProto.INT64, [100_000], [1] * 100_000)
    node = onnx.NodeProto(op_type="Split", input=["x", "s"])
    node.attribute.add(name="split").ints.extend([1] * 100_000)
    found = GraphIndex(helper.make_model(helper.make_graph([node], "g", [], [], [tensor]))).nodes[0]
    assert found.input_ints(1) is None
    assert len(found.ints_attribute("split") or ()) == 257


@pytest.mark.parametrize(
    ("shape", "count"),
    [((), 1), ((3, 4), 12), ((0, 4), 0), ((2, -3), 0), ((-2, -3), 0), ((2**62, 2), 2**63), ((2**62, 0), 0)],
)
def test_elements_of_a_shape(shape: tuple[int, ...], count: int) -> None:
    assert element_count(shape) == count


def test_elements_of_an_impossible_shape_are_not_multiplied_out() -> None:
    assert 2**63 <= element_count((2**62,) * 100_000) < 2**200


def test_lists_of_floats_in_attributes_are_stored_data() -> None:
    nodes = [
        helper.make_node("LinearRegressor", ["x"], ["y"], "lin", coefficients=[1.0, 2.0], intercepts=[3.0]),
        helper.make_node("Constant", [], ["c"], value_floats=[1.0, 2.0]),
    ]
    tensors = GraphIndex(helper.make_model(helper.make_graph(nodes, "g", [], []))).tensors
    assert [(tensor.name, tensor.shape, tensor.place) for tensor in tensors] == [
        ("lin.coefficients", (2,), graph_parts.ATTRIBUTE),
        ("c", (2,), graph_parts.LITERAL),
    ]


def test_a_function_of_the_model_is_not_the_operator_of_its_name() -> None:
    function = helper.make_function("", "Constant", [], ["o"], [], [])
    node = helper.make_node("Constant", [], ["c"], value_ints=[1, 2])
    reader = helper.make_node("Reshape", ["x", "c"], ["y"])
    model = helper.make_model(helper.make_graph([node, reader], "g", [], []), functions=[function])
    index = GraphIndex(model)
    assert [each.local for each in index.nodes] == [True, False]
    assert index.nodes[1].input_ints(1) is None
