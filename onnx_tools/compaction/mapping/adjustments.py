"""What in a node says how many channels there are, and must say another number when some have left.

Rules note these while they trace; `removal` carries them out.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx_tools.graph_parts import Node, Value


@dataclass(frozen=True, eq=False)
class Follows:
    """Input `index` of the node lists the sizes of `value`, axis by axis, from axis `first` on: -1 and 0 stay.

    The node is a Reshape, Expand or Resize, or the Concat that puts a computed shape together. The input is a small
    stored list of integers that others may read too. Where it says 1 for an axis of another size (Expand), 1 stays.
    """

    node: Node
    index: int
    value: Value
    first: int = 0


@dataclass(frozen=True, eq=False)
class Counts:
    """Integer attribute `name` is the size of `axis` of `value`, divided by `per` (groups, heads, hidden units)."""

    node: Node
    name: str
    value: Value
    axis: int
    per: int = 1


@dataclass(frozen=True, eq=False)
class Parts:
    """A Split: the sizes of its outputs along `axis`."""

    node: Node
    axis: int


@dataclass(frozen=True, eq=False)
class Bounds:
    """A Slice with step 1 along `axis` of its input: `starts` and `ends` count entries."""

    node: Node
    axis: int


@dataclass(frozen=True, eq=False)
class Picks:
    """A Gather by stored indices along `axis` of its input: they number entries, those of entries that left go too."""

    node: Node
    axis: int


Adjustment = Follows | Counts | Parts | Bounds | Picks
