"""What the body of a Loop, Scan or SequenceMap sees as its node was given it: the same data in every iteration.

A state of a loop is such data if the body hands it on unchanged, through Identity at most. Exporters pass weights so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from onnx_tools.graph_parts import Node, Scope, Value

_MOST_IDENTITIES = 16


class Unchanged(NamedTuple):
    """Input `place` of a node is `inside` in its body, and `after` when the node is done (None: not given back)."""

    place: int
    inside: Value
    after: Value | None


class _Row(NamedTuple):
    """Inputs of the node from `first` on are those of the body at the same places.

    `states`: input `first` comes back as this output of the body, which output 0 of the node gives; None: no input
    does. `sliced`: the attribute that says how many of the last inputs are given entry by entry.
    """

    first: int
    states: int | None
    sliced: str = ""


_ROWS = {"Loop": _Row(2, 1), "Scan": _Row(0, 0, "num_scan_inputs"), "SequenceMap": _Row(1, None)}


def unchanged_inputs(node: Node, body: Scope) -> Iterator[Unchanged]:
    """The inputs of `node` that are the same in every run of its `body`."""
    row = None if node.local or node.domain else _ROWS.get(node.op_type)
    count = len(node.proto.input)
    if row is None or len(body.graph.input) != count:  # Scan of opset 8 has one input more
        return
    outputs = [body.resolve(output.name) for output in body.graph.output]
    given = Counter(id(value) for value in outputs)
    stop = count - (node.int_attribute(row.sliced, 0) if row.sliced else 0)
    for i in range(row.first, min(stop, count)):
        inside = body.values.get(body.graph.input[i].name)
        if inside is None or inside.duplicated or inside.tensor is not None:
            continue
        if row.states is None:
            yield Unchanged(i, inside, None)
            continue
        at = i - row.first + row.states
        back = outputs[at] if at < len(outputs) else None
        if back is not None and given[id(back)] == 1 and _source(back) is inside:
            back.output_of = [scope for scope in back.output_of if scope is not body]
            out = node.outputs[i - row.first] if i - row.first < len(node.outputs) else None
            yield Unchanged(i, inside, out)


def _source(value: Value) -> Value | None:
    """What a value is a copy of."""
    for _ in range(_MOST_IDENTITIES):
        node = value.producer
        if node is None or value.duplicated or node.local or (node.domain, node.op_type) != ("", "Identity"):
            return value
        before = node.inputs[0] if node.inputs else None
        if before is None:
            return None
        value = before
    return None
