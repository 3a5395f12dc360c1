"""What a model's graphs are made of: scopes, nodes, the values that names stand for, and stored tensors.

Nothing here raises, whatever is in the model: what makes no sense is None. What is asked of a node again and again is
worked out once, and texts that are made of names are cut.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto

Path = tuple[tuple[str, int], ...]
"""Where a message lies in the protobuf: field names with the occurrence's index, from the model down."""

INITIALIZER = "initializer"
CONSTANT = "constant"
SPARSE = "sparse initializer"
ATTRIBUTE = "attribute"
LITERAL = "literal"
FUNCTION = "local function"
TRAINING = "training_info"

ENCODED = "oxiprune encoded weight: "
"""How the `doc_string` of the last node that rebuilds an encoded weight starts."""

_MOST_LETTERS = 200
_MOST_INTS = 256
_LONGEST_TEXT = 500


@dataclass(eq=False, repr=False)
class StoredTensor:
    """Data that the file holds. `place` is one of the constants above; `what` names the attribute for ATTRIBUTE.

    `value` is the name it is read by; None where nothing in a graph can read it by name. `copies`: the same for the
    second and further calls of the function that it lies in. `node`: whose attribute it is, if it is one. `zeros`:
    how many elements of a sparse tensor are not stored, None for its indices; None too for all that is not sparse.
    """

    name: str
    path: Path
    place: str
    shape: tuple[int, ...]
    data_type: int
    scope: Scope | None = None
    what: str = ""
    value: Value | None = None
    proto: TensorProto | None = None
    copies: list[Value] = field(default_factory=list)
    node: Node | None = None
    zeros: int | None = None

    @property
    def values(self) -> list[Value]:
        """All names it is read by."""
        return [*([] if self.value is None else [self.value]), *self.copies]

    @cached_property
    def ints(self) -> tuple[int, ...] | None:
        """The elements of a small tensor of integers; else None."""
        return None if self.proto is None else _small_ints(self.proto)


class Reader(NamedTuple):
    """A node that reads a value, and at which of its inputs."""

    node: Node
    input_index: int


@dataclass(eq=False, repr=False)
class Value:
    """A name of one scope. `duplicated`: defined twice there, so that nobody can say what it is.

    `constant`: computed from stored data only. `output_of`: scopes that return it. `fed`: an input of a subgraph,
    which gets its data from the node around it, or an overridable one of the model, for which a default is stored.
    `handed_to`: names in other scopes for the same data (results of a call, inputs of a subgraph).
    """

    name: str
    tensor: StoredTensor | None = None
    producer: Node | None = None
    readers: list[Reader] = field(default_factory=list)
    output_of: list[Scope] = field(default_factory=list)
    handed_to: list[Value] = field(default_factory=list)
    constant: bool = False
    duplicated: bool = False
    fed: bool = False


@dataclass(eq=False, repr=False)
class Scope:
    """A graph: the main one (`label` is ""), a subgraph (like "If_0/then_branch") or a function's body (its name).

    `owner`: the node that a subgraph belongs to. `call`: the node that calls the function. Inside a function, `given`:
    the attributes of the call by name, and `calls`: the calls that led here, in front of the labels of nodes.
    """

    graph: GraphProto | FunctionProto
    path: Path
    label: str = ""
    parent: Scope | None = None
    owner: Node | None = None
    call: Node | None = None
    calls: str = ""
    given: dict[str, AttributeProto] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)

    @cached_property
    def sparse_names(self) -> frozenset[str]:
        """The names of its sparse initializers."""
        sparse = () if isinstance(self.graph, FunctionProto) else self.graph.sparse_initializer
        return frozenset(text_of(each.values.name) for each in sparse)

    def resolve(self, name: str) -> Value | None:
        """The value that `name` means here: inner names shadow outer ones. None for "" and unknown names."""
        scope: Scope | None = self if name else None
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            scope = scope.parent
        return None


