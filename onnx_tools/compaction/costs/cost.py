"""What each layer of a model costs: parameters, their bytes, and multiply-accumulates, before and after channels leave.

Sizes are those of shape inference. One that the model leaves open (a batch, a picture of any size) counts as 1, so that
MACs are those of one sample and one position; `--input-shape` says another. Nodes in the body of a Loop, in branches of
an If and in functions count once for each place where they are written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

from onnx_tools.compaction.costs.macs import Length, Term, input_of, multiplies_known, multiplies_unknown, terms_of
from onnx_tools.compaction.mapping.channel_map import ChannelMap, Remaining
from onnx_tools.compaction.mapping.factors import Size, factor_on
from onnx_tools.graph_index import GraphIndex
from onnx_tools.graph_parts import Node, Path, StoredTensor, element_count
from onnx_tools.model_file import bits_of_type

_MOST_STEPS = 64
"""Nodes that are looked at between a layer and its stored data."""


@dataclass(frozen=True)
class Cost:
    """`parameters`: stored elements that are read; `bytes` of them; `macs`: None where they are not known."""

    parameters: int
    bytes: int
    macs: int | None


@dataclass(frozen=True, eq=False)
class LayerCost:
    """A node that multiplies, or reads stored data that has channels. `tensors`: what it reads, also through constants.

    `terms`: products of sizes whose sum is its MACs; None where a shape is not known, or the operator has no formula.
    """

    channels: ChannelMap
    node: Node
    tensors: tuple[StoredTensor, ...]
    terms: tuple[Term, ...] | None

    @property
    def open(self) -> bool:
        """Whether a size besides that of axis 0, the batch, is not known and counts as 1."""
        lengths = (length for term in self.terms or () for length in term.lengths if length.axis > 0)
        return not all(isinstance(_size(self.channels, length), int) for length in lengths)

    def cost(self, remaining: Remaining | None = None) -> Cost:
        """What it costs; with `remaining`, after channels have left."""
        sizes = _Sizes(self.channels, remaining)
        return sizes.stored(self.tensors, None if self.terms is None else sum(map(sizes.product, self.terms)))


def layer_costs(channels: ChannelMap) -> list[LayerCost]:
    """The layers of a model, in model order: what multiplies, and what reads stored data with channels."""
    found = []
    for node in channels.index.nodes:
        if node.constant and node.outputs:
            continue
        tensors = tuple(_stored_behind(node))
        multiplies = multiplies_known(node) or multiplies_unknown(node)
        if multiplies or any(channels.of(value) for tensor in tensors for value in tensor.values):
            terms = terms_of(node, channels.shapes.of)
            found.append(LayerCost(channels, node, tensors, None if terms is None else tuple(terms)))
    return found


def open_inputs(channels: ChannelMap) -> tuple[str, ...]:
    """The sizes that the inputs of the model leave open, besides the batch, in words."""
    main = channels.index.scopes[0]
    given = [main.values[info.name] for info in main.graph.input if info.name in main.values]
    fed = [value for value in given if value.tensor is None]
    return tuple(
        f"axis {axis} of '{value.name}'" + (f" ({size})" if size else "")
        for value in fed
        for axis, size in enumerate(channels.shapes.of(value) or ())
        if axis and not isinstance(size, int)
    )


def positions(channels: ChannelMap) -> dict[Path, int]:
    """How many times each element of a weight is multiplied in one run, by the path of the stored tensor.

    A convolution multiplies each element of its kernel once for each position of its output, a matrix product once for
    each row that comes in; a weight that several nodes read has the sum. So the MACs of all products with weights are
    the sum of elements times positions, while the positions themselves lose no channels; products of two computed
    values (attention) have none. What is exact in all cases is `LayerCost.cost(remaining).macs`.
    """
    found: dict[Path, int] = {}
    sizes = _Sizes(channels, None)
    for layer in layer_costs(channels):
        for term in layer.terms or ():
            for tensor in _weights_in(layer.node, term):
                times = sizes.product(term) // max(element_count(tensor.shape), 1)
                found[tensor.path] = found.get(tensor.path, 0) + times
    return found


def total_cost(layers: Iterable[LayerCost], remaining: Remaining | None = None) -> Cost:
    """The sum over layers; a tensor that several of them read counts once. MACs: of those where they are known."""
    layers = list(layers)
    if not layers:
        return Cost(0, 0, 0)
    sizes = _Sizes(layers[0].channels, remaining)
    tensors = {id(tensor): tensor for layer in layers for tensor in layer.tensors}.values()
    macs = (layer.cost(remaining).macs for layer in layers)
    return sizes.stored(tensors, sum(each for each in macs if each is not None))


def stored_cost(index: GraphIndex) -> Cost:
    """Everything that a model stores, read or not, without MACs."""
    return _cost([(tensor, element_count(tensor.shape)) for tensor in index.tensors], None)


def stored_without(channels: ChannelMap, remaining: Remaining) -> Cost:
    """The same after channels have left; what else falls empty then is still counted."""
    return _Sizes(channels, remaining).stored(channels.index.tensors, None)


def _cost(counts: Sequence[tuple[StoredTensor, int]], macs: int | None) -> Cost:
    return Cost(sum(count for _, count in counts), sum(bytes_of(*each) for each in counts), macs)


def bytes_of(tensor: StoredTensor, elements: int) -> int:
    """What `elements` of its type take, rounded up to whole bytes; 0 where that is not known (texts)."""
    bits = 32 if tensor.proto is None else bits_of_type(tensor.proto)
    return -(-elements * (bits or 0) // 8)


@dataclass(frozen=True, eq=False)
class _Sizes:
    """Sizes of axes, open ones 1; with `remaining`, after channels have left."""

    channels: ChannelMap
    remaining: Remaining | None

    def product(self, term: Term) -> int:
        return prod(map(self._length, term.lengths))

    def _length(self, length: Length) -> int:
        left = {} if self.remaining is None else self.remaining.sizes(length.value)
        size = _size(self.channels, length)
        return left.get(length.axis, size if isinstance(size, int) else 1)

    def elements(self, tensor: StoredTensor) -> int:
        if self.remaining is None:
            return element_count(tensor.shape)
        left = {axis: size for value in tensor.values for axis, size in self.remaining.sizes(value).items()}
        return element_count(tuple(left.get(axis, size) for axis, size in enumerate(tensor.shape)))

    def stored(self, tensors: Iterable[StoredTensor], macs: int | None) -> Cost:
        return _cost([(tensor, self.elements(tensor)) for tensor in tensors], macs)


def _size(channels: ChannelMap, length: Length) -> Size:
    """The size of an axis; where shape inference does not know it, how many channels were followed there."""
    size = (channels.shapes.of(length.value) or ())[length.axis]
    factor = None if isinstance(size, int) else factor_on(channels.of(length.value), length.axis)
    return size if factor is None else factor.ids.shape[factor.axes.index(length.axis)]


def _stored_behind(node: Node) -> Iterator[StoredTensor]:
    """The stored tensors that a node reads, directly or computed from constants."""
    waiting = deque(value for value in node.inputs if value is not None and (value.constant or value.tensor))
    seen = {id(value) for value in waiting}
    while waiting and len(seen) <= _MOST_STEPS:
        value = waiting.popleft()
        if value.tensor is not None:
            yield value.tensor
        for behind in [] if value.producer is None else value.producer.inputs:
            if behind is not None and id(behind) not in seen:
                seen.add(id(behind))
                waiting.append(behind)


def _weights_in(node: Node, term: Term) -> Iterator[StoredTensor]:
    """The stored weights that a term multiplies, followed back along the data of constants."""
    for index in term.weights:
        value = input_of(node, index)
        for _ in range(_MOST_STEPS):
            if value is None or not value.constant or value.tensor is not None:
                break
            value = value.producer.inputs[0] if value.producer is not None and value.producer.inputs else None
        if value is not None and value.tensor is not None:
            yield value.tensor