@dataclass(eq=False, repr=False)
class Node:
    """A node in its scope. `inputs` and `outputs` keep the positions; None stands for a missing or unknown name.

    `local`: it calls a function of the model itself, whatever operator of ONNX has the same name; `closed`: why its
    body was not looked into. `passed`: inputs whose data is looked for elsewhere, in a subgraph.
    """

    proto: NodeProto
    path: Path
    scope: Scope
    inputs: list[Value | None] = field(default_factory=list)
    outputs: list[Value | None] = field(default_factory=list)
    local: bool = False
    closed: str = ""
    passed: frozenset[int] = frozenset()

    @cached_property
    def op_type(self) -> str:
        """The operator's name, cut if nobody would read it."""
        return shortened(self.proto.op_type)

    @cached_property
    def domain(self) -> str:
        """The operator's domain, "" for ai.onnx."""
        return domain_of(self.proto.domain)

    @cached_property
    def own_label(self) -> str:
        """What a person finds it by in its graph: its name, else its first output, else its place. Cut if too long."""
        outputs = (name for name in self.proto.output if name)
        return shortened(self.proto.name or next(outputs, "")) or f"{self.op_type}[{self.path[-1][1]}]"

    @cached_property
    def label(self) -> str:
        """The same with the calls of functions that led here in front."""
        return shortened(self.scope.calls + self.own_label) if self.scope.calls else self.own_label

    @cached_property
    def ambiguous(self) -> bool:
        """Whether the name of an output is defined twice."""
        return any(output is not None and output.duplicated for output in self.outputs)

    @cached_property
    def constant(self) -> bool:
        """Whether what it gives is computed from stored data only."""
        return all(output is None or output.constant for output in self.outputs)

    @cached_property
    def attributes(self) -> dict[str, AttributeProto]:
        """By name; of those with one name the first. One that refers to the function's is what the call gives."""
        found = {attribute.name: attribute for attribute in reversed(self.proto.attribute)}
        given = self.scope.given
        meant = {name: given.get(a.ref_attr_name) if a.ref_attr_name else a for name, a in found.items()}
        return {name: attribute for name, attribute in meant.items() if attribute is not None}

    @property
    def ends_encoded(self) -> bool:
        """Whether it is the last of the nodes that rebuild an encoded weight."""
        return text_of(self.proto.doc_string).startswith(ENCODED)

    def int_attribute(self, name: str, default: int) -> int:
        """An integer attribute, or `default`."""
        attribute = self.attributes.get(name)
        return default if attribute is None else int(attribute.i)

    def text_attribute(self, name: str) -> str:
        """A text attribute; "" when absent, or longer than any that makes sense."""
        attribute = self.attributes.get(name)
        return "" if attribute is None or len(attribute.s) > _LONGEST_TEXT else text_of(attribute.s)

    def ints_attribute(self, name: str) -> tuple[int, ...] | None:
        """A list of integers given as attribute; None when absent. A very long one is cut: it fits no tensor."""
        attribute = self.attributes.get(name)
        return None if attribute is None else tuple(attribute.ints[: _MOST_INTS + 1])

    def ints(self, name: str, index: int) -> tuple[int, ...] | None:
        """A list of integers that older opsets give as attribute `name` and newer ones as input `index`."""
        given = self.ints_attribute(name)
        return self.input_ints(index) if given is None else given

    @property
    def is_constant(self) -> bool:
        """Whether it is ONNX's Constant."""
        return self.op_type == "Constant" and self.domain == "" and not self.local

    def has_input(self, index: int) -> bool:
        """Whether optional input `index` is given."""
        return index < len(self.proto.input) and self.proto.input[index] != ""

    def input_ints(self, index: int) -> tuple[int, ...] | None:
        """The elements of input `index` when it is a small constant of integers; else None."""
        value = self.inputs[index] if index < len(self.inputs) else None
        if value is None or value.duplicated or value.fed:
            return None
        if value.tensor is not None and value.tensor.proto is not None:
            return value.tensor.ints
        if value.producer is not None and value.producer.is_constant:
            one = value.producer.attributes.get("value_int")
            return value.producer.ints_attribute("value_ints") if one is None else (int(one.i),)
        return None

    def input_shape(self, index: int) -> tuple[int, ...] | None:
        """The shape of input `index` when it is stored data; else None."""
        value = self.inputs[index] if index < len(self.inputs) else None
        return value.tensor.shape if value is not None and value.tensor is not None else None


def element_count(shape: tuple[int, ...]) -> int:
    """Elements of a tensor of any shape, 0 with a negative size. Beyond 2^63 some number that is as impossible."""
    if min(shape, default=1) <= 0:
        return 0
    count = 1
    for size in shape:
        count *= size
        if count >= 1 << 63:
            break
    return count


def domain_of(given: str | bytes) -> str:
    """A domain, "" for ai.onnx."""
    domain = shortened(given)
    return "" if domain == "ai.onnx" else domain


def text_of(given: str | bytes) -> str:
    """A protobuf string for people: one that is not valid UTF-8 arrives as bytes."""
    return given.decode(errors="backslashreplace") if isinstance(given, bytes) else given


def shortened(given: str | bytes) -> str:
    """Text that is copied for all that a node holds; else a megabyte of name could become terabytes."""
    return text_of(given) if len(given) <= _MOST_LETTERS else f"{text_of(given[:_MOST_LETTERS])}..."


def _small_ints(tensor: TensorProto) -> tuple[int, ...] | None:
    """The elements of a small int32 or int64 tensor; None when they are not there or don't fit the shape."""
    kinds: dict[int, tuple[str, Any]] = {
        TensorProto.INT64: ("<i8", tensor.int64_data),
        TensorProto.INT32: ("<i4", tensor.int32_data),
    }
    if tensor.data_type not in kinds or len(tensor.dims) > 1 or tensor.data_location == TensorProto.EXTERNAL:
        return None
    width, values = kinds[tensor.data_type]
    count = tensor.dims[0] if tensor.dims else 1
    if count > _MOST_INTS:
        return None
    if len(tensor.raw_data) == count * np.dtype(width).itemsize:
        return tuple(int(v) for v in np.frombuffer(tensor.raw_data, width)) if count else ()
    return tuple(values) if len(values) == count else None
